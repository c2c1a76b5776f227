"""The vocabulary: what a modality is, and the two interfaces that it brings along.

* raw value (PIL image, str, ...) -> `Codec` -> latent, which the diffuser denoises.
* raw value -> `ContextEncoder` -> context tokens (B, L, D), which guide it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin
from torch import Tensor, nn

from versatile_diffusion.layers.on_use import LoadsOnUse

Generators = Sequence[torch.Generator] | None


class Codec(LoadsOnUse, ConfigMixin):
    """Autoencoder of one modality. Latents are scaled to what the diffuser expects (about unit variance)."""

    modality: ClassVar[str]
    preprocessing: ClassVar[int] = 1  # counts up when raw values are prepared otherwise; embeddings record it

    @abstractmethod
    def latent_shape(self, **size: int) -> tuple[int, ...]:
        """Shape of one latent without the batch axis, e.g. (4, 64, 64) for a 512 x 512 picture."""

    @abstractmethod
    def encode(self, values: Sequence[Any], generators: Generators = None, **size: int) -> Tensor:
        """Raw values to latents (B, *latent_shape(**size)). With one generator per item the posterior is sampled (where
        the codec has one), without generators its mean is taken."""

    def fit(self, value: Any, **size: int) -> Any:
        """The raw value at the size that generated ones have; unchanged where there is no such thing."""
        return value

    @abstractmethod
    def decode(self, latents: Tensor, generators: Generators = None, **options: Any) -> list[Any]:
        """Latents (B, *latent_shape) to raw values. `generators` (one per item) serve codecs that sample."""


class ContextEncoder(LoadsOnUse, ConfigMixin):
    """Turns raw values of one modality into context tokens."""

    modality: ClassVar[str]
    preprocessing: ClassVar[int] = 1  # as for a codec
    space: ClassVar[str | None] = None  # encoders of one model that name the same space can be compared

    @abstractmethod
    def encode(self, values: Sequence[Any], masks: Sequence[Any] | None = None) -> Tensor:
        """Raw values to context tokens (B, L, D). `masks` has one entry per value, None for the whole of it."""

    def fit(self, value: Any) -> Any:
        """The raw value as far as it can be read; a text that is too long loses its end."""
        return value

    def compare(self, values: Sequence[Any]) -> Tensor:
        """Raw values to unit vectors (B, D) in the space named by `space`: their inner products say how well values
        agree, of one modality or of two. Only for encoders that have a `space`.

        Raises:
            ValueError: this encoder has none.
        """
        raise ValueError(f"{type(self).__name__} has no space that it shares with other encoders")


@dataclass(frozen=True)
class Modality:
    """All that the framework knows of a modality.

    Args:
        name: the key of its streams.
        data_stream: `(plan, **options) -> nn.ModuleList`, one block per stage of the plan; None if never generated.
        context_stream: `(plan, **options) -> nn.ModuleList`, one per attention of the plan; None if it never guides.
        check: takes what a user may give (a path, an array, ...), returns the raw value or raises ValueError.
        blanks: named raw values that say nothing; a task picks one as its null context.
        check_mask: `(mask, raw value or None)`: takes what a user may give as a mask (of that value), returns it as
            numbers 0..1, white (1) keeps; None if only whole values can guide.
        paste: `(made, kept, mask)`: the value that is `made` where the mask is white and `kept` elsewhere; None if
            values have no parts.
    """

    name: str
    data_stream: Callable[..., nn.ModuleList] | None
    context_stream: Callable[..., nn.ModuleList] | None
    check: Callable[[Any], Any]
    blanks: Mapping[str, Any] = field(default_factory=dict)
    check_mask: Callable[..., Any] | None = None
    paste: Callable[[Any, Any, Any], Any] | None = None
