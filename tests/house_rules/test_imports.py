"""No module of the package imports itself by way of others, not even inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from tests.house_rules.test_house_rules import FILES, PACKAGE, imports_of


def circle(files: Mapping[str, str]) -> Sequence[str]:
    """Return the modules of one import circle, the first one again at the end; empty if there is none."""
    names = {module_of(name): name for name in files}
    graph = {module: set(_edges(names[module], files[names[module]], names)) - {module} for module in names}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


def module_of(name: str) -> str:
    """Dotted name, below the package, of a file."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _edges(name: str, text: str, modules: Mapping[str, str]) -> Iterator[str]:
    """Yield the modules that a file imports: those named, and those taken from a folder (`from .a import module`)."""
    taken = {
        f"{node.module.removeprefix(PACKAGE).removeprefix('.')}.{alias.name}".lstrip(".")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE
        for alias in node.names
    }
    for module, _ in imports_of(name, text):
        inside = {one for one in taken if one in modules and one.rpartition(".")[0] == module}
        yield from inside or ({module} & modules.keys())


def test_there_is_no_import_circle() -> None:
    assert " -> ".join(circle(FILES)) == ""


def test_a_circle_is_found_inside_functions_and_through_folders_but_not_in_type_checking() -> None:
    top = f"from {PACKAGE}."
    first = {"data/a.py": f"{top}data.b import x\n"}
    late = {"data/b.py": f"def f():\n    {top}data.c import x\n"}
    assert list(circle({**first, **late, "data/c.py": ""})) == []
    found = circle({**first, **late, "data/c.py": f"{top}data import a\n", "data/__init__.py": ""})
    assert sorted(set(found)) == ["data.a", "data.b", "data.c"]
    types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
    assert list(circle({**first, **late, "data/c.py": f"{types}    {top}data.a import x\n"})) == []
