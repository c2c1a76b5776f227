"""What int8 weights save and cost: torchao's weight-only int8 beside bfloat16, on a diffuser of random weights.

    pip install torchao
    python benchmarks/eight_bits.py [--width 320] [--side 256] [--json FILE] [--page docs/performance.md]

Of the diffusers of an image flow and of a text flow: gigabytes of the weights in both dtypes. Of a guided step of the
image flow (two items): seconds, taken in turn, and how far the outputs are apart.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from interleaved import in_turn, machine
from judging import write_table
from speed_networks import WIDTH, diffuser, guided_step, inputs

from versatile_diffusion.records.record import plain_parts

GIGA = 1e9
FLOWS = {"image-variation": ("image", "image"), "image-to-text": ("text", "image")}


def gigabytes(module: torch.nn.Module) -> float:
    held = (part for name, tensor in module.named_parameters() for _, part in plain_parts(name, tensor))
    return round(sum(part.nbytes for part in held) / GIGA, 2)


@torch.no_grad()
def main(
    width: Annotated[int, typer.Option(help="Channels of the first level; 320 is full size.")] = WIDTH,
    side: Annotated[int, typer.Option(help="Of the images, in pixels.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="How often each step is timed.")] = 3,
    to: Annotated[Path | None, typer.Option("--json", help="File for the numbers.")] = None,
    page: Annotated[Path | None, typer.Option(help="Page with a place for the table.")] = None,
) -> None:
    """Make the table."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    table: dict[str, dict[str, Any]] = {}
    for flow, (data, context) in FLOWS.items():
        half = diffuser([data], [context], width, torch.bfloat16)
        eight = copy.deepcopy(half)
        quantize_(eight, Int8WeightOnlyConfig())
        row: dict[str, Any] = {"bfloat16, GB": gigabytes(half), "int8, GB": gigabytes(eight)}
        if data == "image":
            given = inputs(half, 2, side // 8)
            runs = {"bfloat16": guided_step(half, *given), "int8": guided_step(eight, *given)}
            exact, rounded = (run().float() for run in runs.values())
            row["outputs apart"] = round(float((rounded - exact).norm() / exact.norm()), 3)
            row |= {f"{name}, s": round(seconds, 2) for name, seconds in in_turn(runs, rounds).items()}
        table[flow] = row
    where = machine()
    if to is not None:
        to.write_text(json.dumps({"machine": where, "table": table}, indent=1) + "\n", encoding="utf-8")
    known, cpu = "full size" if width == WIDTH else f"width {width}", f"{where['threads']} threads of {where['cpu']}"
    caption = f"The diffuser of a flow, {known}; a guided step at {side} pixels, {cpu}."
    write_table("eight-bits", table, "flow", caption, page)


if __name__ == "__main__":
    typer.run(main)
