"""HTML report of an evaluation, with sample sheets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from versatile_diffusion.evaluation.comparison import HEAD, pairs
from versatile_diffusion.evaluation.evaluate import Measurement, WaySamples
from versatile_diffusion.evaluation.intervals import Measured
from versatile_diffusion.evaluation.measures import Generated
from versatile_diffusion.evaluation.plots import line_plot
from versatile_diffusion.evaluation.results import Result, Table, curves, metrics, remarks
from versatile_diffusion.evaluation.templates import render
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.sheets import in_rows

SHOWN, COLUMNS = 32, 16


def write_report(
    folder: Path,
    results: Sequence[Result],
    samples: Sequence[WaySamples],
    along: str | None = None,
    others: Sequence[Measurement] = (),
) -> Path:
    """Write `report.html`, with sample sheets beside it.

    Args:
        folder: output folder, created if missing.
        results: results of one model; several if `along`, a protocol field, was swept.
        samples: of the last result.
        others: other models under the same protocol.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = results[-1]
    parts = [_head(result)]
    if along is not None:
        parts.append(Markup("<h2>Against {}</h2>").format(along) + _svg(plots(results, along)))
    for one in results:
        at = "" if along is None else f" ({along} {one.protocol.plain()[along]})"
        parts += [_split(split + at, table) for split, table in one.tables.items()]
    if others:
        parts += [_beside(result, [other for other, _ in others]), *_looks(result, samples, others, folder)]
    parts += [_sheet(sample, folder) for sample in samples]
    file = folder / "report.html"
    file.write_text(page(f"{result.model['name']}: evaluation", "\n".join(parts)), encoding="utf-8")
    return file


def page(title: str, body: str) -> str:
    """Format an HTML page; `body` is HTML."""
    return render("page", title=title, body=Markup(body)) + "\n"  # nosec B704 # made by templates


def _svg(drawn: Mapping[str, str]) -> Markup:
    return Markup("".join(drawn.values()))  # nosec B704 # drawn by matplotlib, which escapes


def plots(results: Sequence[Result], along: str, drawn: Sequence[str] | None = None) -> dict[str, str]:
    """Draw an SVG per metric, for all or for those `drawn`; FID against guidance scale is figure 6 of the paper.

    Raises:
        ValueError: results that differ in other settings, or lack the field.
    """
    names = metrics(results) if drawn is None else drawn
    found = {name: curves(results, along, name) for name in names}
    return {name: line_plot(lines, name, along) for name, lines in found.items() if lines}


def judge_table(result: Result) -> Markup:
    """Format the judge's accuracy, the reference for its rates."""
    return render("judge", judge=result.judge)


def _head(result: Result) -> Markup:
    return render(
        "head",
        model=result.model,
        guidance=json.dumps(result.model["guidance_scale"]),
        library=result.library,
        seconds=f"{result.seconds:.0f}",
        remarks=remarks(result),
        judge=judge_table(result),
        protocol=result.protocol,
        settings=json.dumps(result.protocol.plain(), indent=1),
    )


def _split(split: str, table: Table) -> Markup:
    return Markup("<h2>{}</h2>").format(split) + Markup("").join(_table(table, n) for n in metric_groups(table))


def metric_groups(table: Table) -> list[list[str]]:
    """Group the metrics of a table by network."""
    groups: dict[str, dict[str, None]] = {}
    for row in table.values():
        for name in row:
            groups.setdefault(name.split("/")[0] if "/" in name else "restored", {})[name] = None
    return [list(names) for names in groups.values()]


def _beside(result: Result, others: Sequence[Result]) -> Markup:
    """Format a table per split: this model, other models, and the ratio."""
    found, parts = list(pairs(result, others)), [Markup("<h2>Comparison with other models</h2>")]
    for split in dict.fromkeys(pair.split for pair in found):
        rows = [HEAD, *(pair.cells() for pair in found if pair.split == split)]
        parts.append(render("rows", caption=split, rows=rows))
    return Markup("").join(parts)


@dataclass(frozen=True)
class Look:
    """Outputs of several models for the same items (figure 5 of the paper).

    Args:
        split, way: split and task.
        made: outputs by model name, ours first.
    """

    split: str
    way: str
    made: Mapping[str, Generated]

    @property
    def title(self) -> str:
        return f"{self.split}: {self.way}, side by side"

    @property
    def order(self) -> str:
        return f"Top to bottom: real images, {', '.join(self.made)}."

    def images(self, most: int) -> Image.Image | None:
        """Tile the real images above each model's; None for texts."""
        first, *_ = self.made.values()
        drawn = [drawn_values(one, most) for one in self.made.values()]
        rows = [images for images in drawn if images is not None]
        if len(rows) < len(drawn):
            return None
        return in_rows(first.items.given["image"][: len(rows[0])], *rows, columns=COLUMNS)

    def texts(self, most: int) -> list[tuple[str, ...]]:
        """Return a header, and per item the input and the first text of each model."""
        columns = [shown_texts(one)[:most] for one in self.made.values()]
        rows = [(row[0][0], *(text for _, text in row)) for row in zip(*columns, strict=True)]
        return [("input (or the image's label)", *self.made), *rows]


def looks(result: Result, samples: Sequence[WaySamples], others: Sequence[Measurement]) -> Iterator[Look]:
    """Yield the outputs of this and other models for each common split and task."""
    for sample in samples:
        if sample.made.source is None or sample.made.exact:
            continue
        theirs = {
            other.model["name"]: one.made
            for other, made in others
            for one in made
            if (one.split, one.way) == (sample.split, sample.way)
        }
        if theirs:
            yield Look(sample.split, sample.way, {result.model["name"]: sample.made, **theirs})


def _looks(
    result: Result, samples: Sequence[WaySamples], others: Sequence[Measurement], folder: Path
) -> Iterator[Markup]:
    for look in looks(result, samples, others):
        if (sheet := look.images(SHOWN)) is not None:
            file = f"beside-{look.split}-{look.way.replace(' ', '-')}.png"
            sheet.save(folder / file)
            yield render("sheet", title=look.title, note=look.order, file=file)
            continue
        table = render("rows", caption="", rows=look.texts(SHOWN))
        yield render("sheet", title=look.title, note="", file="", table=table)


def _table(table: Table, names: Sequence[str]) -> Markup:
    rows = {way: [_cell(table, way, name) for name in names] for way, row in table.items() if set(names) & set(row)}
    return render("metrics", names=names, rows=rows)


def _cell(table: Table, way: str, name: str) -> dict[str, str] | None:
    """Format a value with its confidence interval; for the judge's rates also relative to real images."""
    found = table[way].get(name)
    if found is None:
        return None
    share = share_of_real(table, way, name)
    return {
        "number": found.number,
        "remark": " ".join(part for part in (found.interval, found.remark) if part),
        "share": "" if share is None else f"{100 * share:.0f} %",
    }


def share_of_real(table: Mapping[str, Mapping[str, Measured]], way: str, name: str) -> float | None:
    """Return a recognition rate relative to that of the real images of the same items; None if undefined."""
    real = table.get("given image", {}).get(name)
    rate = name.startswith("judge/") and name.split("/")[1].split()[0] in ("concept", "style")
    mine = table[way][name].value
    if not rate or real is None or not real.value or mine is None or way == "given image":
        return None
    return mine / real.value


def _sheet(sample: WaySamples, folder: Path) -> Markup:
    title = f"{sample.split}: {sample.way}"
    made = sample.made
    if made.source is None:
        return Markup("")
    if (first := drawn_values(made, SHOWN)) is not None:
        file = f"{sample.split}-{sample.way.replace(' ', '-')}.png"
        above = made.items.given["image"][: len(first)]
        in_rows(above, first, columns=COLUMNS).save(folder / file)
        return render("sheet", title=title, note="Real images above, generated images below.", file=file)
    rows = [("input (or the image's label)", "output"), *shown_texts(made)[:SHOWN]]
    return render("sheet", title=title, note="", file="", table=render("rows", caption="", rows=rows))


def shown_texts(made: Generated) -> list[tuple[str, str]]:
    """Return the input of each item (for images the label) and the first generated text."""
    assert made.source is not None
    words, given = MODALITIES[made.modality], made.items.given[made.source]
    first = [value if words.plain else words.line(value) for value in made.values[:: made.copies]]
    told = given if MODALITIES[made.source].plain else made.items.titles
    return list(zip(told, first, strict=True))


def drawn_values(made: Generated, most: int) -> list[Image.Image] | None:
    """Draw the first value of each item as an image; None for texts."""
    draw = MODALITIES[made.modality].draw
    return None if draw is None else [draw(value) for value in made.values[:: made.copies][:most]]
