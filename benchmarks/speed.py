"""How long ours takes beside diffusers with the same weights, taken in turn (A B A B) in one process: `make bench`.

    python benchmarks/speed.py [--width 320] [--side 256] [--json FILE] [--page docs/performance.md]

Every row is a share: seconds of ours over seconds of what it is compared with, medians. The diffusers have random
weights; the two of a row share their tensors, and their outputs are compared before they are timed.

* step: one guided step of the image network (two items) against diffusers' in the same dtype;
* step, auto: ours in the dtype that `--dtype auto` takes here, against diffusers' in float32, its default;
* text-to-image: whole pipelines on files of the tiny size, which differ in what is around the network;
* text flow: keys and values of the contexts computed once, against in every step as the original and diffusers do;
* captions: decoding many latents together against one after the other, by the emoji model's text codec.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from interleaved import in_turn, machine
from judging import write_table
from speed_networks import WIDTH, diffuser, guided_step, inputs, theirs

from versatile_diffusion import Context, VersatileDiffusionPipeline
from versatile_diffusion.interop.official import FULL_SIZE
from versatile_diffusion.pipeline.precision import suitable_dtype

Row = tuple[str, str, Callable[[], Any], str, Callable[[], Any]]
"""Name of the row, what is ours, and what it is compared with."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Relative, of two networks with the same weights."""


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def steps(width: int, side: int) -> Iterator[Row]:
    """The image network, in float32 and in what suits this machine."""
    unet = diffuser(["image"], ["image"], width)
    other = theirs(unet, side)
    latent, tokens = inputs(unet, 2, side)
    run = guided_step(unet, latent, tokens)

    def run_other() -> Any:
        return other(latent, 500, tokens).sample

    check_same(run, run_other, torch.float32)
    yield "step", "float32", run, "diffusers float32", run_other
    if (dtype := suitable_dtype("cpu")) != torch.float32:
        half = diffuser(["image"], ["image"], width, dtype)
        half_other, given = theirs(half, side), inputs(half, 2, side)
        run_half = guided_step(half, *given)
        check_same(run_half, lambda: half_other(given[0], 500, given[1]).sample, dtype)
        same = f"step, {named(dtype)}"
        yield same, named(dtype), run_half, f"diffusers {named(dtype)}", lambda: half_other(given[0], 500, given[1])
        yield "step, auto", named(dtype), run_half, "diffusers float32", run_other


@torch.no_grad()
def check_same(ours: Callable[[], Any], other: Callable[[], Any], dtype: torch.dtype) -> None:
    """ValueError unless the two give the same numbers, so that like is timed with like."""
    found, wanted = ours().float(), other().float()
    far = float((found - wanted).norm() / wanted.norm())
    if not far <= TOLERANCE[dtype]:
        raise ValueError(f"the outputs of both networks are {far:.2g} apart in {named(dtype)}; they must be the same")


def pipelines(count: int) -> Iterator[Row]:
    """Whole pipelines on the same files, of the tiny size; `full_size.py` has them at full size, and takes 26 GB."""
    import full_size
    from full_size_files import write

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), "tiny", torch.float32)
        ours, other = (read(Path(folder), torch.float32) for read in (full_size.ours, full_size.theirs))
        for pipe in (ours, other):
            pipe.set_progress_bar_config(disable=True)
        side = 8 * ours.bank.codecs["image"].latent_shape()[-1]
        options = {"num_inference_steps": count, "height": side, "width": side}
        yield (
            "text-to-image, tiny",
            "float32",
            lambda: ours.text_to_image(full_size.PROMPT, seed=0, **options),
            "diffusers float32",
            lambda: other(full_size.PROMPT, **options),
        )


def text_flow(width: int, items: tuple[int, ...]) -> Iterator[Row]:
    """The text network with an image's 257 tokens."""
    unet = diffuser(["text"], ["image"], width)
    for count in items:
        latent = torch.randn(count, *text_shape(unet))
        context = Context("image", torch.randn(count, 257, FULL_SIZE["context_dim"]))
        with torch.no_grad():
            projected = unet.project([context])

        def once(latent: Any = latent, contexts: Any = projected) -> Any:
            return unet(latent, 500, contexts, data="text")

        def each(latent: Any = latent, contexts: Any = (context,)) -> Any:
            return unet(latent, 500, contexts, data="text")

        yield f"text flow, {count} items", "keys and values once", once, "in every step", each


def text_shape(unet: Any) -> tuple[int, ...]:
    """Of one text latent of a diffuser."""
    return (unet.config.data_streams["text"]["width"],)


def captions(count: int) -> Iterator[Row]:
    """Texts of many latents; the same seeds, and so the same texts."""
    codec = VersatileDiffusionPipeline.from_pretrained("emoji").bank.codecs["text"]
    latents = torch.randn(count, *codec.latent_shape(), generator=torch.Generator().manual_seed(0))

    def together() -> Any:
        return codec.decode(latents)

    def one_by_one() -> Any:
        return [text for latent in latents for text in codec.decode(latent[None])]

    yield f"captions, {count}", "together", together, "one by one", one_by_one


def main(
    width: Annotated[int, typer.Option(help="Channels of the first level; 320 is full size.")] = WIDTH,
    side: Annotated[int, typer.Option(help="Of the images, in pixels.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 3,
    only: Annotated[str, typer.Option(help="Rows whose name begins with this.")] = "",
    to: Annotated[Path | None, typer.Option("--json", help="File for the numbers.")] = None,
    page: Annotated[Path | None, typer.Option(help="Page with a place for the table.")] = None,
) -> None:
    """Make the table."""
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "step": lambda: steps(width, side // 8),
        "text-to-image": lambda: pipelines(10),
        "text flow": lambda: text_flow(width, (2, 8)),
        "captions": lambda: captions(32),
    }
    table: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        for row, ours, run, than, other in part() if name.startswith(only) else ():
            seconds = in_turn({"ours": run, "other": other}, rounds)
            share = seconds["ours"] / seconds["other"]
            table[row] = {"ours": ours, "s": seconds["ours"], "than": than, "s (other)": seconds["other"]}
            table[row] |= {"share": round(share, 2)}
            print(f"{row}: {share:.2f}", flush=True)
    where = machine()
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        settings = {"width": width, "side": side, "rounds": rounds}
        to.write_text(json.dumps({"machine": where, "settings": settings, "table": table}, indent=1) + "\n")
    size = "full size" if width == WIDTH else f"width {width}"
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    caption = f"{size}, {side} pixels, {where['threads']} of {where['cores']} cores of {where['cpu']}; {versions}."
    write_table("speed", table, "what", caption, page)


if __name__ == "__main__":
    typer.run(main)
