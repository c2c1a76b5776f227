"""`versatile data select`: rows of image-text metadata by the paper's filters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from versatile_diffusion.cli.options import Json
from versatile_diffusion.data.rules import LAYOUTS, MEANINGS, MISSING, PAPER_AREA
from versatile_diffusion.printable import shown

NONE = "none"
LAYOUT_HELP = f"Column layout: {', '.join(LAYOUTS)}; the best match if omitted."


def select(
    inputs: Annotated[
        list[str],
        typer.Argument(help="Parquet metadata or shards: folders, files, patterns or URLs (s3://, gs://, hf://)."),
    ],
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted selection there is resumed.")],
    layout: Annotated[str | None, typer.Option(help=LAYOUT_HELP)] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="MEANING=NAME", help=f"Column of a meaning: {', '.join(MEANINGS)}.")
    ] = None,
    min_similarity: Annotated[str, typer.Option(help="CLIP similarity above this, or none.")] = "0.3",
    max_unsafe: Annotated[str, typer.Option(help="NSFW probability below this, or none.")] = "0.3",
    max_watermark: Annotated[str, typer.Option(help="Watermark probability below this, or none.")] = "0.3",
    aspect: Annotated[str, typer.Option(metavar="LOW:HIGH", help="Width / height, or none.")] = "0.6:1.6667",
    min_area: Annotated[str, typer.Option(help="Area in pixels above this, or none.")] = f"{PAPER_AREA:g}",
    language: Annotated[list[str] | None, typer.Option(help="Language codes to keep.")] = None,
    caption_length: Annotated[str, typer.Option(metavar="LOW:HIGH", help="Characters of a caption.")] = NONE,
    block: Annotated[Path | None, typer.Option(help="File of blocked domains, one per line.")] = None,
    unique: Annotated[str | None, typer.Option(help="Drop later rows with the same hash, or the same url.")] = None,
    missing: Annotated[str, typer.Option(help=f"Rows that lack a value: {' or '.join(MISSING)}.")] = "reject",
    histograms: Annotated[bool, typer.Option(help="Count and draw histograms of the filtered values.")] = True,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Ray cluster; local starts one here.")] = None,
    json: Json = False,
) -> None:
    """Select rows of LAION-2B-en or similar metadata by the paper's filters, with a ledger of every row."""
    from versatile_diffusion.cli.io.console import note, show, show_json
    from versatile_diffusion.cli.io.files import check_folder
    from versatile_diffusion.data.rules import Selection

    check_folder(out)
    selection = Selection(
        number_of("--min-similarity", min_similarity),
        number_of("--max-unsafe", max_unsafe),
        number_of("--max-watermark", max_watermark),
        range_of("--aspect", aspect),
        number_of("--min-area", min_area),
        tuple(language or ()),
        None if (length := range_of("--caption-length", caption_length)) is None else (int(length[0]), int(length[1])),
        () if block is None else _domains(block),
        unique,
        missing,
    )
    from versatile_diffusion.data import select as run
    from versatile_diffusion.data.ledger_page import write_page
    from versatile_diffusion.data.places import spread_over

    plan = run.SelectPlan(selection, out, layout, _columns(column or []), histograms)
    total = run.select(run.tables(inputs), plan, spread_over(ray), lambda done, of: note(f"{done} of {of} files"))
    page = write_page(out)
    if json:
        return show_json({"folder": str(out), **total.to_json()})
    for name, reason in total.reasons.items():
        show(f"{name:15} {reason.rejected:12,} rejected, {reason.alone:,} by nothing else, {reason.missing:,} missing")
    if unique:
        show(f"{'duplicates':15} {total.duplicates:12,}")
    show(f"{'kept':15} {total.kept:12,} of {total.read:,} ({total.kept / max(1, total.read):.1%})")
    note(f"{page} has the histograms; {out / run.LEDGER} the counts of every file")


def number_of(name: str, given: str) -> float | None:
    """A number; None for `none`."""
    if given.lower() == NONE:
        return None
    try:
        return float(given)
    except ValueError:
        raise ValueError(f"{name} is {shown(given)}; it must be a number or none") from None


def range_of(name: str, given: str) -> tuple[float, float] | None:
    """Two numbers, `LOW:HIGH`; None for `none`."""
    if given.lower() == NONE:
        return None
    try:
        low, high = map(float, given.split(":"))
    except ValueError:
        raise ValueError(f"{name} is {shown(given)}; it must be two numbers such as 0.6:1.6667, or none") from None
    return low, high


def _columns(given: list[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    if bad := [one for one, (name, sign, column) in zip(given, pairs, strict=True) if not (name and sign and column)]:
        raise ValueError(f"--column is {shown(bad[0])}; it must be MEANING=NAME, such as similarity=clip_score")
    return {name: column for name, _, column in pairs}


def _domains(file: Path) -> tuple[str, ...]:
    lines = file.read_text(encoding="utf-8-sig").split("\n")
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
