"""A page with everything that was measured, and sheets of what was made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from versatile_diffusion.evaluation.comparison import HEAD, pairs
from versatile_diffusion.evaluation.evaluate import Sample
from versatile_diffusion.evaluation.intervals import Measured
from versatile_diffusion.evaluation.measures import Made
from versatile_diffusion.evaluation.plots import line_plot
from versatile_diffusion.evaluation.results import Result, Table, curves, metrics

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-size: .85rem } caption { text-align: left; color: #666 }
td, th { padding: .25rem .6rem; border-top: 1px solid #ddd; text-align: left; vertical-align: top }
.small, small { color: #666; font-size: .85em } pre { font-size: .8rem; background: #f6f6f6; padding: .6rem }
img { image-rendering: pixelated; max-width: 100% } svg { margin: 0 1rem 1rem 0; vertical-align: top }
"""
SHOWN, COLUMNS = 32, 16


def write_report(
    folder: Path,
    results: Sequence[Result],
    samples: Sequence[Sample],
    along: str | None = None,
    others: Sequence[Result] = (),
) -> Path:
    """Writes `report.html` and the sheets of samples beside it.

    Args:
        folder: made if it is not there.
        results: of one model; several where `along`, a field of the protocol, was varied.
        samples: of the last result.
        others: of other models under the same protocol, to compare with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = results[-1]
    parts = [_head(result)]
    if along is not None:
        parts.append(f"<h2>Against {escape(along)}</h2>{''.join(plots(results, along).values())}")
    for one in results:
        at = "" if along is None else f" ({along} {one.protocol.plain()[along]})"
        parts += [_split(split + at, table) for split, table in one.tables.items()]
    if others:
        parts.append(_beside(result, others))
    parts += [_sheet(sample, folder) for sample in samples]
    file = folder / "report.html"
    file.write_text(page(f"{result.model['name']}, measured", "\n".join(parts)), encoding="utf-8")
    return file


def page(title: str, body: str) -> str:
    """An HTML page."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def plots(results: Sequence[Result], along: str, drawn: Sequence[str] | None = None) -> dict[str, str]:
    """An SVG per metric, of all that were measured or of those `drawn`; that of an FID along the guidance scale is
    figure 6 of the paper.

    Raises:
        ValueError: the results differ in something else, or one has no such number.
    """
    names = metrics(results) if drawn is None else drawn
    return {name: line_plot(curves(results, along, name), name, along) for name in names}


def judge_table(result: Result) -> str:
    """What the judge is worth, which stands beside all that it says."""
    judge = "".join(
        f"<tr><td>{escape(split)}</td>{''.join(f'<td>{escape(n)} {v:.1f} %</td>' for n, v in row.items())}</tr>"
        for split, row in result.judge.items()
    )
    caption = "What the judge, which shares nothing with the model, recognises of all real pictures"
    return f"<table><caption>{caption}</caption>{judge}</table>" if judge else "<p>Without a judge.</p>"


def _head(result: Result) -> str:
    model = result.model
    protocol = json.dumps(result.protocol.plain(), indent=1)
    return (
        f"<p>Model {escape(model['name'])} ({escape(model['hash'])}), guidance scales "
        f"{escape(json.dumps(model['guidance_scale']))}, {result.library}, {result.seconds:.0f} s. In brackets stand "
        f"the limits between which a number lies in 95 of 100 cases.</p>"
        + judge_table(result)
        + f"<details><summary>Protocol {escape(result.protocol.name)}</summary><pre>{escape(protocol)}</pre></details>"
    )


def _split(split: str, table: Table) -> str:
    return f"<h2>{escape(split)}</h2>" + "".join(_table(table, names) for names in grouped(table))


def grouped(table: Table) -> list[list[str]]:
    """The metrics of a table by what measured them."""
    groups: dict[str, dict[str, None]] = {}
    for row in table.values():
        for name in row:
            groups.setdefault(name.split("/")[0] if "/" in name else "restored", {})[name] = None
    return [list(names) for names in groups.values()]


def _beside(result: Result, others: Sequence[Result]) -> str:
    """A table for each split: this model's numbers, those of others, and their ratio."""
    found, parts = list(pairs(result, others)), ["<h2>Beside other models</h2>"]
    for split in dict.fromkeys(pair.split for pair in found):
        rows = [HEAD, *(pair.told() for pair in found if pair.split == split)]
        cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        parts.append(f"<table><caption>{escape(split)}</caption>{cells}</table>")
    return "".join(parts)


def _table(table: Table, names: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{escape(way)}</th>{''.join(_cell(table, way, name) for name in names)}</tr>"
        for way, row in table.items()
        if set(names) & set(row)
    )
    return f"<table><tr><th></th>{head}</tr>{rows}</table>"


def _cell(table: Table, way: str, name: str) -> str:
    """A number, its limits, and of the judge's rates the share of what it reaches on the real pictures."""
    found = table[way].get(name)
    if found is None:
        return "<td></td>"
    share = share_of_real(table, way, name)
    beside = "" if share is None else f"<br><small>{100 * share:.0f} % of real</small>"
    return f"<td>{found.value:.3g} <small>[{found.low:.3g}, {found.high:.3g}]</small>{beside}</td>"


def share_of_real(table: Mapping[str, Mapping[str, Measured]], way: str, name: str) -> float | None:
    """A recognition rate over that of the real pictures of the same items; None where there is none."""
    real = table.get("given image", {}).get(name)
    rate = name.startswith("judge/") and name.split("/")[1].split()[0] in ("concept", "style")
    if not rate or real is None or real.value == 0 or way == "given image":
        return None
    return table[way][name].value / real.value


def _sheet(sample: Sample, folder: Path) -> str:
    title = f"<h3>{escape(sample.split)}: {escape(sample.way)}</h3>"
    made = sample.made
    if made.source is None:
        return ""
    if made.modality == "image":
        first = list(made.values[:: made.copies][:SHOWN])
        file = f"{sample.split}-{sample.way.replace(' ', '-')}.png"
        above = made.items.given["image"][: len(first)]
        contact_sheet(above, first).save(folder / file)
        return f'{title}<p class="small">Real pictures above what was made.</p><img src="{quote(file)}" alt="">'
    texts = shown_texts(made)[:SHOWN]
    rows = "".join(f"<tr><td>{escape(given)}</td><td>{escape(text)}</td></tr>" for given, text in texts)
    return f"{title}<table><tr><th>given (or the picture's label)</th><th>made</th></tr>{rows}</table>"


def shown_texts(made: Made) -> list[tuple[str, str]]:
    """Of each item what was given (of a picture, its label) and the first text that was made of it."""
    assert made.source is not None
    first, given = made.values[:: made.copies], made.items.given[made.source]
    told = [one if isinstance(one, str) else label for one, label in zip(given, made.items.labels, strict=True)]
    return list(zip(told, first, strict=True))


def contact_sheet(above: Sequence[Image.Image], below: Sequence[Image.Image]) -> Image.Image:
    """Pairs of pictures, one above the other, `COLUMNS` to a row."""
    side = below[0].width
    rows = -(-len(below) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * side, 2 * rows * side), "white")
    for k, pair in enumerate(zip(above, below, strict=True)):
        for line, picture in enumerate(pair):
            sheet.paste(picture.resize((side, side)), (k % COLUMNS * side, (2 * (k // COLUMNS) + line) * side))
    return sheet
