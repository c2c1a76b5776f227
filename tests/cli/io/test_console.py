"""What stands in names, captions and records is shown on a terminal, never obeyed; colours of ours stay."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
import warnings

import pytest
from rich.table import Table

from versatile_diffusion.cli.io import console
from versatile_diffusion.cli.io.mistakes import exit_code, quiet_libraries
from versatile_diffusion.printable import printable, printable_json, printable_lines

EVIL = "\x1b]0;owned\x07\x1b[31mred \x9b2J \u202egpj.exe \r\x08 a\udcff\x00 \u2028 b\x7f"
HARMLESS = "caf\u00e9 \U0001f469\u200d\U0001f680 \u65e5\u672c, \u05e9\u05dc\u05d5\u05dd, tab\there"


def obeyed(text: str) -> list[str]:
    """Characters that a terminal would act on."""
    return [
        one
        for one in text
        if (unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") and one not in "\n\t") or one in "\u202e\u2066"
    ]


def test_what_is_harmless_stays() -> None:
    assert printable(HARMLESS) == HARMLESS
    assert printable_lines(f"{HARMLESS}\n{HARMLESS}") == f"{HARMLESS}\n{HARMLESS}"


def test_every_control_character_is_written_out() -> None:
    controls = "".join(map(chr, (*range(32), *range(0x7F, 0xA0)))).replace("\t", "")
    assert obeyed(printable(controls)) == []
    assert printable("a\x1b[2J\nb\x9b\udcff") == "a\\x1b[2J\\nb\\x9b\\udcff"
    assert "\n" not in printable(EVIL + "\n")


@pytest.mark.parametrize("value", [EVIL, HARMLESS, {"a\x9b": ["\x1b\n", 1]}])
def test_json_says_the_same_and_commands_nothing(value: object) -> None:
    text = printable_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert obeyed(text) == []
    assert json.loads(text) == value


def test_the_ways_out(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(EVIL)
    console.note(EVIL)
    console.show_json({EVIL: EVIL})
    console.show_json_line([EVIL])
    assert list(console.with_progress([1], EVIL)) == [1]
    assert exit_code(ValueError(f"{EVIL}: no such file")) == 2
    assert exit_code(FileNotFoundError(2, "no such file", EVIL)) == 2
    seen = capsys.readouterr()
    assert obeyed(seen.out + seen.err) == []
    assert seen.err.count("error: ") == 2
    assert "\\x1b[31mred" in seen.err


def test_one_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.show("a.png\nerror: the disk is full")
    console.note("b.png\nerror: the disk is full")
    seen = capsys.readouterr()
    assert (seen.out.count("\n"), seen.err.count("\n")) == (1, 1)


def test_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        quiet_libraries()
        warnings.showwarning(UserWarning(EVIL), UserWarning, "a.py", 1)
    assert obeyed(capsys.readouterr().err) == []


@pytest.mark.parametrize("text", [EVIL, "[link=http://example.org]click[/link]", "[/nothing]"])
def test_tables_on_a_terminal_have_our_colours_alone(text: str) -> None:
    screen = console.Screen(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=200)
    table = Table(text, style="red")
    table.add_row(text)
    screen.print(table)
    screen.print(text)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[" in shown
    assert "\x1b]" not in shown
    assert "\x9b" not in shown
    assert shown.count(printable(text)) == 3


def test_file_names_in_other_encodings_do_not_end_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    console.show(b"caf\xe9.png".decode("utf-8", "surrogateescape"))
    assert out.buffer.getvalue() == b"caf\\udce9.png\n"  # type: ignore[attr-defined]
