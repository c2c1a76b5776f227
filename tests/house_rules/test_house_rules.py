"""How the code is kept: sizes, the direction of imports, and rooms outside of which no modality is known by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import versatile_diffusion
from versatile_diffusion.modalities import MODALITIES

ROOT = Path(versatile_diffusion.__file__).parent
PACKAGE = ROOT.name
FILES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
TESTS = Path(__file__).parents[1]

FILE_LINES, FUNCTION_LINES, FORWARD_LINES = 400, 60, 40

# What a package may import stands before it; `docs/architecture.md` has the same list.
LAYERS = (
    "version",
    "choices",
    "shipped",
    "layers",
    "tokens",
    "flow",
    "tasks",
    "modalities",
    "diffuser",
    "sampling",
    "applications",
    "data",
    "interop",
    "training",
    "evaluation",
    "cli",
    "train",
    "ui",
    "serve",
)
# `from_official` is a constructor of the pipeline by contract; it reaches up only when it is called.
# `versatile ui` opens the studio, which uses the records and options of the command line.
UPWARD = {("sampling/pipeline.py", "interop"), ("cli/ui.py", "ui")}
# Rooms in which a modality may be asked for by name: where each is made, and where people or files name it.
ROOMS = ("modalities/", "tasks.py", "interop/", "cli/", "ui/", "serve/", "data/", "training/", "evaluation/")

ENTRANCES = {"__init__", "__main__", "train"}
DRAWERS = {"utils", "util", "common", "helpers", "misc"}
Rule = Callable[[str, str], Iterator[str]]
"""Name and text of a file to what is wrong with it."""
UNFINISHED = re.compile(r"\b(NotImplementedError|TODO|FIXME|XXX|HACK)\b")


def long_file(name: str, text: str) -> Iterator[str]:
    if (length := len(text.splitlines())) > FILE_LINES:
        yield f"{length} lines"


def long_function(name: str, text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > (FORWARD_LINES if node.name == "forward" else FUNCTION_LINES):
                yield f"{node.name} has {length} lines"


def upward_import(name: str, text: str) -> Iterator[str]:
    mine = layer_of(name)
    if mine in ENTRANCES:
        return
    if mine not in LAYERS:
        yield f"{mine} has no place in the list of layers"
        return
    below = {"version", "layers"} if mine == "layers" else set(LAYERS[: LAYERS.index(mine) + 1])
    for module, line in imports_of(name, text):
        if layer_of(module) not in below and (name, layer_of(module)) not in UPWARD:
            yield f"line {line} imports {module}"


def branch_on_a_modality(name: str, text: str) -> Iterator[str]:
    if name.startswith(ROOMS):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare | ast.match_case):
            for part in ast.walk(node.pattern if isinstance(node, ast.match_case) else node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value in MODALITIES:
                    yield f"line {part.lineno} branches on {part.value!r}"


def unfinished(name: str, text: str) -> Iterator[str]:
    yield from UNFINISHED.findall(text)


def drawer(name: str, text: str) -> Iterator[str]:
    yield from DRAWERS & set(name.removesuffix(".py").split("/"))


def layer_of(name: str) -> str:
    """First part of a path below the package, or of a dotted module."""
    return name.removesuffix(".py").replace("/", ".").split(".")[0]


def imports_of(name: str, text: str) -> Iterator[tuple[str, int]]:
    """Modules of ours imported at run time, anywhere in the file: dotted, below the package, with the line."""
    tree = ast.parse(text)
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
    unbound = {line for n in blocks for line in range(n.lineno, (n.end_lineno or n.lineno) + 1)}
    folders = [PACKAGE, *name.removesuffix(".py").split("/")]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom) or node.lineno in unbound:
            continue
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            start = ".".join(folders[: -node.level]) if node.level else ""
            module = ".".join(part for part in (start, node.module) if part)
            modules = [f"{PACKAGE}.{alias.name}" for alias in node.names] if module == PACKAGE else [module]
        for module in modules:
            if module.startswith(f"{PACKAGE}."):
                ours = module.removeprefix(f"{PACKAGE}.")
                yield versatile_diffusion._HOMES.get(ours, module).removeprefix(f"{PACKAGE}."), node.lineno


RULES: dict[Rule, tuple[str, str]] = {  # each with a file that breaks it
    long_file: ("flow.py", "\n" * (FILE_LINES + 1)),
    long_function: ("flow.py", "def forward():\n" + "    pass\n" * FORWARD_LINES),
    upward_import: ("layers/conv.py", "def late():\n    from ..diffuser.unet import MultiFlowUNet\n"),
    branch_on_a_modality: ("diffuser/unet.py", "width = 4 if stream == 'text' else 1\n"),
    unfinished: ("flow.py", "raise " + "NotImplemented" + "Error\n"),
    drawer: ("sampling/utils.py", ""),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no(rule: Rule) -> None:
    broken = {name: found for name, text in FILES.items() if (found := list(rule(name, text)))}
    assert broken == {}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_can_be_broken(rule: Rule) -> None:
    assert list(rule(*RULES[rule]))


def test_imports_through_the_top_of_the_package_are_followed() -> None:
    assert list(imports_of("sampling/seeds.py", "from versatile_diffusion import Context\n")) == [
        ("diffuser.context", 1)
    ]


def test_tests_mirror_the_tree() -> None:
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and not path.name.startswith(("_", "."))}
    own = {"conformance", "parity", "golden", "house_rules", "examples"}
    own |= {"data"}  # fixtures, and tests of the package of that name
    assert folders - own - {name.split("/")[0] for name in FILES if "/" in name} == set()
