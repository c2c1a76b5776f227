"""What arguments stand for: texts, files, all files of a folder, and what comes through stdin."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from versatile_diffusion.cli.console import note

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
READERS = dict.fromkeys(PICTURES, "image") | {".txt": "text"}
"""Endings of the files that are read, and the modality of what is in them."""
EMBEDDINGS = ".safetensors"
STDIN = "-"
LONGEST_NAME = 40


@dataclass(frozen=True)
class Input:
    """One value that guides.

    Args:
        value: a text, a picture or its file, or embeddings.
        label: what people call it: a file, or the text itself.
        stem: what files that are made of it are called after, with folders before it where a folder was given.
        file: where it is; None where it was typed, or came through stdin.
    """

    value: Any
    label: str
    stem: str
    file: Path | None = None


@dataclass(frozen=True)
class Inputs:
    """What one argument, or several, stand for.

    Args:
        items: at least one.
        many: whether more than one was meant, so that a folder of one picture is treated as one of a hundred.
    """

    items: tuple[Input, ...]
    many: bool


def inputs_of(modality: str, given: Sequence[str]) -> Inputs:
    """All inputs, in the order given, folders by name.

    Raises:
        ValueError: a folder with nothing to read in it, no such file, a text that is not UTF-8, stdin twice.
    """
    if list(given).count(STDIN) > 1:
        raise ValueError(f"{STDIN} is stdin, which can be read once only")
    items = tuple(_named_apart(one for text in given for one in _inputs(modality, text)))
    return Inputs(items, len(items) > 1 or any(os.path.isdir(text) for text in given))


def one_input(modality: str, given: str) -> Input:
    """The input that an argument stands for.

    Raises:
        ValueError: as for `inputs_of`, or it stands for several.
    """
    found = inputs_of(modality, [given])
    if found.many:
        raise ValueError(f"{given} holds several inputs; only the last argument of a task may be several")
    return found.items[0]


def _inputs(modality: str, given: str) -> Iterator[Input]:
    if given == STDIN:
        if modality not in FROM_STDIN:
            raise ValueError(f"{STDIN} (stdin) gives {' or '.join(FROM_STDIN)}, not {modality}; name a file")
        yield from FROM_STDIN[modality]()
    elif os.path.isdir(given):  # unlike pathlib's, these take any string
        files = list(files_in(Path(given), modality))
        if not files:
            endings = ", ".join(ending for ending, its in READERS.items() if its == modality)
            raise ValueError(f"{given} is a folder and holds no {modality} ({endings or 'no ending is known'})")
        for file in files:
            yield from _of_file(modality, file, file.relative_to(given).with_suffix("").as_posix())
    elif given.endswith(EMBEDDINGS) or modality != "text" or given.lower().endswith(".txt"):
        yield from _of_file(modality, Path(given), Path(given).stem)
    else:
        yield _text(given)


def _of_file(modality: str, file: Path, stem: str) -> Iterator[Input]:
    """A file as one value; of texts each line."""
    if file.suffix == EMBEDDINGS:
        from versatile_diffusion.sampling.embeddings import load_embeddings

        yield Input(load_embeddings(str(file)), str(file), stem, file)
    elif READERS.get(file.suffix.lower()) == "text" and modality == "text":
        yield from (replace(_text(line), file=file) for line in lines_of(file))
    else:
        yield Input(str(file), str(file), stem, file)


def _text(text: str) -> Input:
    return Input(text, text, name_of(text))


def _named_apart(items: Iterable[Input]) -> Iterator[Input]:
    """The items, later ones of a name that was there before with a number added."""
    seen: dict[str, int] = {}
    for item in items:
        count = seen[item.stem] = seen.get(item.stem, 0) + 1
        yield item if count == 1 else replace(item, stem=f"{item.stem}-{count}")


def _picture_from_stdin() -> Iterator[Input]:
    from versatile_diffusion.modalities.image import check_image

    data = BytesIO(_told().buffer.read())
    data.name = "stdin"  # for messages
    yield Input(check_image(data), "stdin", "stdin")


def _texts_from_stdin() -> Iterator[Input]:
    yield from (_text(line) for line in _lines(_told().buffer.read(), "stdin"))


FROM_STDIN: Mapping[str, Callable[[], Iterator[Input]]] = {"image": _picture_from_stdin, "text": _texts_from_stdin}
"""How stdin is read: the bytes of one picture, or a text on each line."""


def _told() -> Any:
    """Stdin, and a remark where a person must type it."""
    if sys.stdin.isatty():
        note("reading from the terminal; Ctrl-D ends it")
    return sys.stdin


def files_in(folder: Path, modality: str | None = None) -> Iterator[Path]:
    """Files of a modality (of any that can be read) in a folder and below, by name; hidden ones are left out."""
    for file in sorted(folder.rglob("*")):
        its = READERS.get(file.suffix.lower())
        if its is not None and modality in (None, its) and not file.name.startswith("."):
            yield file


def lines_of(file: Path) -> list[str]:
    """The texts of a file, one a line; blank lines are left out."""
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    return _lines(file.read_bytes(), str(file))


def _lines(data: bytes, name: str) -> list[str]:
    try:
        texts = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not a text in UTF-8 ({error.reason})") from error
    if not any(texts):
        raise ValueError(f"{name} holds no text")
    return [text for text in texts if text]


def name_of(text: str) -> str:
    """A file name that tells a text from others: its words, and a hash."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:LONGEST_NAME].strip("-")
    return "-".join(filter(None, (words, sha256(text.encode()).hexdigest()[:8])))
