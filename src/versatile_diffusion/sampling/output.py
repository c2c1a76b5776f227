"""What a run gives back: values, latents, and the settings that made them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from versatile_diffusion.layers.on_use import unread
from versatile_diffusion.sampling.guidance import Cost

if TYPE_CHECKING:  # ranking records values, as outputs do
    from versatile_diffusion.sampling.ranking import Ranked


@dataclass(frozen=True)
class Output:
    """Result of one run; iterating gives one Output per item, with its own seed.

    Args:
        data: the modality that was generated.
        values: one per item: pictures (`.images`), texts (`.texts`), in the form of `output_type`.
        latents: (B, ...) as the diffuser left them.
        settings: all that is needed to make it again, plain JSON; `VersatileDiffusionPipeline.replay` takes it.
        prompts: per item, the text that guided it (its style phrase included), where there was one.
        cost: passes through the diffuser and blocks run, for one item.
        layer_plan: of layer mixing, per step the context that each block took (`Request.layer_plan` repeats it).
        ranking: with `rank`, what was made, best first and duplicates merged.
    """

    data: str
    values: Any
    latents: Float[Tensor, "b ..."] = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    prompts: tuple[str | None, ...] = ()
    cost: Cost = field(default_factory=Cost, repr=False)
    layer_plan: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    ranking: tuple[Ranked, ...] = field(default=(), repr=False)

    @property
    def images(self) -> Any:
        """The pictures: PIL images, one array or tensor in [0, 1], or latents, as `output_type` said."""
        return self._as("images", "image")

    @property
    def texts(self) -> list[str]:
        """The texts."""
        return self._as("texts", "text")

    def _as(self, name: str, data: str) -> Any:
        if self.data != data:
            raise AttributeError(f"this output has no {name}: it holds what was generated of modality {self.data!r}")
        return self.values

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> Output:
        """Item `index` as an Output of its own; its settings also hold `index`, `seed` and `prompt`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        position = self.settings.get("index", index)
        item = {"index": position, "seed": self.settings["seeds"][position], "prompt": self.prompts[index]}
        one = slice(index, index + 1)
        return replace(
            self,
            values=self.values[one],
            latents=self.latents[one],
            settings=self.settings | item,
            prompts=self.prompts[one],
            ranking=(),
        )

    def __iter__(self) -> Iterator[Output]:
        return (self[index] for index in range(len(self)))


def as_array(images: Sequence[Image.Image]) -> Float[np.ndarray, "b h w c"]:
    """Pictures to an array in [0, 1]."""
    return np.stack([np.asarray(image, dtype=np.float32) / 255 for image in images])


def as_tensor(images: Sequence[Image.Image]) -> Float[Tensor, "b c h w"]:
    """Pictures to a tensor in [0, 1]."""
    return rearrange(torch.from_numpy(as_array(images)), "b h w c -> b c h w")


OUTPUT_TYPES: dict[str, Callable[[Any], Any]] = {"pil": lambda values: values, "np": as_array, "pt": as_tensor}
"""Forms of generated pictures; `"latent"` besides, which decodes nothing."""


def converted(values: list[Any], output_type: str) -> Any:
    """Decoded values in the form asked for; texts have one form only."""
    return OUTPUT_TYPES[output_type](values) if isinstance(values[0], Image.Image) else values


def record_of(given: Any, raw: Any) -> Any:
    """A value for the settings: a text as it is, everything else by a hash of its content.

    Args:
        given: what the user gave; where it was a path, the record names the file.
        raw: the raw value that it stands for.
    """
    if raw is None or isinstance(raw, str):
        return raw
    array = raw.detach().cpu().float().numpy() if isinstance(raw, Tensor) else np.asarray(raw)
    digest = hashlib.sha256(repr((array.shape, str(array.dtype))).encode() + np.ascontiguousarray(array).tobytes())
    file = {"file": str(given)} if isinstance(given, str | PathLike) else {}
    return {"sha256": digest.hexdigest(), "shape": list(array.shape)} | file


def fingerprint(*modules: nn.Module, precision: torch.dtype = torch.float32) -> str:
    """A short hash that tells models apart by their weights: a few numbers of every parameter go into it, rounded to
    `precision`."""
    digest = hashlib.sha256()
    for module in modules:
        waiting = unread(module)
        for name, tensor in module.state_dict().items():
            flat = (waiting[name]() if name in waiting else tensor).flatten()
            few = flat[:: max(1, len(flat) // 16)][:16].to(tensor.dtype).to(precision).float().cpu().numpy()
            digest.update(name.encode() + repr(tuple(tensor.shape)).encode() + few.tobytes())
    return digest.hexdigest()[:16]
