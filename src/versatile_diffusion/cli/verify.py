"""`versatile verify`: whether files hold what a model needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from versatile_diffusion.cli.console import show, show_json, stdout, working

if TYPE_CHECKING:
    from versatile_diffusion.interop.verify import Report

SHOWN = 10  # findings of a part


def verify(
    path: Annotated[Path, typer.Argument(help="A checkpoint, or a folder in any layout.")],
    layout: Annotated[str | None, typer.Option(help="Where the names do not tell.")] = None,
    headers: Annotated[bool, typer.Option("--headers", help="Look at the headers alone, not at the numbers.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> int:
    """Check the weights of a model: names, shapes, dtypes, NaN, unusual scales; exit code 1 if something is wrong."""
    from versatile_diffusion.interop.verify import verify as examine

    with working(f"reading {path}"):
        report = examine(path, layout=layout, numbers=not headers)
    show_json(report.record()) if json else show_report(report)
    return int(not report.ok)


def show_report(report: Report) -> None:
    """For people."""
    from rich.table import Table

    show(f"{report.path}: {report.layout}\n")
    table = Table("part", "entries", "numbers", "bytes", "dtypes", "serious", "unusual", box=None, pad_edge=False)
    for column in (1, 2, 3, 5, 6):
        table.columns[column].justify = "right"
    for part in report.parts:
        serious = sum(finding.serious for finding in part.findings)
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in part.dtypes.items())
        sizes = (f"{part.entries:,}", f"{part.numbers:,}", f"{part.bytes:,}")
        table.add_row(part.name, *sizes, dtypes, str(serious), str(len(part.findings) - serious))
    stdout.print(table)
    for part in report.parts:
        for finding in part.findings[:SHOWN]:
            show(f"\n{part.name}: {'' if finding.serious else '(unusual) '}{finding.entry} {finding.what}")
        if (more := len(part.findings) - SHOWN) > 0:
            show(f"\n{part.name}: and {more} more (--json has all)")
    if report.aside:
        show(f"\nleft aside: {report.aside} entries that belong to no part")
    looked = "names, shapes, dtypes and numbers" if report.numbers_read else "names, shapes and dtypes"
    show(f"\n{looked}: {'as they should be' if report.ok else 'something is wrong'}")
