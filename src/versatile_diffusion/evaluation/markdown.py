"""Results as a Markdown page with small images."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from versatile_diffusion.evaluation.comparison import HEAD, is_chosen, pairs
from versatile_diffusion.evaluation.evaluate import Measurement, WaySamples
from versatile_diffusion.evaluation.protocol import PROTOCOLS
from versatile_diffusion.evaluation.report import (
    COLUMNS,
    Look,
    drawn_values,
    looks,
    metric_groups,
    plots,
    share_of_real,
    shown_texts,
)
from versatile_diffusion.evaluation.results import Result, Table, metrics, remarks
from versatile_diffusion.sheets import in_rows

SHOWN, LINES, QUALITY = 32, 10, 65
BESIDE = "Comparison with other models"
DRAWN = ("judge/concept top-5", "judge/style", "agreement/text", "agreement/image", "text/CIDEr-D")
"""Metrics to plot against a swept setting, besides the FID of every network; `report.html` plots all."""


def write_page(
    file: Path,
    results: Sequence[Result],
    samples: Sequence[WaySamples],
    others: Sequence[Measurement] = (),
    along: str | None = None,
) -> Path:
    """Write `file`, and its images to a folder of the same name below `images/`, replacing existing ones.

    Args:
        file: path ending in `.md`.
        results: results of one model; several if `along`, a protocol field, was swept. The last one is reported in
            full.
        samples: of the last result.
        others: other models under the same protocol.
    """
    images, result = file.parent / "images" / file.stem, results[-1]
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    parts = [_head(result)]
    parts += [_split(split, table) for split, table in result.tables.items()]
    if others:
        parts.append(_beside(result, [other for other, _ in others]))
        parts += [_look(look, images) for look in looks(result, samples, others)]
    if along is not None:
        parts.append(_plots(results, along, images))
    parts += [told for sample in samples if (told := _sample(sample, images))]
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return file


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_CHOSEN = (
    "Each output is the best of {} candidates by the model's own encoders. Metrics by the same encoders (`encoders` "
    "and agreement) are therefore biased upwards; those by the judge are not."
)


def _head(result: Result) -> str:
    judge = [
        (split, ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in row.items()))
        for split, row in result.judge.items()
    ]
    return "\n\n".join(
        [
            f"# {result.model['name']}: evaluation",
            f"Written by `{_command(result)}` ({result.library}, weights {result.model['hash']}, "
            f"{result.seconds:.0f} s). [evaluation.md](../guides/evaluation.md) explains rows and metrics. Brackets "
            "hold the 95 % confidence interval. The percentage after a slash is the judge's rate relative to its rate "
            "on the real images of the same items.",
            *([_CHOSEN.format(result.protocol.candidates)] if result.protocol.candidates > 1 else []),
            *(f"{said}." for said in remarks(result)),
            "Guidance scales: "
            + ", ".join(f"{task} {scale}" for task, scale in result.model["guidance_scale"].items()),
            *([table(("judge on all real images of", "%"), judge)] if judge else []),
        ]
    )


def _command(result: Result) -> str:
    """Return the command that reproduces the evaluation, without paths."""
    protocol, usual = result.protocol, PROTOCOLS.get(result.protocol.name)
    words = ["versatile evaluate", "--model", result.model["name"], "--data DATA"]
    words += [f"--protocol {protocol.name}" if usual else "--protocol FILE"]
    words += ["--judge JUDGE"] if protocol.judge else []
    for name in usual.differences(protocol, ("hashes",)) if usual else ():
        field = name.split(":")[0]
        value = getattr(protocol, field)
        option = {"splits": "split"}.get(field, field.replace("_", "-"))
        words += [f"--{option} {one}" for one in (value if isinstance(value, tuple) else (value,))]
    return " ".join(words)


def _split(split: str, rows: Table) -> str:
    told = [f"## {split}"]
    for names in metric_groups(rows):
        ways = [way for way, row in rows.items() if set(names) & set(row)]
        told.append(table(("", *names), [(way, *(_cell(rows, way, name) for name in names)) for way in ways]))
    return "\n\n".join(told)


def _cell(rows: Table, way: str, name: str) -> str:
    if name not in rows[way]:
        return ""
    share = share_of_real(rows, way, name)
    return f"{rows[way][name]}" + ("" if share is None else f" / {100 * share:.0f} %")


def _beside(result: Result, others: Sequence[Result]) -> str:
    told, found = [f"## {BESIDE}"], list(pairs(result, others))
    told.append(
        "Share: this model's value divided by the other's (inverted for distances). Above 100 % this model is better."
    )
    for split in dict.fromkeys(pair.split for pair in found):
        told += [f"### {split}", table(HEAD, [pair.cells() for pair in found if pair.split == split])]
    return "\n\n".join(told)


def _plots(results: Sequence[Result], along: str, images: Path) -> str:
    drawn = plots(results, along, [name for name in metrics(results) if is_chosen(name, DRAWN)])
    told = [f"## Against {along}", "`report.html` plots every metric."]
    for metric, plot in drawn.items():
        file = images / f"{along}-{_file_name(metric)}.svg"
        file.write_text(plot, encoding="utf-8")
        told.append(f"![{metric} against {along}](images/{images.name}/{file.name})")
    return "\n\n".join(told)


def _sample(sample: WaySamples, images: Path) -> str:
    """Show a sheet of a task's images, or some of its texts; nothing for reference values."""
    made = sample.made
    if made.source is None or made.exact:
        return ""
    title = f"## {sample.split}: {sample.way}"
    if (first := drawn_values(made, SHOWN)) is None:
        rows = [(given, text) for given, text in shown_texts(made)[:LINES]]
        return f"{title}\n\n{table(('input (or label of the image)', 'output'), rows)}"
    file = images / f"{_file_name(sample.split)}-{_file_name(sample.way)}.jpg"
    in_rows(made.items.given["image"][: len(first)], first, columns=COLUMNS).save(file, quality=QUALITY)
    return f"{title}\n\nReal images above, generated images below.\n\n![{sample.way}](images/{images.name}/{file.name})"


def _look(look: Look, images: Path) -> str:
    """Show the outputs of several models for the same items."""
    title = f"### {look.title}"
    sheet = look.images(SHOWN)
    if sheet is None:
        head, *rows = look.texts(LINES)
        return f"{title}\n\n{table(head, rows)}"
    file = images / f"beside-{_file_name(look.split)}-{_file_name(look.way)}.jpg"
    sheet.save(file, quality=QUALITY)
    return f"{title}\n\n{look.order}\n\n![{look.title}](images/{images.name}/{file.name})"


def _file_name(text: str) -> str:
    return re.sub(r"\W+", "-", text)
