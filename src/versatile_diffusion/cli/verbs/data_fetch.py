"""`versatile data fetch`: the images of selected rows, as WebDataset shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from versatile_diffusion.cli.options import Json
from versatile_diffusion.cli.verbs.data_select import number_of, range_of
from versatile_diffusion.data.rules import PAPER_AREA


def fetch(
    inputs: Annotated[list[str], typer.Argument(help="Output of `versatile data select`: folders, files, patterns.")],
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted download there is resumed.")],
    shard: Annotated[int, typer.Option(min=1, help="Rows per shard.")] = 10_000,
    at_once: Annotated[int, typer.Option(min=1, help="Concurrent downloads.")] = 64,
    per_host: Annotated[int, typer.Option(min=1, help="Concurrent downloads from one host.")] = 4,
    timeout: Annotated[float, typer.Option(help="Seconds per try.")] = 20.0,
    retries: Annotated[int, typer.Option(min=0, help="Retries after a temporary failure.")] = 2,
    redirects: Annotated[int, typer.Option(min=0, help="Redirects to follow per image.")] = 5,
    max_bytes: Annotated[int, typer.Option(min=1, help="Maximum file size.")] = 20 << 20,
    allow_private: Annotated[bool, typer.Option("--allow-private", help="Allow private addresses.")] = False,
    aspect: Annotated[str, typer.Option(metavar="LOW:HIGH", help="Measured width / height, or none.")] = "0.6:1.6667",
    min_area: Annotated[str, typer.Option(help="Measured area above this, or none.")] = f"{PAPER_AREA:g}",
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Ray cluster; local starts one here.")] = None,
    json: Json = False,
) -> None:
    """Fetch the images of selected rows into WebDataset shards, with a ledger of failures."""
    from versatile_diffusion.cli.io.console import note, show, show_json
    from versatile_diffusion.cli.io.files import check_folder
    from versatile_diffusion.data import fetch as run
    from versatile_diffusion.data.download import DownloadLimits
    from versatile_diffusion.data.places import spread_over
    from versatile_diffusion.data.rules import Selection
    from versatile_diffusion.data.select import tables

    check_folder(out)
    limits = DownloadLimits(
        timeout=timeout,
        retries=retries,
        redirects=redirects,
        size=max_bytes,
        at_once=at_once,
        per_host=per_host,
        private=allow_private,
    )
    size = Selection(aspect=range_of("--aspect", aspect), min_area=number_of("--min-area", min_area))
    order, inputs_ = run.Order(out, limits, size), run.pieces(tables(inputs), shard)
    total = run.fetch(inputs_, order, spread_over(ray), lambda done, of: note(f"{done} of {of} shards"))
    if json:
        return show_json({"folder": str(out), **total})
    for reason, count in total["failed"].items():
        show(f"{reason:20} {count:10,}")
    show(f"{'fetched':20} {total['fetched']:10,} of {total['rows']:,} ({total['fetched'] / max(1, total['rows']):.1%})")
    note(f"{out}/*.tar are WebDataset shards; *.failed.jsonl name what failed and why")
