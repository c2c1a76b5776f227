"""Writing or comparing a file that a script generates."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def write_or_check(file: Path, text: Callable[[], str], description: str | None, stale: str) -> None:
    """Write a generated file; with `--check` exit with an error if it differs.

    Args:
        file: the generated file.
        text: returns its content.
        description: help of the script.
        stale: what to say of an outdated file, after its name.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether it is as it should be")
    if parser.parse_args().check:
        sys.exit(0 if file.read_text(encoding="utf-8") == text() else f"{file} {stale}; run this script")
    file.write_text(text(), encoding="utf-8")
