"""The two interfaces of a modality: codec and context encoder.

* raw value (PIL image, str, ...) -> `Codec` -> latent, which the diffuser denoises.
* raw value -> `ContextEncoder` -> context tokens (B, L, D), which condition it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin
from torch import Tensor

from versatile_diffusion.layers.on_use import LoadsOnUse
from versatile_diffusion.modalities.modality import Modality as Modality
from versatile_diffusion.numeric import as_tensor, check_finite

Generators = Sequence[torch.Generator] | None


class Part(LoadsOnUse, ConfigMixin):
    """Base class of codecs and context encoders; checks that tensors entering and leaving are finite."""

    modality: ClassVar[str]
    GIVES: ClassVar[Mapping[str, str]] = {}
    """Methods that return tensors, and a description for messages."""
    TAKES: ClassVar[Mapping[str, str]] = {}
    """Methods that take tensors, and a description for messages."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in (cls.GIVES.keys() | cls.TAKES.keys()) & vars(cls).keys():
            setattr(cls, name, _check_finite(vars(cls)[name], cls.TAKES.get(name), cls.GIVES.get(name)))


def _check_finite(method: Callable[..., Any], takes: str | None, gives: str | None) -> Callable[..., Any]:
    """Wrap a part's method to raise ValueError if its first argument or its result is not finite."""

    @wraps(method)
    def checked(self: Part, values: Any, *args: Any, **options: Any) -> Any:
        if takes is not None:
            values = check_finite(as_tensor(values, f"the {self.modality} {takes}"), f"the {self.modality} {takes}")
        made = method(self, values, *args, **options)
        return made if gives is None else check_finite(made, f"the {self.modality} {gives}", self)

    return checked


class Codec(Part):
    """Autoencoder of one modality. Latents are scaled to what the diffuser expects (about unit variance)."""

    preprocessing: ClassVar[int] = 1  # version of the preprocessing, recorded with embeddings
    GIVES = MappingProxyType({"encode": "latents that the codec encoded"})
    TAKES = MappingProxyType({"decode": "latents to decode"})

    @abstractmethod
    def latent_shape(self, **size: int) -> tuple[int, ...]:
        """Return the shape of one latent without batch axis, e.g. (4, 64, 64) for a 512 x 512 image."""

    @abstractmethod
    def encode(self, values: Sequence[Any], generators: Generators = None, **size: int) -> Tensor:
        """Encode raw values to latents (B, *latent_shape(**size)): samples of the posterior (if the codec has one)
        with one generator per item, its mean without generators."""

    def fit(self, value: Any, **size: int) -> Any:
        """Return the raw value at the size of generated ones; unchanged if sizes do not apply."""
        return value

    def save_memory(self, way: str, on: bool) -> bool:
        """Switches a way to save memory: `"slicing"` (item by item) or `"tiling"` (piece by piece). Whether this codec
        has it."""
        return False

    @abstractmethod
    def decode(self, latents: Tensor, generators: Generators = None, **options: Any) -> list[Any]:
        """Decode latents (B, *latent_shape) to raw values. `generators` (one per item) are for codecs that sample."""


class ContextEncoder(Part):
    """Encodes raw values of one modality to context tokens."""

    preprocessing: ClassVar[int] = 1  # as in Codec
    GIVES = MappingProxyType({"encode": "context tokens that the encoder gave", "compare": "vectors to compare"})
    space: ClassVar[str | None] = None  # encoders of a model with the same space are comparable

    @abstractmethod
    def encode(self, values: Sequence[Any], masks: Sequence[Any] | None = None) -> Tensor:
        """Encode raw values to context tokens (B, L, D). `masks` has one entry per value; None uses the whole value."""

    def fit(self, value: Any) -> Any:
        """Return the part of the raw value that can be encoded; long texts are truncated."""
        return value

    def compare(self, values: Sequence[Any]) -> Tensor:
        """Encode raw values to unit vectors (B, D) in the space `space`; inner products measure similarity, within and
        across modalities. Only for encoders with a `space`.

        Raises:
            ValueError: the encoder has no space.
        """
        raise ValueError(f"{type(self).__name__} has no shared embedding space")
