"""Names: a class has one that no other class has."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping

from tests.house_rules.test_house_rules import FILES


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
