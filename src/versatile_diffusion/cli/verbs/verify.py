"""`versatile verify`: verify model weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from versatile_diffusion.cli.io.console import show, show_json, stdout, working
from versatile_diffusion.cli.options import Json, models

if TYPE_CHECKING:
    from versatile_diffusion.interop.verify import Verification

SHOWN = 10  # findings shown per part
LAYOUT_HELP = "Source layout, if ambiguous: basic-2022 for VD-basic without its CLIP."


def verify(
    source: Annotated[
        str,
        typer.Argument(help="Checkpoint, folder in any layout, shipped model or hub id.", autocompletion=models),
    ],
    layout: Annotated[str | None, typer.Option(help=LAYOUT_HELP)] = None,
    headers: Annotated[bool, typer.Option("--headers", help="Check only names, shapes and dtypes (fast).")] = False,
    json: Json = False,
) -> int:
    """Verify a model's weights, part by part: names, shapes, dtypes, NaN and infinity, unusual scales. Exit code 1 if
    anything is wrong."""
    from versatile_diffusion.cli.io.model import without_bars
    from versatile_diffusion.interop.verify import verify as examine
    from versatile_diffusion.pipeline.models import fetch_model, find_model

    with working(f"reading {source}"):
        without_bars()
        report = examine(fetch_model(find_model(source), {}), layout=layout, numbers=not headers)
    show_json(report.record()) if json else show_report(report)
    return int(not report.ok)


def show_report(report: Verification) -> None:
    """Print the report as a table and list findings."""
    from rich.table import Table

    show(f"{report.path}: {report.layout}")
    table = Table("part", "entries", "numbers", "bytes", "dtypes", "serious", "unusual", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for column in (1, 2, 3, 5, 6):
        table.columns[column].justify = "right"
    for part in report.parts:
        serious = sum(finding.serious for finding in part.findings)
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in part.dtypes.items())
        sizes = (f"{part.entries:,}", f"{part.numbers:,}", f"{part.bytes:,}")
        table.add_row(part.name, *sizes, dtypes, str(serious), str(len(part.findings) - serious))
    if any(part.entries for part in report.parts):
        show("")
        stdout.print(table)
    for part in report.parts:
        for finding in part.findings[:SHOWN]:
            show("")
            show(f"{part.name}: {finding}")
        if (more := len(part.findings) - SHOWN) > 0:
            show("")
            show(f"{part.name}: and {more} more (--json has all)")
    for line in report.unwrapped:
        show("")
        show(line)
    if report.aside:
        show("")
        show(f"ignored: {report.aside} entries that belong to no part")
    looked = "names, shapes, dtypes and values" if report.numbers_read else "names, shapes and dtypes"
    show("")
    show(f"{looked}: {'as expected' if report.ok else 'something is wrong'}")
