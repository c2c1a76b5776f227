"""Puts the finished runs together into a model folder that is small enough to ship."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.data.emoji.reader import EmojiSet
from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.training.emoji import DEFAULTS, STAGE_FOLDERS

LARGEST_FILE = 16_000_000


def ship(run: Path, data: Path, out: Path) -> VersatileDiffusionPipeline:
    """Writes the pipeline that `run` exported as fp16 into `out`, with the styles of `data` and the model's defaults.

    Raises:
        ValueError: the run has no export, or a file would be larger than `LARGEST_FILE` bytes.
    """
    if not (run / "export").is_dir():
        raise ValueError(f"{run} holds no export: train it to its end first")
    pipe = VersatileDiffusionPipeline.from_pretrained(run / "export")
    items = EmojiSet.load(data, "pair-val")
    styles = {name: phrases[0] for name, phrases in zip(items.style_names, items.style_phrases, strict=True)}
    settings: dict[str, Any] = {"styles": styles, "defaults": DEFAULTS}
    pipe.register_to_config(**settings)
    fresh = out.with_name(f"{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)  # of a call that failed
    pipe.to(dtype=torch.float16).save_pretrained(fresh, max_shard_size=9 * LARGEST_FILE // 10)
    if large := [path.name for path in fresh.rglob("*") if path.is_file() and path.stat().st_size > LARGEST_FILE]:
        raise ValueError(f"{', '.join(large)} would be larger than {LARGEST_FILE:,} bytes; see {fresh}")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    return pipe


def main() -> None:
    """Ships the last stage of the emoji model."""
    parser = argparse.ArgumentParser(prog="python -m versatile_diffusion.training.ship", description=main.__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stage", choices=list(STAGE_FOLDERS), default="official")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    ship(given.runs / STAGE_FOLDERS[given.stage], given.data, given.out)


if __name__ == "__main__":
    main()
