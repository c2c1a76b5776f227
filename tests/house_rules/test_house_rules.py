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
    "on_demand",
    "printable",
    "choices",
    "numeric",
    "reading",
    "files",
    "sheets",
    "shipped",
    "layers",
    "tokens",
    "plain_text",
    "flow",
    "modalities",
    "tasks",
    "controls",
    "diffuser",
    "sampling",
    "records",
    "pipeline",
    "applications",
    "data",
    "interop",
    "training",
    "evaluation",
    "recipes",
    "serving",
    "cli",
    "train",
    "ui",
    "serve",
)
# `from_official` is a constructor of the pipeline by contract; it reaches up only when it is called.
# `versatile ui` and `versatile serve --ui` open the studio, which uses the records and options of the command line.
UPWARD = {("pipeline/pipeline.py", "interop"), ("cli/verbs/ui.py", "ui"), ("cli/verbs/serve.py", "ui")}
# Where a modality may be named: where each is made, and where the thing itself is of two of them.
ROOMS = (
    "modalities/",  # where they are made
    "tasks.py",  # the five named tasks, and the null contexts of two releases
    "pipeline/task_methods.py",  # the same as methods
    "interop/",  # names in published files
    *(f"data/{name}.py" for name in ("rules", "select", "shards", "sources", "listing", "looks", "encoder")),
    # ... sets of images with captions, as LAION, WebDataset and folders of people have them
    "recipes/",  # sets of images with captions, and the models trained on them
    *(f"training/{name}.py" for name in ("diffuser/plan", "parts/text_codec")),
    *(f"evaluation/{name}.py" for name in ("recognition", "own_data", "measures", "evaluate")),
    *(f"evaluation/{name}.py" for name in ("baselines", "ensemble", "networks", "report", "markdown")),
    # ... measured on that set, whose items are pictures with captions; baselines are text-to-image models
    *(f"applications/{name}.py" for name in ("colours", "disentangle", "joint", "round_trip")),
    "serving/api/",  # OpenAI's API, which is defined on images and texts
    "cli/verbs/edit.py",
    *(f"ui/forms/{name}.py" for name in ("applications", "compare", "joint")),
    # ... applications of the paper and of its demo, each defined on pictures and texts
)

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
    below = {"version", "reading", "layers"} if mine == "layers" else set(LAYERS[: LAYERS.index(mine) + 1])
    for module, line in imports_of(name, text):
        if layer_of(module) not in below and (name, layer_of(module)) not in UPWARD:
            yield f"line {line} imports {module}"


def named_modality(name: str, text: str) -> Iterator[str]:
    """A modality by name in a comparison, as a key of a table, or by the type of its values."""
    if name.startswith(ROOMS):
        return
    for node in ast.walk(ast.parse(text)):
        for part in _decisive(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value in MODALITIES:
                yield f"line {part.lineno} names {part.value!r}"
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "isinstance"
            and "Image" in ast.unparse(node.args[1])
        ):
            yield f"line {node.lineno} tells an image by its type"


def _decisive(node: ast.AST) -> Iterator[ast.AST]:
    """What a node decides by."""
    if isinstance(node, ast.Compare):
        yield from ast.walk(node)
    elif isinstance(node, ast.match_case):
        yield from ast.walk(node.pattern)
    elif isinstance(node, ast.Dict):
        yield from (key for key in node.keys if key is not None)
    elif isinstance(node, ast.Subscript):
        yield node.slice


def unfinished(name: str, text: str) -> Iterator[str]:
    yield from UNFINISHED.findall(text)


def long_quote(name: str, text: str) -> Iterator[str]:
    """Values in messages go through `printable.shown`, which is short whatever they are."""
    if name in ("printable.py", "__init__.py"):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FormattedValue) and node.conversion == ord("r"):
            yield f"line {node.lineno} quotes a value by !r"


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
    named_modality: ("cli/io/results.py", "suffix = {'text': '.txt'}.get(data, '.png')\n"),
    unfinished: ("flow.py", "raise " + "NotImplemented" + "Error\n"),
    long_quote: ("flow.py", "f'it is {value!r}'\n"),
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
    own |= {"data", "cases"}  # fixtures, and tests of the package of that name; cases met elsewhere
    assert folders - own - {name.split("/")[0] for name in FILES if "/" in name} == set()


@pytest.mark.parametrize(
    "text",
    [
        "if stream == 'text': pass",
        "codec = bank['image']",
        "isinstance(value, Image.Image)",
        "match m:\n case 'text': pass",
    ],
)
def test_a_modality_is_not_named(text: str) -> None:
    assert list(named_modality("diffuser/unet.py", text))
    assert not list(named_modality("modalities/image/__init__.py", text))


def test_no_test_waits_for_a_process_for_ever() -> None:
    """`with Popen(...)` waits for its process when an assertion fails; `processes.process` ends it."""
    files = [path for path in TESTS.rglob("*.py") if "cases" not in path.parts]
    assert [path.name for path in files if re.search(r"^\s*with (subprocess\.)?Popen\(", path.read_text(), re.M)] == []
