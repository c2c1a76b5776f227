"""What each preset of `--fast` saves, and what it changes.

    python benchmarks/fast.py [--width 320] [--side 256] [--judge FOLDER] [--json FILE] [--page docs/performance.md]

Time: one step of each kind that a run has (with and without guidance, with and without the deep stages), taken in turn
on a diffuser of random weights; a run of 50 steps is their sum. Change: images of the emoji model with the preset and
without it, same prompts and seeds; `other seed` says how far apart images are that share the prompt alone, and `match`
is the mean cosine of an image with its prompt by the model's own encoders. With a judge: what it names among its first
five in images of the fixed prompts (`recipes/emoji/prompts.py`), with several seeds. `--sheet` shows the images beside
each other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from interleaved import in_turn, machine
from judging import judged_prompts, write_table
from PIL import Image
from speed_networks import WIDTH, diffuser, guided_step, inputs

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.diffuser.deep import Deep
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.evaluation.networks import load_judge
from versatile_diffusion.recipes.emoji.prompt_sheet import counts
from versatile_diffusion.recipes.emoji.prompts import FIXED_PROMPTS
from versatile_diffusion.sampling.fast import FAST as PRESETS
from versatile_diffusion.sampling.fast import Fast
from versatile_diffusion.sampling.rules import acts
from versatile_diffusion.sheets import label_grid

FAST = {name: fast for name, fast in PRESETS.items() if not fast.distilled}
STEPS = 50
PROMPTS = ("a red apple", "a dog face", "a bus", "a birthday cake", "a frog", "a crying face")
Kind = tuple[bool, bool, int]
"""Of a step: whether it is guided, whether its deep stages run, below which level they are."""


def kinds(fast: Fast, steps: int = STEPS) -> list[Kind]:
    """The steps of a run; the first step without guidance after some with it, and the other way round, has nothing kept
    from the step before."""
    found: list[Kind] = []
    for step in range(steps):
        guided = acts(*fast.interval, step, steps)
        renews = step % fast.every == 0 or not found or found[-1][0] != guided
        found.append((guided, renews, fast.level if fast.every > 1 else 0))
    return found


def step_times(unet: MultiFlowUNet, side: int, rounds: int) -> dict[Kind, float]:
    """Seconds of a step of each kind that some preset has; side: of the latents."""
    wanted = sorted({kind for fast in FAST.values() for kind in kinds(fast)})
    runs = {guided: guided_step(unet, *inputs(unet, 2 if guided else 1, side)) for guided in (True, False)}
    cases = {}
    for guided, renews, level in wanted:
        deep = Deep(unet.plan, level)
        with torch.no_grad():
            runs[guided](deep=deep)
        deep.renew = renews
        cases[guided, renews, level] = lambda guided=guided, deep=deep: runs[guided](deep=deep)
    return in_turn(cases, rounds, warm=0)  # type: ignore[arg-type, return-value]


def made(pipe: VersatileDiffusionPipeline, fast: str, seed: int, steps: int) -> np.ndarray:
    """Images (n, h, w, 3), 0 to 255."""
    output = pipe.text_to_image(list(PROMPTS), seed=seed, num_inference_steps=steps, fast=fast)
    return np.stack([np.asarray(image, dtype=np.float32) for image in output.images])


def changes(pipe: VersatileDiffusionPipeline, steps: int, shown: Path | None = None) -> dict[str, dict[str, Any]]:
    """By preset (and for another seed), how far images are from those without it, and how well they match; `shown`:
    file for a sheet of them."""
    pipe.set_progress_bar_config(disable=True)
    words = pipe.encode_context(list(PROMPTS), "text")[:, 0]
    plain = made(pipe, "off", 0, steps)
    table, rows = {}, []
    for name, seed in [*((name, 0) for name in FAST), ("other seed", 1000)]:
        images = made(pipe, name if name in FAST else "off", seed, steps)
        tokens = pipe.encode_context([image.astype(np.uint8) for image in images], "image")[:, 0]
        table[name] = {
            "mean change (0-255)": round(float(np.abs(images - plain).mean()), 1),
            "match": round(float(torch.cosine_similarity(words, tokens).mean()), 3),
        }
        rows += [Image.fromarray(image.astype(np.uint8)) for image in images]
    if shown is not None:
        label_grid(rows, list(table), PROMPTS).save(shown, quality=85)
    return table


def recognised(pipe: VersatileDiffusionPipeline, judge: Path, seeds: int, steps: int) -> dict[str, dict[str, Any]]:
    """By preset, how many images of the fixed prompts the judge names first and among five, of all seeds together."""
    known, table = load_judge(str(judge), torch.device("cpu")), {}
    for name in FAST:
        found = {"first": 0, "among_five": 0}
        for seed in range(seeds):
            _, rows = judged_prompts(pipe, known, seed=seed, num_inference_steps=steps, fast=name)
            counted = counts(rows)
            found = {key: number + counted[key] for key, number in found.items()}
        table[name] = {
            key.replace("_", " "): f"{number} of {seeds * len(FIXED_PROMPTS)}" for key, number in found.items()
        }
    return table


def main(
    width: Annotated[int, typer.Option(help="Channels of the first level; 320 is full size.")] = WIDTH,
    side: Annotated[int, typer.Option(help="Of the images, in pixels.")] = 256,
    dtype: Annotated[str, typer.Option(help="Of the timed diffuser.")] = "bfloat16",
    rounds: Annotated[int, typer.Option(min=1, help="How often each step is timed.")] = 3,
    steps: Annotated[int, typer.Option(min=2, help="Of the emoji model's images.")] = 25,
    model: Annotated[str, typer.Option(help="Whose images are compared.")] = "emoji",
    judge: Annotated[Path | None, typer.Option(help="Folder of a judge that names what it sees.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Of the images that it judges.")] = 2,
    sheet: Annotated[Path | None, typer.Option(help="File for the images of all presets.")] = None,
    to: Annotated[Path | None, typer.Option("--json", help="File for the numbers.")] = None,
    page: Annotated[Path | None, typer.Option(help="Page with a place for the table.")] = None,
) -> None:
    """Make the table."""
    pipe = VersatileDiffusionPipeline.from_pretrained(model)
    table = changes(pipe, steps, sheet)
    for name, row in (recognised(pipe, judge, seeds, steps) if judge is not None else {}).items():
        table[name] |= row
    unet = diffuser(["image"], ["image"], width, getattr(torch, dtype))
    seconds = step_times(unet, side // 8, rounds)
    runs = {name: sum(seconds[kind] for kind in kinds(fast)) for name, fast in FAST.items()}
    for name, total in runs.items():
        table[name] |= {"time": round(total / runs["off"], 2), "seconds": round(total, 1)}
    where = machine()
    steps_said = {f"guided {g}, deep {d}": round(s, 3) for (g, d, _), s in seconds.items()}
    if to is not None:
        to.write_text(json.dumps({"machine": where, "step seconds": steps_said, "table": table}, indent=1) + "\n")
    size = "full size" if width == WIDTH else f"width {width}"
    write_table(
        "fast",
        table,
        "preset",
        f"Time: {STEPS} guided steps at {side} pixels, {size}, {dtype}, {where['threads']} threads of {where['cpu']}; "
        f"change: {len(PROMPTS)} images of the model `{model}`, {steps} steps.",
        page,
    )


if __name__ == "__main__":
    typer.run(main)
