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
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

Generators = Sequence[torch.Generator] | None


class Codec(ModelMixin, ConfigMixin):
    """Autoencoder of one modality. Latents are scaled to what the diffuser expects (about unit variance)."""

    modality: ClassVar[str]

    @abstractmethod
    def latent_shape(self, **size: int) -> tuple[int, ...]:
        """Shape of one latent without the batch axis, e.g. (4, 64, 64) for a 512 x 512 picture."""

    @abstractmethod
    def encode(self, values: Sequence[Any], generators: Generators = None) -> Tensor:
        """Raw values to latents (B, *latent_shape). With one generator per item the posterior is sampled (where the
        codec has one), without generators its mean is taken."""

    @abstractmethod
    def decode(self, latents: Tensor, generators: Generators = None, **options: Any) -> list[Any]:
        """Latents (B, *latent_shape) to raw values. `generators` (one per item) serve codecs that sample."""


class ContextEncoder(ModelMixin, ConfigMixin):
    """Turns raw values of one modality into context tokens."""

    modality: ClassVar[str]

    @abstractmethod
    def encode(self, values: Sequence[Any], masks: Sequence[Any] | None = None) -> Tensor:
        """Raw values to context tokens (B, L, D). `masks` has one entry per value, None for the whole of it."""


@dataclass(frozen=True)
class Modality:
    """All that the framework knows of a modality.

    Args:
        name: the key of its streams.
        data_stream: `(plan, **options) -> nn.ModuleList`, one block per stage of the plan; None if never generated.
        context_stream: `(plan, **options) -> nn.ModuleList`, one per attention of the plan; None if it never guides.
        check: takes what a user may give (a path, an array, ...), returns the raw value or raises ValueError.
        blanks: named raw values that say nothing; a task picks one as its null context.
    """

    name: str
    data_stream: Callable[..., nn.ModuleList] | None
    context_stream: Callable[..., nn.ModuleList] | None
    check: Callable[[Any], Any]
    blanks: Mapping[str, Any] = field(default_factory=dict)
