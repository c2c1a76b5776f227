"""What the documents point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import versatile_diffusion
from versatile_diffusion.cli import main

ROOT = Path(__file__).parents[2]
SOURCE = Path(versatile_diffusion.__file__).parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
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
    rows = re.findall(r"`([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)", (ROOT / "docs" / "paper_map.md").read_text("utf-8"))
    assert len(rows) > 10
    named = [(file, name.split(".")[-1]) for file, names in rows for name in re.findall(r"`([\w.]+)`", names)]
    pattern = r"^\s*(?:class |def |){}\b"
    unknown = [
        (file, name) for file, name in named if not re.search(pattern.format(name), CODE[SOURCE / file], re.MULTILINE)
    ]
    assert unknown == []


def test_commands_of_the_readme_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Each `versatile` line names a command and options that there are (what they do is tested elsewhere)."""
    lines = re.findall(r"^versatile (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) > 5
    for line in lines:
        command = re.match(r"(?:data )?[a-z-]+", line)
        words = [word for word in (command.group() if command else "").split() if not word.startswith("-")]
        assert main([*words, "--help"]) == 0, line
        known = capsys.readouterr().out
        assert [option for option in re.findall(r"--[a-z-]+", line) if option not in known] == [], line
