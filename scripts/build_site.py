"""Build the documentation site from the Markdown files of the repository.

    python scripts/build_site.py        (needs the extra `docs`)

Pages are gathered in `build/pages` with the paths that they have in the repository, so the same relative links work
on both. Broken links and names that mkdocstrings cannot find fail the build. The site is in `build/site`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES, SITE = Path("build", "pages"), Path("build", "site")
FOLDERS = ("docs", "models/emoji/README.md")
"""Folders and files whose pages and images are taken as they are."""


def as_code(kind: str) -> Callable[[str, str], str]:
    """A page that shows a file."""
    return lambda name, text: f"# {name}\n\n````{kind}\n{text}````\n"


def notebook(name: str, text: str) -> str:
    """A page with the cells of a notebook, and what they showed."""
    cells = json.loads(text)["cells"]
    return "\n\n".join(part for cell in cells for part in [_source(cell), *map(_shown, cell.get("outputs", ()))]) + "\n"


def _source(cell: dict[str, Any]) -> str:
    part = "".join(cell["source"])
    return part if cell["cell_type"] == "markdown" else f"```python\n{part}\n```"


def _shown(output: dict[str, Any]) -> str:
    """An image, or a text."""
    data = output.get("data", {})
    if "image/jpeg" in data:
        return f'<img alt="result" src="data:image/jpeg;base64,{data["image/jpeg"]}">'
    return f"```text\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```"


TURNED: dict[str, tuple[str, Callable[[str, str], str]]] = {
    "README.md": ("index.md", lambda name, text: text),
    "CONTRIBUTING.md": ("CONTRIBUTING.md", lambda name, text: text),
    "CHANGELOG.md": ("CHANGELOG.md", lambda name, text: text),
    "NOTICE": ("NOTICE.md", as_code("text")),
    "LICENSE": ("LICENSE.md", as_code("text")),
    "examples/brain_decoding.py": ("examples/brain_decoding.md", as_code("python")),
    "notebooks/tour.ipynb": ("notebooks/tour.md", notebook),
}
"""Files of the repository that become pages of another name or form."""
RENAMED = {old: new for old, (new, _) in TURNED.items() if old != new}
LINK = re.compile(r"(\]\((?:\.\./)*)([\w./-]+)((?:#[\w-]+)?\))")
LIST_AFTER_TEXT = re.compile(r"(?m)^(?![-*] |\d+\. |#|\||\s|$)(.+)\n(?=(?:[-*]|\d+\.) )")
"""GitHub begins a list after a line of text; Python-Markdown wants a blank line between the two."""
FENCED = re.compile(r"(?ms)^( *)(`{3,}).*?^\1\2$")


def adapted(text: str) -> str:
    """The page with links to renamed files, and in Python-Markdown's dialect, outside fenced blocks."""
    parts, end = [], 0
    for block in [*FENCED.finditer(text), None]:
        prose = text[end : block.start() if block else None]
        prose = LINK.sub(lambda m: f"{m[1]}{RENAMED.get(m[2], m[2])}{m[3]}", prose)
        parts += [LIST_AFTER_TEXT.sub(r"\1\n\n", prose), block[0] if block else ""]
        end = block.end() if block else end
    return "".join(parts)


def gather(root: Path, pages: Path) -> list[str]:
    """Write all pages and images into `pages`; returns the names of the pages."""
    shutil.rmtree(pages, ignore_errors=True)
    for name in FOLDERS:
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        (pages / name).parent.mkdir(parents=True, exist_ok=True)
        copy(root / name, pages / name)
    for name, (page, form) in TURNED.items():
        (pages / page).parent.mkdir(parents=True, exist_ok=True)
        (pages / page).write_text(form(Path(name).name, (root / name).read_text(encoding="utf-8")), encoding="utf-8")
    written = sorted(pages.rglob("*.md"))
    for file in written:
        file.write_text(adapted(file.read_text(encoding="utf-8")), encoding="utf-8")
    return [file.relative_to(pages).as_posix() for file in written]


def missing(pages: Path) -> list[str]:
    """Relative links to files that are not there, images too (zensical looks at pages only)."""
    return [
        f"{file.relative_to(pages)}: {link}"
        for file in sorted(pages.rglob("*.md"))
        for link in re.findall(r"\]\(([^)#\s]+)", FENCED.sub("", file.read_text(encoding="utf-8")))
        if "://" not in link and not (file.parent / link).exists()
    ]


def main() -> None:
    pages = gather(ROOT, ROOT / PAGES)
    if lost := missing(ROOT / PAGES):
        raise SystemExit("links that lead nowhere:\n" + "\n".join(lost))
    shutil.rmtree(ROOT / SITE, ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    if subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_COLOR": "1"}).returncode:
        raise SystemExit("the site has errors, see above")
    print(f"{SITE / 'index.html'}: {len(pages)} pages")


if __name__ == "__main__":
    main()
