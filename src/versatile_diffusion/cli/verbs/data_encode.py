"""`versatile data encode`: images with captions to latents and context tokens, once for all training runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.cli.options import Device, among, models

if TYPE_CHECKING:
    from versatile_diffusion.data.encoded import EncodedSet
    from versatile_diffusion.data.report import Report
    from versatile_diffusion.data.sources import Source


def encode(
    data: Annotated[str, typer.Argument(help="Images with captions: a folder, .tar or .parquet files, a pattern.")],
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted run there is resumed.")],
    model: Annotated[
        str, typer.Option(help="Whose codecs and encoders: a name, a folder, a hub id.", autocompletion=models)
    ] = "emoji",
    part: Annotated[int, typer.Option(min=1, help="Items per file.")] = 4096,
    batch: Annotated[int, typer.Option(min=1, help="Values that are encoded together.")] = 32,
    aspect: Annotated[float | None, typer.Option(help="Keep aspect ratios, up to this : 1.")] = None,
    long: Annotated[
        str, typer.Option(help="Captions that are too long: cut, skip or refuse.", autocompletion=among("long"))
    ] = "cut",
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of the captions, e.g. cp1250, if it is ambiguous.")
    ] = None,
    bad: Annotated[float, typer.Option(help="Share of samples and shards that may be bad, from 0 to 1.")] = 0.05,
    side: Annotated[
        int | None, typer.Option(min=1, help="Side of square images in pixels; default: the model's.")
    ] = None,
    crops: Annotated[
        int,
        typer.Option(min=1, help="Rows of each image: the image itself and random crops of it; training draws one."),
    ] = 1,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Ray cluster; local starts one here.")] = None,
    device: Device = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Encode images with captions for `versatile train --from MODEL --data OUT`."""
    from versatile_diffusion.choices import unknown
    from versatile_diffusion.cli.io.console import note, show, show_json
    from versatile_diffusion.cli.io.files import check_folder
    from versatile_diffusion.data.encoder import LONG
    from versatile_diffusion.data.report import Report
    from versatile_diffusion.data.sources import open_source

    check_folder(out)
    if long not in LONG:
        raise ValueError(unknown("--long", long, LONG))
    if aspect is not None and side is not None:
        raise ValueError("--aspect keeps shapes, and --side makes squares; give one of them")
    source, report = open_source(data, encoding), Report(bad)
    from versatile_diffusion.cli.io.model import load
    from versatile_diffusion.data.buckets import Buckets
    from versatile_diffusion.training.diffuser.own_data import buckets_of

    pipe = load(model)
    buckets = Buckets(((side, side),)) if side is not None else None
    buckets = buckets if aspect is None else buckets_of(pipe, aspect)
    options: dict[str, Any] = {"part": part, "batch": batch, "buckets": buckets, "long": long, "crops": crops}
    encoded = _encode(source, pipe, out, report, options, {"model": model, "device": device, "ray": ray})
    told = Report(**encoded.index["report"])
    if json:
        show_json({"folder": str(out), "items": len(encoded), "made_by": encoded.index["made_by"], **told.to_json()})
    else:
        for example in told.examples:
            note(f"skipped: {example}")
        show(f"{out}: {len(encoded)} items ({told}); {', '.join(encoded.index['made_by'])}")


def _encode(
    source: Source, pipe: Any, out: Path, report: Report, options: dict[str, Any], where: dict[str, Any]
) -> EncodedSet:
    """The set: shard by shard where there are several."""
    from versatile_diffusion.cli.io.console import note
    from versatile_diffusion.data.encoded import encode_set
    from versatile_diffusion.data.encoded_sets import EncodeShard, encode_shards, is_sharded, load_bank
    from versatile_diffusion.data.places import spread_over
    from versatile_diffusion.training.engine.distributed import place

    bank = pipe.bank.to(place(where["device"])).eval()
    if is_sharded(source, out):
        work = EncodeShard(source, partial(load_bank, where["model"], where["device"]), out, options, report.allowed)
        work.__dict__["bank"] = bank
        spread = spread_over(where["ray"], actors=True)
        return encode_shards(work, spread=spread, progress=lambda done, of: note(f"{done} of {of} shards"))
    if where["ray"] is not None:
        raise ValueError(
            f"--ray spreads several shards (.tar or .parquet); {source.path} has {len(source.shards)} of them"
        )
    return encode_set(source, bank, out, **options, report=report, progress=lambda items: note(f"{items} items"))
