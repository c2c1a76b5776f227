"""Packaging of finished runs as a model folder small enough to ship."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from versatile_diffusion.files import draft_of, write_json
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.reading import read_json
from versatile_diffusion.recipes.emoji.data.reader import EmojiSet
from versatile_diffusion.recipes.emoji.diffuser import DEFAULTS

LARGEST_FILE = 16_000_000
DROPPED_BITS = 4
"""Of the 10 bits of a float16's fraction: the diffuser keeps 7 significant bits, so that its files compress better."""


def ship(run: Path, data: Path, out: Path) -> VersatileDiffusionPipeline:
    """Write the pipeline exported by `run` to `out` in fp16, with the styles and vocabulary of `data` and the model's
    defaults.

    Raises:
        ValueError: a run without export, or a file above `LARGEST_FILE` bytes.
    """
    if not (run / "export").is_dir():
        raise ValueError(f"{run} contains no export; finish its training first")
    pipe = VersatileDiffusionPipeline.from_pretrained(run / "export")
    items = EmojiSet.load(data, "pair-val")
    styles = {name: phrases[0] for name, phrases in zip(items.style_names, items.style_phrases, strict=True)}
    words = EmojiSet.load(data, "train").vocabulary()
    settings: dict[str, Any] = {"styles": styles, "defaults": DEFAULTS, "vocabulary": words}
    pipe.register_to_config(**settings)
    fresh = draft_of(out)
    shutil.rmtree(fresh, ignore_errors=True)  # left by a failed call
    pipe.to(dtype=torch.float16)
    round_weights(pipe.unet)
    pipe.save_pretrained(fresh, max_shard_size=9 * LARGEST_FILE // 10)
    forget_paths(fresh)
    if large := [path.name for path in fresh.rglob("*") if path.is_file() and path.stat().st_size > LARGEST_FILE]:
        raise ValueError(f"{', '.join(large)} would be larger than {LARGEST_FILE:,} bytes; see {fresh}")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    return pipe


@torch.no_grad()
def round_weights(module: nn.Module) -> None:
    """Round float16 parameters to the nearest value with `DROPPED_BITS` fewer bits, in place."""
    for weight in module.parameters():
        bits = weight.data.view(torch.int16)  # a carry into the exponent is the next power of two, as it should be
        bits.add_(1 << (DROPPED_BITS - 1)).bitwise_and_(-(1 << DROPPED_BITS))


def forget_paths(folder: Path) -> None:
    """Remove the names of this machine's folders from the configurations of a model."""
    for file in folder.rglob("*.json"):
        config = read_json(file)
        if config.pop("_name_or_path", None) is not None:
            write_json(file, config)


def main() -> None:
    """Ship a finished run of the emoji model."""
    parser = argparse.ArgumentParser(prog="python -m versatile_diffusion.recipes.emoji.ship", description=main.__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the diffuser's run")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    ship(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
