"""What the judge is worth: what it recognises of real images, what a codec costs it, and what it refuses.

    python benchmarks/judge.py --judge runs/emoji/judge/export --data data/emoji

Real images are those of pair-test, which it has not learnt from. The ways to spoil an image that its training has are
in `recipes/emoji/spoilt.py`; it has never seen the others here: a swirl, and what the codec makes of latents that are
no image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from einops import rearrange
from PIL import Image
from torch import Tensor

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.evaluation.judge_network import PictureJudge
from versatile_diffusion.evaluation.networks import load_judge
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.recipes.emoji.data import EmojiSet
from versatile_diffusion.recipes.emoji.judge import accuracy, confusions, refusals

PART = 32


def swirled(images: np.ndarray, circles: float = 0.65) -> np.ndarray:
    """Turned about the middle by up to a part of a circle, less towards the border."""
    line = torch.linspace(-1, 1, images.shape[1])
    y, x = torch.meshgrid(line, line, indexing="ij")
    angle = 2 * torch.pi * circles * (1 - (x**2 + y**2).sqrt()).clamp(min=0)
    places = torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], dim=-1)
    ink = 1 - rearrange(torch.from_numpy(images).float() / 255, "n h w c -> n c h w")
    moved = 1 - F.grid_sample(ink, places.expand(len(images), -1, -1, -1), align_corners=True)
    return rearrange((255 * moved).round().byte().numpy(), "n c h w -> n h w c")


@torch.no_grad()
def decoded(codec: Any, images: np.ndarray, change: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Images encoded, their latents changed, and decoded."""
    parts = [images[start : start + PART] for start in range(0, len(images), PART)]
    given = [[MODALITIES["image"].check(image) for image in part] for part in parts]
    latents = torch.cat([codec.encode(part, None) for part in given])
    back = [image for part in change(latents).split(PART) for image in codec.decode(part, None)]
    return np.stack([np.asarray(image) for image in back])


def strange(codec: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Images in which nothing can be recognised, in ways that the judge was not trained on."""
    chance = torch.Generator().manual_seed(0)

    def noise(latents: Tensor) -> Tensor:
        return torch.randn(latents.shape, generator=chance) * latents.std() + latents.mean()

    def soft(latents: Tensor) -> Tensor:
        return F.interpolate(F.avg_pool2d(latents, 4), scale_factor=4, mode="bilinear")

    return {
        "swirled": swirled(images),
        "latents of noise": decoded(codec, images, noise),
        "latents with noise": decoded(codec, images, lambda latents: 0.5 * latents + 0.9 * noise(latents)),
        "mean of four latents": decoded(codec, images, lambda x: torch.stack([x.roll(k, 0) for k in range(4)]).mean(0)),
        "blurred latents": decoded(codec, images, soft),
        "white": np.full_like(images[:1], 255),
        "black": np.zeros_like(images[:1]),
    }


def rate(judge: PictureJudge, images: np.ndarray) -> float:
    return 100 * float(judge.judge(images).refused.float().mean())


def main(
    judge: Annotated[Path, typer.Option(help="Folder of the judge.")],
    data: Annotated[Path, typer.Option(help="The emoji set.")],
    model: Annotated[str, typer.Option(help="Whose codec is used.")] = "emoji",
    out: Annotated[Path | None, typer.Option(help="Write the numbers, and a sheet of what is refused.")] = None,
) -> None:
    """Print, and write, what the judge is worth."""
    known, real = load_judge(str(judge), torch.device("cpu")), EmojiSet.load(data, "pair-test")
    codec = VersatileDiffusionPipeline.from_pretrained(model).bank.codecs["image"]
    back = decoded(codec, real.pictures, lambda latents: latents)
    odd = strange(codec, real.pictures[::4])
    found: dict[str, Any] = {
        "images": len(real),
        "bytes": sum(file.stat().st_size for file in judge.glob("*.safetensors")),
        "real": accuracy(known, real),
        "codec": accuracy(known, replace(real, pictures=back)),
        "refused when spoilt": refusals(known, real, torch.device("cpu")),
        "refused, ways not trained on": {name: rate(known, images) for name, images in odd.items()},
        "confusions": confusions(known, real)[:30],
    }
    print(json.dumps(found, indent=1, ensure_ascii=False))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "judge.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _sheet([real.pictures[::4], back[::4], *(images for images in odd.values() if len(images) > 1)]).save(
            out / "judge.png"
        )


def _sheet(rows: Sequence[np.ndarray], columns: int = 16) -> Image.Image:
    return Image.fromarray(np.concatenate([np.concatenate(list(row[:columns]), axis=1) for row in rows]))


if __name__ == "__main__":
    typer.run(main)
