"""Modality record: everything the framework knows about a modality.

Imports no torch: the command line reads records for its help. Built-in records refer to functions by `Late`, which
imports their modules on the first call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

from versatile_diffusion.printable import shown

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from torch import nn

ZEROS = "zeros"
"""Null context of zeros, available for every modality."""
UPLOADED = ("recorded", "file")
"""Input forms whose values are files that the modality's record reads."""
FORMS = ("typed", "painted", *UPLOADED)


@dataclass(frozen=True)
class Late:
    """Function imported on its first call. Args: where: `module:name`."""

    where: str

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function itself; `inspect` reads its signature here."""
        module, name = self.where.split(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.__wrapped__(*args, **options)


class LateValues(Mapping[str, Any]):
    """Values by name, computed on first access."""

    def __init__(self, **factories: Callable[[], Any]):
        self._factories, self._values = factories, dict[str, Any]()

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            self._values[name] = self._factories[name]()
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._factories

    def __iter__(self) -> Iterator[str]:
        return iter(self._factories)

    def __len__(self) -> int:
        return len(self._factories)


def _numbers(value: Any) -> Any:
    import numpy as np

    return np.asarray(value)


def _one_value(file: Path) -> list[Any]:
    return [str(file)]


@dataclass(frozen=True)
class Modality:
    """Everything the framework knows about a modality. A new one needs the first four fields; others have defaults.

    Args:
        name: key of its streams.
        data_stream: `(plan, **options) -> nn.ModuleList`, one block per stage; None if it cannot be generated.
        context_stream: `(plan, **options) -> nn.ModuleList`, one per attention; None if it cannot condition.
        check: converts user input (path, array, ...) to the raw value, or raises ValueError.

        blanks: named empty raw values; tasks choose one as null context.
        null: default null context: one of the blanks, or `"zeros"`.
        check_mask: `(mask, raw value or None)`: converts user input to a mask in 0..1, white (1) keeps; None if masks
            are not supported.
        paste: `(made, kept, mask)`: blends `made` where the mask is white with `kept` elsewhere; None if values have no
            parts.
        grid: whether latents are a canvas (channels, rows, columns) with a size, parts of which regions select.

        context_options, data_options, pair_options: options of flows conditioned on this modality, generating it, or
            both.
        size, decoding: those of `data_options` that set the value's size, and the codec's decoding.
        square: `(value, side)`: fits a value to a square of `side` pixels; None if it has no such size.
        crops: `(value, count, seed)`: the value and `count - 1` random crops of it; None if values have no parts.

        noun, plural: words for users; by default the name.
        guides: help text of the command-line argument; metavar: its placeholder.
        example, several: example arguments for one value and for several.
        form: input form: `"typed"` text, `"painted"` (an image to paint on), `"recorded"` (a microphone) or `"file"`.

        suffixes: readable file suffixes in lower case, preferred one first.
        suffix: suffix of written files; by default the first of `suffixes`.
        read: reads the values of a file, e.g. one per line; by default the file is one value, read by `check`.
        from_stream: `(stream, name) -> values`, for stdin; None if only files are supported.
        write: `(value, stream, chunks)`: writes a file; `chunks` are texts by name to embed, if supported.
        embeds: whether files embed these chunks; otherwise records are JSON files beside them.
        model: model of this project that has it, if not the usual one.
        media: media type of written files, if browsers show or play it (`modalities/media.py`).
        together: whether the values of a run are written to one file, one per line.

        plain: whether raw values are plain JSON, recorded as is; others are recorded by hash.
        numbers: array of a raw value to hash.
        said: `(value) -> key`, equal for duplicates; None if values are never duplicates.
        draw: draws a value as an image for thumbnails, sheets, terminal and reports; None if shown as text.
        words: formats a value as one line of text.
        forms: by `output_type`, converts a list of values to an array or tensor.
        parts: codecs and context encoders of this modality by class name: `module:class`.
        measures: metrics of generated values, by name in `evaluation/measures.py`.

    Raises:
        ValueError: an invalid null context or form.
    """

    name: str
    data_stream: Callable[..., nn.ModuleList] | None
    context_stream: Callable[..., nn.ModuleList] | None
    check: Callable[[Any], Any]

    blanks: Mapping[str, Any] = field(default_factory=dict)
    null: str = ZEROS
    check_mask: Callable[..., Any] | None = None
    paste: Callable[[Any, Any, Any], Any] | None = None
    grid: bool = False

    context_options: frozenset[str] = frozenset()
    data_options: frozenset[str] = frozenset()
    pair_options: frozenset[str] = frozenset()
    size: tuple[str, ...] = ()
    decoding: tuple[str, ...] = ()
    square: Callable[[Any, int], Any] | None = None
    crops: Callable[[Any, int, int], list[Any]] | None = None

    noun: str = ""
    plural: str = ""
    guides: str = ""
    metavar: str = "FILE"
    example: str = ""
    several: str = ""
    form: str = "file"

    suffixes: tuple[str, ...] = ()
    suffix: str = ""
    read: Callable[[Path], list[Any]] = _one_value
    from_stream: Callable[[BinaryIO, str], list[Any]] | None = None
    write: Callable[[Any, BinaryIO, Mapping[str, str]], None] | None = None
    embeds: bool = False
    model: str = ""
    media: str = ""
    together: bool = False

    plain: bool = False
    numbers: Callable[[Any], Any] = _numbers
    said: Callable[[Any], Any] | None = None
    draw: Callable[[Any], Image.Image] | None = None
    words: Callable[[Any], str] | None = None
    forms: Mapping[str, Callable[[Sequence[Any]], Any]] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    measures: tuple[str, ...] = ("agreement",)

    def __post_init__(self) -> None:
        if self.null != ZEROS and self.null not in self.blanks:
            raise ValueError(f"null of {self.name} is {shown(self.null)}; allowed: {', '.join((ZEROS, *self.blanks))}")
        if self.form not in FORMS:
            raise ValueError(f"form of {self.name} is {shown(self.form)}; allowed: {', '.join(FORMS)}")
        noun = self.noun or self.name
        usual = {
            "noun": noun,
            "plural": f"{noun}s",
            "guides": f"{noun.capitalize()} to condition on",
            "suffix": (*self.suffixes, "")[0],
            "words": lambda value: noun,
        }
        for name, value in usual.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        file = f"{self.name}{self.suffix}"
        for name, value in {"example": file, "several": f"{self.plural}/"}.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)

    @property
    def own_options(self) -> frozenset[str]:
        """Options of flows with this modality alone."""
        return self.context_options | self.data_options | self.pair_options

    def line(self, value: Any) -> str:
        """Format a value as one line of text."""
        assert self.words is not None
        return self.words(value)
