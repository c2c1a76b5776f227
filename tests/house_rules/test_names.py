"""Names of classes and functions, and how many arguments a function takes."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import pytest

from tests.house_rules.test_house_rules import FILES

MOST_ARGUMENTS = 8
PUBLIC = {
    ("pipeline/pipeline.py", "generate"),
    ("pipeline/hub.py", "push_to_hub"),
    ("applications/round_trip.py", "edit"),
}
"""Methods of tasks and applications as people call them; an editor completes what they list."""

PARTICIPLE = re.compile(
    r"_*([a-z]+ed|[a-z]{3,}ing|begun|bound|bought|broken|brought|built|caught|chosen|done|drawn|driven|fallen|fed|found"
    "|frozen|given|gone|held|hidden|kept|known|led|left|lost|made|met|paid|said|sent|shown|sought|spent|spoilt|spoken"
    "|swept|taken|taught|thrown|told|worn|written)"
)
VERBS = frozenset({"embed", "exceed", "feed", "need", "proceed", "seed", "speed", "succeed", "bring", "string"})
"""Words of that form which are imperatives or nouns."""
AS_ADJECTIVES = frozenset({"shown", "chosen", "guided"})
"""Read as the adjective of their argument wherever they stand: a `shown` value in a message, a `chosen` name, a
`guided` network."""


def double_classes(files: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names that several classes have, with their files."""
    homes = defaultdict(list)
    for name, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(name)
    return {name: places for name, places in homes.items() if len(places) > 1}


def test_no_two_classes_have_one_name() -> None:
    assert double_classes(FILES) == {}


def test_a_double_class_is_found() -> None:
    late = "def f():\n    class Plan: ...\n"
    assert double_classes({"a.py": "class Plan: ...\n", "b.py": late}) == {"Plan": ["a.py", "b.py"]}


def many_arguments(name: str, text: str) -> Iterator[str]:
    """Yield functions with many arguments. Commands list their options, and constructors of saved modules the fields of
    their configuration file."""
    path = PurePosixPath(name)
    command = path.stem.removeprefix("data_") if path.match("cli/verbs/*") else None
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name == command:
            continue
        named = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = (
            len([one for one in named if one not in ("self", "cls")]) + bool(node.args.vararg) + bool(node.args.kwarg)
        )
        saved = any(ast.unparse(one) == "register_to_config" for one in node.decorator_list)
        if count > MOST_ARGUMENTS and not saved and (name, node.name) not in PUBLIC:
            yield f"line {node.lineno}: {node.name} has {count} arguments"


def test_no_function_has_many_arguments() -> None:
    assert {name: found for name, text in FILES.items() if (found := list(many_arguments(name, text)))} == {}


def test_many_arguments_are_found() -> None:
    text = "async def f(self, a, b, c, /, d, e, *, f, g, h, **more): ...\n"
    assert list(many_arguments("a.py", text)) == ["line 1: f has 9 arguments"]
    assert not list(many_arguments("cli/verbs/data_f.py", text))
    assert not list(many_arguments("a.py", f"@register_to_config\n{text}"))
    assert list(many_arguments("cli/verbs/other.py", text))


def bare_participles(text: str) -> Iterator[str]:
    """Yield functions of a module that are named by a participle alone. Context managers may be (`with reading(file)`),
    and so may methods and nested functions, which stand beside the noun that they belong to."""
    for node in ast.parse(text).body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        word, manages = node.name.strip("_"), any("contextmanager" in ast.unparse(one) for one in node.decorator_list)
        bare = PARTICIPLE.fullmatch(node.name) is not None and word not in VERBS
        if bare and not manages and word not in AS_ADJECTIVES:
            yield f"line {node.lineno}: {node.name}"


def test_functions_are_not_named_by_a_participle_alone() -> None:
    assert {name: found for name, text in FILES.items() if (found := list(bare_participles(text)))} == {}


@pytest.mark.parametrize("name", ["told", "_counted", "merging", "injected"])
def test_a_bare_participle_is_found(name: str) -> None:
    assert list(bare_participles(f"def {name}(): ...\n"))
    assert not list(bare_participles(f"@contextmanager\ndef {name}(): ...\nclass A:\n    def {name}(self): ...\n"))
    assert not list(bare_participles(f"def {name}_items(): ...\n"))
