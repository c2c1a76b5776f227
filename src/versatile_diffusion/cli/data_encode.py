"""`versatile data encode`: pictures with captions to latents and context tokens, once for all trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from versatile_diffusion.cli.options import Device, models


def encode(
    data: Annotated[str, typer.Argument(help="Pictures with captions: a folder, .tar or .parquet files, a pattern.")],
    out: Annotated[Path, typer.Option(help="Folder to write to; what was begun there goes on.")],
    model: Annotated[
        str, typer.Option(help="Whose codecs and encoders: a name, a folder, a hub id.", autocompletion=models)
    ] = "emoji",
    part: Annotated[int, typer.Option(min=1, help="Items per file.")] = 4096,
    batch: Annotated[int, typer.Option(min=1, help="Values that are encoded together.")] = 32,
    aspect: Annotated[float | None, typer.Option(help="Keep pictures' shapes, up to this : 1.")] = None,
    bad: Annotated[float, typer.Option(help="Share of samples and shards that may be bad, from 0 to 1.")] = 0.05,
    device: Device = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Encode pictures with captions for `versatile train --from MODEL --data OUT`."""
    from versatile_diffusion.cli.console import note, show, show_json
    from versatile_diffusion.cli.files import check_folder
    from versatile_diffusion.data.sources import Report, open_source

    check_folder(out)
    source, report = open_source(data), Report(bad)
    from versatile_diffusion.cli.model import load
    from versatile_diffusion.data.encoded import encode_set
    from versatile_diffusion.training.distributed import place
    from versatile_diffusion.training.own_data import buckets_of

    pipe = load(model)
    bank = pipe.bank.to(place(device)).eval()
    encoded = encode_set(
        source,
        bank,
        out,
        part=part,
        batch=batch,
        buckets=None if aspect is None else buckets_of(pipe, aspect),
        report=report,
        progress=lambda items: note(f"{items} items"),
    )
    told = Report(**encoded.index["report"])
    if json:
        show_json({"folder": str(out), "items": len(encoded), "made_by": encoded.index["made_by"], **told.to_json()})
    else:
        show(f"{out}: {len(encoded)} items ({told}); {', '.join(encoded.index['made_by'])}")
