"""Results as a page of the documents: Markdown, with small pictures beside it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from versatile_diffusion.evaluation.comparison import HEAD, chosen, pairs
from versatile_diffusion.evaluation.evaluate import Sample
from versatile_diffusion.evaluation.protocol import PROTOCOLS
from versatile_diffusion.evaluation.report import (
    contact_sheet,
    grouped,
    plots,
    share_of_real,
    shown_texts,
)
from versatile_diffusion.evaluation.results import Result, Table, metrics

SHOWN, LINES, QUALITY = 32, 10, 65
BESIDE = "Beside other models"
DRAWN = ("judge/concept top-5", "judge/style", "agreement/text", "agreement/image", "text/CIDEr-D")
"""Against what was varied, and beside these the FID of every network; `report.html` draws all."""


def write_page(
    file: Path,
    results: Sequence[Result],
    samples: Sequence[Sample],
    others: Sequence[Result] = (),
    along: str | None = None,
) -> Path:
    """Writes `file`, and its pictures into a folder of the same name below `images/`, in place of those that are there.

    Args:
        file: a name that ends in `.md`.
        results: of one model; several where `along`, a field of the protocol, was varied. The last one is told.
        samples: of the last result.
        others: of other models under the same protocol, to compare with.
    """
    images, result = file.parent / "images" / file.stem, results[-1]
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    parts = [_head(result)]
    parts += [_split(split, table) for split, table in result.tables.items()]
    if others:
        parts.append(_beside(result, others))
    if along is not None:
        parts.append(_plots(results, along, images))
    parts += [told for sample in samples if (told := _sample(sample, images))]
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return file


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_CHOSEN = (
    "Of {} candidates for each output the model's own encoders kept the best; where the same encoders measure "
    "(`encoders` and agreement), the numbers flatter it, those of the judge do not."
)


def _head(result: Result) -> str:
    judge = [
        (split, ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in row.items()))
        for split, row in result.judge.items()
    ]
    return "\n\n".join(
        [
            f"# {result.model['name']}, measured",
            f"Written by `{_command(result)}` ({result.library}, weights {result.model['hash']}, "
            f"{result.seconds:.0f} s). What the rows and metrics are: [evaluation.md](evaluation.md). In brackets "
            "stand the limits between which a number lies in 95 of 100 cases; after a slash, of the judge's rates, the "
            "share of what it reaches on the real pictures of the same items.",
            *([_CHOSEN.format(result.protocol.candidates)] if result.protocol.candidates > 1 else []),
            "Guidance scales: "
            + ", ".join(f"{task} {scale}" for task, scale in result.model["guidance_scale"].items()),
            *([table(("the judge on all real pictures of", "per cent"), judge)] if judge else []),
        ]
    )


def _command(result: Result) -> str:
    """What measures this again; where things lie is left out."""
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
    for names in grouped(rows):
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
        "The share is this model's number over the other's (of distances the other way round): above 100 % is better."
    )
    for split in dict.fromkeys(pair.split for pair in found):
        told += [f"### {split}", table(HEAD, [pair.told() for pair in found if pair.split == split])]
    return "\n\n".join(told)


def _plots(results: Sequence[Result], along: str, images: Path) -> str:
    drawn = plots(results, along, [name for name in metrics(results) if chosen(name, DRAWN)])
    told = [f"## Against {along}", "`report.html` draws every metric."]
    for metric, plot in drawn.items():
        file = images / f"{along}-{_file_name(metric)}.svg"
        file.write_text(plot, encoding="utf-8")
        told.append(f"![{metric} against {along}](images/{images.name}/{file.name})")
    return "\n\n".join(told)


def _sample(sample: Sample, images: Path) -> str:
    """A sheet of the pictures that a task made, or some of its texts; nothing of what was not generated."""
    made = sample.made
    if made.source is None or made.exact:
        return ""
    title = f"## {sample.split}: {sample.way}"
    if made.modality == "text":
        rows = [(given, text) for given, text in shown_texts(made)[:LINES]]
        return f"{title}\n\n{table(('given (or the label of the picture)', 'made'), rows)}"
    first = list(made.values[:: made.copies][:SHOWN])
    file = images / f"{_file_name(sample.split)}-{_file_name(sample.way)}.jpg"
    contact_sheet(made.items.given["image"][: len(first)], first).save(file, quality=QUALITY)
    return f"{title}\n\nReal pictures above what was made.\n\n![{sample.way}](images/{images.name}/{file.name})"


def _file_name(text: str) -> str:
    return re.sub(r"\W+", "-", text)
