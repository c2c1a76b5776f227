"""Prerequisites of `scripts/train_emoji.sh`, checked before hours of training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from versatile_diffusion.recipes.emoji.data.build import WORK, tool_versions
from versatile_diffusion.recipes.emoji.data.fetch import find_npm
from versatile_diffusion.recipes.emoji.data.manifest import FILE_NAME
from versatile_diffusion.recipes.emoji.data.sources import PACKAGES
from versatile_diffusion.recipes.emoji.imagenet import imagenet_file
from versatile_diffusion.training.parts.teacher import teacher_folder

TAUGHT = ("context-encoders", "image-context")
"""Runs that need the teacher."""


def list_missing(data: Path, runs: Path | None = None) -> list[str]:
    """List missing prerequisites, one sentence each.

    Args:
        data: data set folder, built if missing.
        runs: folder of the runs, if context encoders are trained; finished runs need nothing.
    """
    wanted: list[Callable[[], object]] = []
    if not (data / FILE_NAME).is_file():
        wanted += [tool_versions, lambda: find_npm(PACKAGES, data / WORK / "downloads")]
    if runs is not None and not all((runs / name / "export").is_dir() for name in TAUGHT):
        wanted.append(teacher_folder)
    if runs is None or not (runs / "judge" / "export").is_dir():
        wanted.append(imagenet_file)
    found = []
    for check in wanted:
        try:
            check()
        except ValueError as error:
            found.append(str(error))
    return found


def main() -> int:
    """Report what is missing for training the emoji model; exit code 2 if anything is."""
    parser = argparse.ArgumentParser(prog="python -m versatile_diffusion.recipes.emoji.needs", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data set folder")
    parser.add_argument("--runs", type=Path, help="folder of the runs, if context encoders are trained")
    given = parser.parse_args()
    found = list_missing(given.data, given.runs)
    for sentence in found:
        print(f"error: {sentence}", file=sys.stderr)
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main())
