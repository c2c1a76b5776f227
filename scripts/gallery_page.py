"""Entries of the gallery page, and how they are written."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.sheets import label_grid

Samples = Mapping[str, Any]
"""Images by name."""


@dataclass(frozen=True)
class Shown:
    """Result of an entry: images (or none) row by row, labels of columns and rows, and the lines of text below."""

    images: Sequence[Image.Image]
    columns: Sequence[Any]
    rows: Sequence[Any] = ("",)
    text: Sequence[str] = ()

    def sheet(self) -> Image.Image:
        """All images on one sheet; smaller ones are centred on white."""
        if len(self.images) != len(self.rows) * len(self.columns):
            raise ValueError(f"{len(self.images)} images for {len(self.rows)} x {len(self.columns)} labels")
        size = max(image.width for image in self.images), max(image.height for image in self.images)
        rows, columns = list(map(str, self.rows)), list(map(str, self.columns))
        return label_grid([_on_white(image, size) for image in self.images], rows, columns)


Run = Callable[[VersatileDiffusionPipeline, Samples], Shown]


@dataclass(frozen=True)
class Entry:
    """One section of the page.

    Args:
        title: heading of the section.
        run: function that makes it; the page shows its docstring and its body.
        command: command that does the same, or a part of it.
        held_out: whether it uses held-out images instead of the samples.
    """

    title: str
    run: Run
    command: str = ""
    held_out: bool = False

    @property
    def name(self) -> str:
        return self.run.__name__.replace("_", "-")

    def code(self) -> str:
        """Body of the function without its docstring and its last statement, the layout of the sheet."""
        source = textwrap.dedent(inspect.getsource(self.run))
        function = ast.parse(source).body[0]
        assert isinstance(function, ast.FunctionDef)
        first, last = function.body[1], function.body[-1]
        return textwrap.dedent("\n".join(source.splitlines()[first.lineno - 1 : last.lineno - 1]))

    def markdown(self, shown: Shown, sheet: str) -> str:
        """The section in Markdown; `sheet` is the path of its sheet, if there is one."""
        words = " ".join((inspect.getdoc(self.run) or "").split())
        blocks = [f"## {self.title}", words, f"```python\n{self.code()}\n```"]
        blocks += [f"```\n{self.command}\n```"] if self.command else []
        blocks += [f"![{self.title}]({sheet})"] if shown.images else []
        blocks += ["\n".join(f"* {line}" for line in shown.text)] if shown.text else []
        return "\n\n".join(blocks) + "\n"


def entry(entries: list[Entry], title: str, command: str = "", held_out: bool = False) -> Callable[[Run], Run]:
    """Add a function to the entries; see `Entry`."""

    def put(run: Run) -> Run:
        entries.append(Entry(title, run, command, held_out))
        return run

    return put


def _on_white(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Centre an image on a white canvas of `size`."""
    if image.size == size:
        return image
    canvas = Image.new("RGB", size, "white")
    canvas.paste(image.convert("RGB"), ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas
