"""What only some systems have is imported where it is used, after a check, so that the package imports on all."""

from __future__ import annotations

import ast

from tests.house_rules.test_house_rules import FILES

POSIX = {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty"}


def at_import(tree: ast.Module) -> set[str]:
    """Names of the modules that a module imports when it is imported."""
    return {
        name.split(".")[0]
        for node in tree.body
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }


def test_modules_of_posix_are_not_imported_with_the_package() -> None:
    found = {name: both for name, text in FILES.items() if (both := at_import(ast.parse(text)) & POSIX)}
    assert found == {}
    assert at_import(ast.parse("import fcntl\nfrom resource import getrusage")) <= POSIX


def test_calls_and_files_of_one_system_are_those_of_the_support_table() -> None:
    """docs/guides/platforms.md says where `/proc` is read, and that nothing forks."""
    assert [name for name, text in FILES.items() if "os.fork" in text] == []
    assert [name for name, text in FILES.items() if '"/proc' in text] == ["pipeline/precision.py"]
