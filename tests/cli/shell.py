"""A little shell that runs command lines of `versatile` in this process, with their pipes and redirections."""

from __future__ import annotations

import glob
import io
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from unittest import mock

from versatile_diffusion.cli import main
from versatile_diffusion.cli.io import console


@dataclass(frozen=True)
class Done:
    """What came of a command line: exit code, what was left on stdout, and stderr."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    def documents(self) -> list[dict]:
        """The JSON on stdout; fails where anything else is there."""
        return list(documents(self.text))


def run(line: str, given: bytes = b"", more: tuple[str, ...] = ()) -> Done:
    """One command line, run in the current folder.

    Args:
        line: with `|`, `<` and `>`, and patterns of file names.
        given: what comes through stdin.
        more: arguments that each `versatile` gets besides.
    """
    done, errors = Done(0, given, ""), ""
    for words in parts(line):
        stdin = Path(redirected(words, "<") or "/dev/null").read_bytes() if "<" in words else done.out
        target = redirected(words, ">")
        program, *arguments = [word for pattern in words for word in sorted(glob.glob(pattern)) or [pattern]]
        done = PROGRAMS[program]([*arguments, *(more if program == "versatile" else ())], stdin)
        errors += done.err
        if done.code:
            break
        if target:
            Path(target).write_bytes(done.out)
            done = Done(0, b"", "")
    return Done(done.code, done.out, errors)


def parts(line: str) -> Iterator[list[str]]:
    """The words of each program in a pipe."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|<>")
    words.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in words:
        found.append([]) if word == "|" else found[-1].append(word)
    yield from found


def redirected(words: list[str], sign: str) -> str | None:
    """The file after `<` or `>`, both taken out of the words."""
    if sign not in words:
        return None
    place = words.index(sign)
    _, file = words[place], words.pop(place + 1)
    words.pop(place)
    return file


def versatile(arguments: list[str], stdin: bytes) -> Done:
    out, err = io.BytesIO(), io.StringIO()
    streams = {"stdin": io.TextIOWrapper(io.BytesIO(stdin)), "stdout": io.TextIOWrapper(out, write_through=True)}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "stdin", streams["stdin"]))
        stack.enter_context(redirect_stdout(streams["stdout"]))
        stack.enter_context(redirect_stderr(err))
        for stream in (console.stdout, console.stderr):  # as wide as a file is
            stack.enter_context(mock.patch.object(stream, "_width", None))
        code = main(arguments)
        streams["stdout"].flush()
    return Done(code, out.getvalue(), err.getvalue())


def jq(arguments: list[str], stdin: bytes) -> Done:
    """Of jq no more than its documents: each must have what is asked for first."""
    keys = arguments[-1].lstrip(".").partition("[")[0].split(".")
    values = [reduce(lambda value, key: value[key], keys, document) for document in documents(stdin.decode())]
    return Done(0, json.dumps(values).encode(), "")


PROGRAMS = {"versatile": versatile, "jq": jq}


def documents(text: str) -> Iterator[dict]:
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:]
