"""Pins with hashes agree with those that `make` installs by, and name no place to fetch from."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"(?m)^([\w.-]+)==([\w.+]+)")


def pins(file: str) -> dict[str, str]:
    text = (ROOT / "constraints" / file).read_text(encoding="utf-8")
    return {name.lower().replace("_", "-"): version for name, version in PIN.findall(text)}


def test_hashes_are_of_the_versions_that_are_tested() -> None:
    tested, hashed = pins("ci.txt"), pins("hashes.txt")
    assert len(hashed) > len(tested) > 30
    assert {name: hashed.get(name) for name in tested if name != "torch"} == {
        name: version for name, version in tested.items() if name != "torch"
    }, "run scripts/pin_hashes.py"


def test_every_pin_has_hashes_and_none_an_address() -> None:
    text = (ROOT / "constraints" / "hashes.txt").read_text(encoding="utf-8")
    entries = [entry for entry in re.split(r"(?m)^(?=[\w.-]+==)", text) if PIN.match(entry)]
    assert [entry for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry)] == []
    assert "://" not in text
    assert not any(line.startswith("-") for line in text.splitlines())
    assert "torch" not in pins("hashes.txt")
