"""The web page of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from versatile_diffusion.modalities import MODALITIES, Modality
from versatile_diffusion.modalities.media import element, needs_picture, picture_of

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } td { padding: .4rem .6rem; border-top: 1px solid #ddd }
td:first-child { width: 14rem } img { width: 112px; height: 112px; margin: 0 4px 4px 0; vertical-align: middle }
.small { color: #666; font-size: .85rem }
"""
TILES = """figure { display: inline-block; width: 170px; margin: 0 8px 8px 0; vertical-align: top }
figure img { display: block; margin: 0 auto } figure audio { width: 100%; height: 2.2rem }
figcaption { color: #666; font-size: .85rem }
"""
REPLAY = "Images with embedded settings can be reproduced: <code>versatile replay FILE</code>."
BESIDE = " Other files have their settings in a JSON file beside them, and can be reproduced, too."


@dataclass(frozen=True)
class Row:
    """An input (a text or a file name) and its outputs (files or texts)."""

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
    body = "\n".join(_section(section, file.parent) for section in sections)
    more = any(not modality_of(name).embeds for section in sections for row in section.rows for name in row.files)
    file.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>versatile demo: {escape(model)}</title><style>{STYLE}{TILES * more}</style></head>
<body><h1>versatile demo: {escape(model)}</h1>
<p class="small">{REPLAY}{BESIDE * more}</p>
{body}
</body></html>
""",
        encoding="utf-8",
    )


def modality_of(file: str) -> Modality:
    """Return the modality of a written file."""
    modality = MODALITIES.of_suffix(Path(file).suffix)
    assert modality is not None
    return modality


def _section(section: Section, folder: Path) -> str:
    rows = "\n".join(_row(row, folder) for row in section.rows)
    title = f"<h2>{escape(section.title)}</h2>"
    return f'{title}<p class="small">versatile {escape(section.task)}, {section.seconds:.1f} s</p><table>{rows}</table>'


def _row(row: Row, folder: Path) -> str:
    given = _show(folder / row.given_file, row.given) if row.given_file else escape(row.given)
    made = "".join(_show(folder / file, row.given) for file in row.files) + "<br>".join(map(escape, row.texts))
    return f"<tr><td>{given}</td><td>{made}</td></tr>"


def _show(file: Path, title: str) -> str:
    """Return what shows or plays a file; a link if browsers do neither."""
    modality, address = modality_of(file.name), quote(file.name)
    shown = element(modality, address, title) or f'<a href="{address}">{escape(file.name)}</a>'
    if not needs_picture(modality):
        return shown
    return f"<figure>{picture_of(modality, str(file), title)}{shown}<figcaption>{escape(title)}</figcaption></figure>"
