"""What the documents point at is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import versatile_diffusion
from versatile_diffusion.cli import main
from versatile_diffusion.cli.io.mistakes import EXIT_CODES
from versatile_diffusion.cli.table import every_verb

ROOT = Path(__file__).parents[2]
SOURCE = Path(versatile_diffusion.__file__).parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMAND = re.compile(r"^(versatile .+)$", re.MULTILINE)
COMMANDING = [path for path in DOCUMENTS if COMMAND.search(path.read_text(encoding="utf-8"))]
CODE = {path: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (document.parent / link).exists()]
    files = re.findall(r"`((?:src|docs|tests|scripts|models|constraints)/[\w./-]+|[\w/]+/\w+\.py)`", text)
    missing += [file for file in files if not (ROOT / file).exists() and not (SOURCE / file).exists()]
    assert missing == []


def test_the_paper_map_names_what_is_defined_there() -> None:
    page = (ROOT / "docs" / "guides" / "paper_map.md").read_text(encoding="utf-8")
    rows = re.findall(r"`([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)", page)
    assert len(rows) > 10
    named = [(file, name.split(".")[-1]) for file, names in rows for name in re.findall(r"`([\w.]+)`", names)]
    pattern = r"^\s*(?:class |def |){}\b"
    unknown = [
        (file, name) for file, name in named if not re.search(pattern.format(name), CODE[SOURCE / file], re.MULTILINE)
    ]
    assert unknown == []


def test_the_page_of_the_command_line_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    page = importlib.import_module("command_page")
    written = page.PAGE.read_text(encoding="utf-8")
    assert written == page.page(), "run `.venv/bin/python scripts/command_page.py`"
    missing = [code for code in EXIT_CODES if f"| {code} |" not in written]
    assert missing == []


@pytest.mark.parametrize("document", COMMANDING, ids=lambda path: path.name)
def test_commands_of_documents_exist(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each `versatile` line names a verb and options that there are (what they do is tested elsewhere)."""
    calls = sorted((words for words, verb in every_verb() if verb.load), key=len, reverse=True)
    for line in COMMAND.findall(document.read_text(encoding="utf-8")):
        if line.startswith("versatile -"):
            continue
        call = next((call for call in calls if f"{line} ".startswith(f"{call} ")), "")
        assert call, f"there is no such verb: {line}"
        assert main([*call.split()[1:], "--help"]) == 0, line
        known = capsys.readouterr().out
        options = re.findall(r" (--[a-z0-9-]+)", line.partition(" #")[0].partition(" | jq")[0])
        assert [option for option in options if option not in known] == [], line


def test_documents_have_commands() -> None:
    assert len(COMMANDING) > 5
