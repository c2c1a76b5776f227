"""The canvas on which something is generated: its parts, and what is on it at the start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.base import Codec
from versatile_diffusion.sampling.denoise import at_level
from versatile_diffusion.sampling.output import record_of

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Part:
    """A part of the canvas.

    Args:
        given: as the user gave it.
        content: a mask (H, W) of numbers 0..1, or a box (left, top, right, bottom) in shares of the canvas.
    """

    given: Any
    content: np.ndarray | Box

    @classmethod
    def check(cls, given: Any, what: str, data: str, shape: Sequence[int]) -> Part:
        """A part of the canvas of latents of `shape`; `what` it is for is named in messages.

        Raises:
            ValueError: what is generated has no canvas, or it is no mask of the canvas' proportions and no box in it.
        """
        check_mask = MODALITIES[data].check_mask
        if check_mask is None or len(shape) != 3:
            raise ValueError(f"{what} is given, but a {data} has no canvas that could have parts")
        if isinstance(given, list | tuple):
            return cls(given, _checked_box(given, what))
        try:
            mask = check_mask(given)
            _check_proportions(mask.shape, shape[1:])
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error
        return cls(given, mask)

    def share(self, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """How much of each cell of a grid belongs to the part, 0 to 1."""
        if isinstance(self.content, tuple):
            left, top, right, bottom = self.content
            return _overlap(top, bottom, rows)[:, None] * _overlap(left, right, columns)
        mask = torch.from_numpy(self.content)[None, None]
        shrinks = rows <= mask.shape[2] and columns <= mask.shape[3]
        return F.interpolate(mask, (rows, columns), mode="area" if shrinks else "bilinear")[0, 0]

    def touched(self, rows: int, columns: int) -> Bool[Tensor, "rows columns"]:
        """Which cells of a grid the part touches at all."""
        if isinstance(self.content, tuple):
            return self.share(rows, columns) > 0
        return F.adaptive_max_pool2d(torch.from_numpy(self.content)[None], (rows, columns))[0] > 0

    def record(self) -> Any:
        """Plain JSON: the box, or a hash of the mask."""
        return list(self.content) if isinstance(self.content, tuple) else record_of(self.given, self.content)


def _checked_box(given: Sequence[Any], what: str) -> Box:
    if len(given) == 4 and all(isinstance(edge, int | float) for edge in given):
        left, top, right, bottom = (float(edge) for edge in given)
        if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
            return left, top, right, bottom
    raise ValueError(
        f"{what} is {tuple(given)}; a box is (left, top, right, bottom) in shares of the canvas, with "
        f"0 <= left < right <= 1 and 0 <= top < bottom <= 1"
    )


def _check_proportions(shape: Sequence[int], canvas: Sequence[int]) -> None:
    height, width, rows, columns = *shape, *canvas
    if abs(height - width * rows / columns) > 1 and abs(width - height * columns / rows) > 1:
        raise ValueError(
            f"a mask of {width} x {height} on a canvas of the proportions {columns}:{rows}; give the proportions of "
            f"the canvas, in any size"
        )


def _overlap(start: float, end: float, cells: int) -> Float[Tensor, " cells"]:
    """Share of each of so many cells, side by side from 0 to 1, that lies between two places."""
    edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    shared = edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)
    return (shared.clamp(min=0) * cells).float().clamp(max=1)


@dataclass(frozen=True)
class Start:
    """What generation begins from, and which part of it is made anew; all else of it is kept, exactly.

    Args:
        given: as the user gave it.
        content: the checked raw value, or latents (N, ...).
        data: the modality.
        size: that was asked for, `height` and `width` if any.
        repaint: the part that is made anew; None for all of it.
    """

    given: Any
    content: Any
    data: str
    size: Mapping[str, int]
    repaint: Part | None = None

    @classmethod
    def check(
        cls, given: Any, repaint: Any, data: str, size: Mapping[str, int], shape: tuple[int, ...], counts: Sequence[int]
    ) -> Start:
        """A start for latents of `shape`; latents may be one, or as many as `counts` has (prompts, items).

        Raises:
            ValueError: it is no value of the modality, its latents have another shape, or the part is none of it.
        """
        part = None if repaint is None else Part.check(repaint, "repaint", data, shape)
        if not isinstance(given, Tensor):
            return cls(given, MODALITIES[data].check(given), data, size, part)
        if tuple(given.shape) not in (shape, *((n, *shape) for n in (1, *counts))):
            raise ValueError(
                f"start latents are {tuple(given.shape)}; they must be {shape}, or one per prompt or item: "
                f"{(max(counts), *shape)}"
            )
        return cls(given, given.reshape(-1, *shape), data, size, part)

    def latents(self, codec: Codec, like: Tensor) -> Tensor:
        """Clean latents for as many items as `like` (B, ...) has."""
        raw = not isinstance(self.content, Tensor)
        clean = codec.encode([codec.fit(self.content, **self.size)], None, **self.size) if raw else self.content
        clean = clean.to(like).reshape(-1, *like.shape[1:])  # in a layout that does not depend on where it is from
        return repeat(clean, "n ... -> (n copies) ...", copies=len(like) // len(clean)).contiguous()

    def hold(self, scheduler: Any, clean: Tensor, noise: Tensor) -> Callable[[Tensor, int], Tensor] | None:
        """`(latent, step) -> latent`: what is kept is the start, as noisy as it has to be before that step."""
        if self.repaint is None:
            return None
        anew = self.repaint.touched(*clean.shape[-2:]).to(clean.device)
        return lambda latent, step: torch.where(anew, latent, at_level(scheduler, clean, noise, step))

    def finish(self, codec: Codec, values: Sequence[Any]) -> list[Any]:
        """Decoded values with what is kept of the raw value pasted over them; soft edges of the part blend. Of a start
        that was given as latents only these are kept."""
        paste = MODALITIES[self.data].paste
        if self.repaint is None or paste is None or isinstance(self.content, Tensor):
            return list(values)
        kept = codec.fit(self.content, **self.size)
        mask = self.repaint.share(*np.asarray(kept).shape[:2]).numpy()
        return [paste(value, kept, mask) for value in values]

    def record(self) -> dict[str, Any]:
        """Plain JSON: both by a hash of their content."""
        part = None if self.repaint is None else self.repaint.record()
        content = self.given if isinstance(self.given, Tensor) else self.content
        return {"start": record_of(self.given, content), "repaint": part}
