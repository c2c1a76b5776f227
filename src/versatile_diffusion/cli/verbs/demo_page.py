"""The web page of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } td { padding: .4rem .6rem; border-top: 1px solid #ddd }
td:first-child { width: 14rem } img { width: 112px; height: 112px; margin: 0 4px 4px 0; vertical-align: middle }
.small { color: #666; font-size: .85rem }
"""


@dataclass(frozen=True)
class Row:
    """An input (a text or an image file name) and its outputs (files or texts)."""

    given: str
    given_file: str | None
    files: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """Results of one task."""

    task: str
    title: str
    rows: tuple[Row, ...]
    seconds: float


def write_page(file: Path, model: str, sections: Sequence[Section]) -> None:
    """Write an HTML page that depends only on the files beside it."""
    body = "\n".join(_section(section) for section in sections)
    file.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>versatile demo: {escape(model)}</title><style>{STYLE}</style></head>
<body><h1>versatile demo: {escape(model)}</h1>
<p class="small">Images with embedded settings can be reproduced: <code>versatile replay FILE</code>.</p>
{body}
</body></html>
""",
        encoding="utf-8",
    )


def _section(section: Section) -> str:
    rows = "\n".join(_row(row) for row in section.rows)
    title = f"<h2>{escape(section.title)}</h2>"
    return f'{title}<p class="small">versatile {escape(section.task)}, {section.seconds:.1f} s</p><table>{rows}</table>'


def _row(row: Row) -> str:
    given = _picture(row.given_file, row.given) if row.given_file else escape(row.given)
    made = "".join(_picture(file, row.given) for file in row.files) + "<br>".join(map(escape, row.texts))
    return f"<tr><td>{given}</td><td>{made}</td></tr>"


def _picture(file: str, title: str) -> str:
    return f'<img src="{quote(file)}" alt="{escape(title)}" title="{escape(title)}">'
