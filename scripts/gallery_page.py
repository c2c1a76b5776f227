"""Parts of the gallery's page: what one is, and how it is written."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.cli.sheet import labelled

Pictures = Mapping[str, Any]
"""Raw pictures by name."""


@dataclass(frozen=True)
class Shown:
    """What came of a part: pictures (or none) row by row, labels of columns and rows, and lines of text below them."""

    images: Sequence[Image.Image]
    columns: Sequence[Any]
    rows: Sequence[Any] = ("",)
    text: Sequence[str] = ()

    def sheet(self) -> Image.Image:
        """All on one sheet; pictures smaller than the largest stand on white."""
        if len(self.images) != len(self.rows) * len(self.columns):
            raise ValueError(f"{len(self.images)} pictures for {len(self.rows)} x {len(self.columns)} labels")
        size = max(image.width for image in self.images), max(image.height for image in self.images)
        rows, columns = list(map(str, self.rows)), list(map(str, self.columns))
        return labelled([_on_white(image, size) for image in self.images], rows, columns)


Run = Callable[[VersatileDiffusionPipeline, Pictures], Shown]


@dataclass(frozen=True)
class Entry:
    """One part of the page.

    Args:
        title: of the part.
        run: makes it; its docstring says what it is, its body is shown.
        command: that does the same, or a part of it.
        held_out: whether it takes held-out pictures in place of the samples.
    """

    title: str
    run: Run
    command: str = ""
    held_out: bool = False

    @property
    def name(self) -> str:
        return self.run.__name__.replace("_", "-")

    def code(self) -> str:
        """The body of the function without its docstring and the layout of the sheet."""
        source = textwrap.dedent(inspect.getsource(self.run))
        function = ast.parse(source).body[0]
        assert isinstance(function, ast.FunctionDef)
        first, last = function.body[1], function.body[-1]
        return textwrap.dedent("\n".join(source.splitlines()[first.lineno - 1 : last.lineno - 1]))

    def markdown(self, shown: Shown, picture: str) -> str:
        """The part of the page; `picture` is where its sheet lies, if there is one."""
        words = " ".join((inspect.getdoc(self.run) or "").split())
        blocks = [f"## {self.title}", words, f"```python\n{self.code()}\n```"]
        blocks += [f"```\n{self.command}\n```"] if self.command else []
        blocks += [f"![{self.title}]({picture})"] if shown.images else []
        blocks += ["\n".join(f"* {line}" for line in shown.text)] if shown.text else []
        return "\n\n".join(blocks) + "\n"


def entry(entries: list[Entry], title: str, command: str = "", held_out: bool = False) -> Callable[[Run], Run]:
    """Adds a function to the entries; see `Entry`."""

    def put(run: Run) -> Run:
        entries.append(Entry(title, run, command, held_out))
        return run

    return put


def _on_white(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture in the middle of a white one of `size`."""
    if image.size == size:
        return image
    canvas = Image.new("RGB", size, "white")
    canvas.paste(image.convert("RGB"), ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas
