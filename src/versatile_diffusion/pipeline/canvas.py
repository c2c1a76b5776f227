"""The canvas of a generation: its parts, and the init value."""

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
from versatile_diffusion.numeric import check_finite, is_number, plain
from versatile_diffusion.printable import shown
from versatile_diffusion.records.record import record_of
from versatile_diffusion.sampling.denoise import at_level

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class CanvasPart:
    """A part of the canvas.

    Args:
        given: as given by the user.
        content: a mask (H, W) in 0..1, or a box (left, top, right, bottom) as fractions of the canvas.
    """

    given: Any
    content: np.ndarray | Box

    @classmethod
    def check(cls, given: Any, what: str, data: str, shape: Sequence[int]) -> CanvasPart:
        """Check a part of the canvas for latents of `shape`; `what` names it in messages.

        Raises:
            ValueError: the modality has no canvas, or an invalid mask or box.
        """
        check_mask = MODALITIES[data].check_mask
        if check_mask is None or not MODALITIES[data].grid:
            raise ValueError(f"{what} is given, but {data} has no canvas")
        if isinstance(given, list | tuple) or getattr(given, "ndim", None) == 1:
            return cls(given, _checked_box([plain(edge) for edge in given], what))
        try:
            mask = check_mask(given)
            _check_proportions(mask.shape, shape[1:])
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error
        return cls(given, mask)

    def share(self, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """Return the coverage of each grid cell by the part, 0 to 1."""
        if isinstance(self.content, tuple):
            left, top, right, bottom = self.content
            return _overlap(top, bottom, rows)[:, None] * _overlap(left, right, columns)
        mask = torch.from_numpy(self.content)[None, None]
        shrinks = rows <= mask.shape[2] and columns <= mask.shape[3]
        return F.interpolate(mask, (rows, columns), mode="area" if shrinks else "bilinear")[0, 0]

    def touched(self, rows: int, columns: int) -> Bool[Tensor, "rows columns"]:
        """Return the grid cells that overlap the part."""
        if isinstance(self.content, tuple):
            return self.share(rows, columns) > 0
        return F.adaptive_max_pool2d(torch.from_numpy(self.content)[None], (rows, columns))[0] > 0

    def record(self) -> Any:
        """Plain JSON: the box, or the mask's hash."""
        return list(self.content) if isinstance(self.content, tuple) else record_of(self.given, self.content)


def _checked_box(given: Sequence[Any], what: str) -> Box:
    if len(given) == 4 and all(map(is_number, given)):
        left, top, right, bottom = (float(edge) for edge in given)
        if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
            return left, top, right, bottom
    raise ValueError(
        f"{what} is {shown(tuple(given))}; a box is (left, top, right, bottom) as fractions of the canvas, with "
        f"0 <= left < right <= 1 and 0 <= top < bottom <= 1"
    )


def _check_proportions(shape: Sequence[int], canvas: Sequence[int]) -> None:
    height, width, rows, columns = *shape, *canvas
    if abs(height - width * rows / columns) > 1 and abs(width - height * columns / rows) > 1:
        raise ValueError(
            f"the mask is {width} x {height}, but the canvas has aspect ratio {columns}:{rows}; give a mask of that "
            f"aspect ratio, in any size"
        )


def _overlap(start: float, end: float, cells: int) -> Float[Tensor, " cells"]:
    """Return the fraction of each of `cells` equal cells of [0, 1] that lies between two positions."""
    edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    shared = edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)
    return (shared.clamp(min=0) * cells).float().clamp(max=1)


@dataclass(frozen=True)
class Start:
    """The init value of a generation, and the part to regenerate; the rest is kept exactly.

    Args:
        given: as given by the user.
        content: the checked raw value, or latents (N, ...).
        data: modality.
        size: requested `height` and `width`, if any.
        repaint: part to regenerate; None for everything.
    """

    given: Any
    content: Any
    data: str
    size: Mapping[str, int]
    repaint: CanvasPart | None = None

    @classmethod
    def check(
        cls, given: Any, repaint: Any, data: str, size: Mapping[str, int], shape: tuple[int, ...], counts: Sequence[int]
    ) -> Start:
        """Check an init value for latents of `shape`; latents may be one, or one per entry of `counts` (prompts,
        items).

        Raises:
            ValueError: an invalid value of the modality, latents of another shape, or an invalid part.
        """
        part = None if repaint is None else CanvasPart.check(repaint, "repaint", data, shape)
        if not isinstance(given, Tensor):
            return cls(given, MODALITIES[data].check(given), data, size, part)
        if tuple(given.shape) not in (shape, *((n, *shape) for n in (1, *counts))):
            raise ValueError(
                f"init latents are {tuple(given.shape)}; they must be {shape}, or one per prompt or item: "
                f"{(max(counts), *shape)}"
            )
        check_finite(given, f"the {data} init latents")
        return cls(given, given.reshape(-1, *shape), data, size, part)

    def latents(self, codec: Codec, like: Tensor) -> Tensor:
        """Return clean latents for the batch of `like` (B, ...)."""
        raw = not isinstance(self.content, Tensor)
        clean = codec.encode([codec.fit(self.content, **self.size)], None, **self.size) if raw else self.content
        clean = clean.to(like).reshape(-1, *like.shape[1:])  # memory layout independent of the source
        return repeat(clean, "n ... -> (n copies) ...", copies=len(like) // len(clean)).contiguous()

    def hold(self, scheduler: Any, clean: Tensor, noise: Tensor) -> Callable[[Tensor, int], Tensor] | None:
        """Return `(latent, step) -> latent`, which resets the kept part to the init latent at that step's noise
        level."""
        if self.repaint is None:
            return None
        anew = self.repaint.touched(*clean.shape[-2:]).to(clean.device)
        return lambda latent, step: torch.where(anew, latent, at_level(scheduler, clean, noise, step))

    def finish(self, codec: Codec, values: Sequence[Any]) -> list[Any]:
        """Paste the kept part of the raw init value over decoded values, blending soft edges. For an init value given
        as latents, the values are unchanged."""
        paste = MODALITIES[self.data].paste
        if self.repaint is None or paste is None or isinstance(self.content, Tensor):
            return list(values)
        kept = codec.fit(self.content, **self.size)
        mask = self.repaint.share(*np.asarray(kept).shape[:2]).numpy()
        return [paste(value, kept, mask) for value in values]

    def record(self) -> dict[str, Any]:
        """Plain JSON: init value and part by content hash."""
        part = None if self.repaint is None else self.repaint.record()
        content = self.given if isinstance(self.given, Tensor) else self.content
        return {"start": record_of(self.given, content, MODALITIES[self.data].numbers), "repaint": part}
