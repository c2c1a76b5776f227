"""What a GPU does with a diffuser of full size: one table of sampling, one of training. `benchmarks/gpu.sh` runs it.

Random weights; `--timed` steps are timed, and a whole run of 50 is their sum. MFU is the share of the GPU's products
(`--peak`, TFLOP/s; by its name if left out) that the training step comes to, its operations counted by torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from interleaved import in_turn, machine
from judging import write_table
from speed_networks import WIDTH, diffuser, guided_step, inputs, theirs
from torch.utils.flop_counter import FlopCounterMode

from versatile_diffusion import Context, MultiFlowUNet
from versatile_diffusion.interop.official import FULL_SIZE
from versatile_diffusion.pipeline.precision import dtype_of, suitable_dtype

STEPS = 50
PEAK = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "RTX 4090": 165, "V100": 125, "T4": 65}
"""TFLOP/s of dense products in half precision, from the makers' data sheets."""
FLOWS = (("image", "text"), ("image", "image"), ("text", "image"), ("text", "text"))
"""(data, context) of the paper's four."""
TOKENS = {"image": 257, "text": 77}


def peak_memory(device: torch.device) -> float | None:
    """GB since the last call; None where the device does not tell."""
    if device.type != "cuda":
        return None
    most = torch.cuda.max_memory_allocated(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return round(most, 2)


def sampling(unet: MultiFlowUNet, side: int, batches: list[int], timed: int, backend: str) -> dict[str, dict[str, Any]]:
    """Guided steps by batch: diffusers', ours, ours compiled. The compiled blocks come last and stay so."""
    other = theirs(unet, side)
    table: dict[str, dict[str, Any]] = {}
    for batch in batches:
        latent, tokens = inputs(unet, 2 * batch, side)
        cases: dict[str, Callable[[], Any]] = {
            "diffusers": lambda latent=latent, tokens=tokens: other(latent, 500, tokens),  # type: ignore[misc]
            "eager": guided_step(unet, latent, tokens),
        }
        measured(table, cases, batch, timed, unet.device)
    unet.compile_repeated_blocks(dynamic=True, backend=backend)
    for batch in batches:
        latent, tokens = inputs(unet, 2 * batch, side)
        measured(table, {"compiled": guided_step(unet, latent, tokens)}, batch, timed, unet.device)
    return table


def measured(
    table: dict[str, dict[str, Any]], cases: dict[str, Callable[[], Any]], batch: int, timed: int, device: torch.device
) -> None:
    """Adds a row for each case at a batch size; what does not fit in memory says so."""
    for name, case in cases.items():
        peak_memory(device)
        try:
            seconds = in_turn({name: case}, timed)[name]
        except torch.cuda.OutOfMemoryError:
            table[f"{name}, batch {batch}"] = {"images/s": "out of memory"}
            continue
        table[f"{name}, batch {batch}"] = {
            "step, ms": round(1000 * seconds, 1),
            f"{STEPS} steps, s": round(STEPS * seconds, 2),
            "images/s": round(batch / (STEPS * seconds), 3),
            "peak, GB": peak_memory(device),
        }


def training(width: int, side: int, batch: int, timed: int, device: torch.device, peak: float) -> dict[str, Any]:
    """Steps of AdamW over the four flows in one, weights in float32 and products in what suits the device."""
    unet = diffuser(["image", "text"], ["image", "text"], width).to(device).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-6, fused=device.type == "cuda")
    latents = {
        "image": torch.randn(batch, FULL_SIZE["image_channels"], side, side, device=device),
        "text": torch.randn(batch, FULL_SIZE["text_channels"], device=device),
    }
    wide = FULL_SIZE["context_dim"]
    tokens = {name: torch.randn(batch, count, wide, device=device) for name, count in TOKENS.items()}
    half = suitable_dtype(device) if device.type == "cuda" else torch.bfloat16

    def step() -> None:
        for data, context in FLOWS:
            with torch.autocast(device.type, half):
                predicted = unet(latents[data], 500, [Context(context, tokens[context])], data=data)
                loss = (predicted.float() - latents[data]).square().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    counter = FlopCounterMode(display=False)
    with counter:
        step()
    peak_memory(device)
    seconds = in_turn({"step": torch.enable_grad()(step)}, timed)["step"]
    return {
        "items/s": round(len(FLOWS) * batch / seconds, 2),
        "step, ms": round(1000 * seconds, 1),
        "TFLOP": round(counter.get_total_flops() / 1e12, 3),
        "MFU": round(counter.get_total_flops() / 1e12 / seconds / peak, 3),
        "peak, GB": peak_memory(device),
    }


def peak_of(device: torch.device) -> float:
    """TFLOP/s of a GPU; ValueError for one that is not in the table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found = next((peak for known, peak in PEAK.items() if known in name), None)
    if found is None:
        raise ValueError(f"the products of {name} in a second are not known here; give them by --peak TFLOPS")
    return found


def main(
    out: Annotated[Path, typer.Option(help="File for the numbers.")] = Path("out/gpu.json"),
    device: Annotated[str, typer.Option(help="cuda, or cpu to try it out.")] = "cuda",
    width: Annotated[int, typer.Option(help="Channels of the first level; 320 is full size.")] = WIDTH,
    side: Annotated[int, typer.Option(help="Of the images, in pixels.")] = 512,
    batches: Annotated[str, typer.Option(help="Batch sizes, divided by commas.")] = "1,4,16",
    timed: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 5,
    train_batch: Annotated[int, typer.Option(min=1, help="Items of each flow in a training step.")] = 8,
    dtype: Annotated[str, typer.Option(help="Of sampling.")] = "auto",
    backend: Annotated[str, typer.Option(help="Of torch.compile; eager to try it out.")] = "inductor",
    peak: Annotated[float | None, typer.Option(help="TFLOP/s of the GPU in half precision.")] = None,
) -> None:
    """Make the tables."""
    place = torch.device(device)
    most = peak_of(place) if peak is None else peak
    kind = suitable_dtype(place) if dtype == "auto" else dtype_of(dtype)
    unet = diffuser(["image"], ["image"], width, kind).to(place)
    table = sampling(unet, side // 8, [int(one) for one in batches.split(",")], timed, backend)
    del unet
    trained = {"four flows, one step": training(width, side // 8, train_batch, timed, place, most)}
    where = machine()
    said = f"width {width}, {side} pixels, {where['gpu'] or where['cpu']}, torch {where['versions']['torch']}"
    write_table("gpu-sampling", table, "sampling", f"{said}; {str(kind).removeprefix('torch.')}, guided.", None)
    write_table("gpu-training", trained, "training", f"{said}; {train_batch} items of each flow, AdamW.", None)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": where, "sampling": table, "training": trained}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
