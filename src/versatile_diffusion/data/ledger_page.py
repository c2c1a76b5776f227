"""The ledger of a selection as an HTML page: counts for every reason, a histogram for every filtered value."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from versatile_diffusion.data.ledger import Tally
from versatile_diffusion.data.rules import Rule, Selection
from versatile_diffusion.data.select import LEDGER
from versatile_diffusion.files import write_whole

PAGE = "ledger.html"
TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Selection</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: right }
td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left }
tr { border-bottom: 1px solid #ddd }
figure { display: inline-block; margin: 1rem 1rem 0 0 }
</style>
<h1>{{ "{:,}".format(total.kept) }} of {{ "{:,}".format(total.read) }} rows kept ({{ share(total.kept) }})</h1>
<p>Rows that lack a value for a filter: {{ "rejected" if total.missing == "reject" else "kept" }}.
"Alone" counts rows that no other filter rejects; "first" those that no earlier filter of this list rejects: kept rows,
first reasons and duplicates add up to all rows. The outer bars of a histogram include values beyond its range.</p>
<table>
<tr><th>filter</th><th>keeps</th><th>rejected</th><th></th><th>alone</th><th>among others</th><th>first</th>
<th>missing</th></tr>
{%- for name, reason in reasons.items() %}
<tr><td>{{ name }}</td><td>{{ says[name] }}</td><td>{{ "{:,}".format(reason.rejected) }}</td>
<td>{{ share(reason.rejected) }}</td><td>{{ "{:,}".format(reason.alone) }}</td>
<td>{{ "{:,}".format(reason.among_others) }}</td><td>{{ "{:,}".format(reason.first) }}</td>
<td>{{ "{:,}".format(reason.missing) }}</td></tr>
{%- endfor %}
{%- if total.duplicates %}
<tr><td>duplicates</td><td>the first row of each</td><td>{{ "{:,}".format(total.duplicates) }}</td>
<td>{{ share(total.duplicates) }}</td></tr>
{%- endif %}
</table>
{% for figure in figures %}<figure>{{ figure | safe }}</figure>{% endfor %}
<h2>Files</h2>
<table>
<tr><th>file</th><th></th><th>read</th><th>kept</th></tr>
{%- for name, file in files.items() %}
<tr><td>{{ name }}</td><td></td><td>{{ "{:,}".format(file.read) }}</td><td>{{ "{:,}".format(file.kept) }}</td></tr>
{%- endfor %}
</table>
</html>
"""


def write_page(folder: Path) -> Path:
    """Write `ledger.html` next to the ledger of a selection.

    Raises:
        ValueError: no ledger.
    """
    from jinja2 import Environment

    if not (folder / LEDGER).is_file():
        raise ValueError(f"{folder} has no {LEDGER}; `versatile data select` writes it")
    told = json.loads((folder / LEDGER).read_text(encoding="utf-8"))
    total, rules = Tally.from_json(told["total"]), _rules(told["selection"])
    page = Environment(autoescape=True).from_string(TEMPLATE)
    text = page.render(
        total=total,
        reasons=total.reasons,
        says=told["rules"],
        files=told["files"],
        share=lambda count: f"{count / max(1, total.read):.1%}",
        figures=[_histogram(rule, total.histograms[rule.name]) for rule in rules if rule.name in total.histograms],
    )
    write_whole(folder / PAGE, lambda part: part.write_text(text, encoding="utf-8"))
    return folder / PAGE


def _rules(selection: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The rules of a selection stored as JSON."""
    told: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in selection.items()
    }
    return Selection(**told).rules


def _histogram(rule: Rule, counts: Sequence[int]) -> str:
    """Histogram of the values as SVG: passing values in colour, thresholds as lines."""
    from matplotlib.figure import Figure

    assert rule.interval is not None
    low, high = rule.span
    width = (high - low) / len(counts)
    lefts = [low + width * place for place in range(len(counts))]
    inside = [rule.interval.low <= left + width / 2 <= rule.interval.high for left in lefts]
    figure = Figure(figsize=(4.4, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(lefts, counts, width, align="edge", color=["#1b6ca8" if passes else "#c9cdd2" for passes in inside])
    for end in rule.interval.ends:
        axes.axvline(end, color="#c8553d", linewidth=1)
    axes.set(title=rule.says, xlim=rule.span, ylabel="rows")
    axes.spines[["top", "right"]].set_visible(False)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return re.sub(r"^.*?(?=<svg)", "", stream.getvalue(), flags=re.DOTALL)
