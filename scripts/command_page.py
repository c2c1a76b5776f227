"""The generated half of docs/guides/command_line.md: every verb's help, as a terminal of 100 columns shows it.

    .venv/bin/python scripts/command_page.py

What stands above the mark is written by hand and stays. `tests/house_rules/test_docs.py` compares the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from versatile_diffusion.cli.app import HELP_NAMES
from versatile_diffusion.cli.table import Verb, command, every_verb

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "command_line.md"
MARK = "<!-- Below: written by scripts/command_page.py from the help texts. -->\n"
WIDTH = 100


def generated() -> str:
    """A list of the verbs, and a section for each."""
    verbs = [(words, verb) for words, verb in every_verb() if verb.load]
    rows = (f"| [`{words}`](#{_anchor(words)}) | {verb.summary} |" for words, verb in verbs)
    return "\n".join(["## The verbs", "", "| verb | |", "|---|---|", *rows, "", *_sections(verbs)])


def _sections(verbs: list[tuple[str, Verb]]) -> Iterator[str]:
    for words, verb in verbs:
        yield f"### {words}\n\n```\n{help_of(words, verb)}\n```\n"


def help_of(words: str, verb: Verb) -> str:
    """The help text of a verb, without trailing blanks."""
    one = command(verb)
    shown: dict[str, Any] = {"terminal_width": WIDTH, "max_content_width": WIDTH, "help_option_names": HELP_NAMES}
    with one.make_context(words, [], resilient_parsing=True, **shown) as context:
        return "\n".join(line.rstrip() for line in one.get_help(context).splitlines())


def _anchor(words: str) -> str:
    return words.replace(" ", "-")


def page() -> str:
    """The whole page, its generated half written anew."""
    return PAGE.read_text(encoding="utf-8").partition(MARK)[0] + MARK + "\n" + generated()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.exit(0)
