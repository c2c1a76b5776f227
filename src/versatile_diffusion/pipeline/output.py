"""Results of a run: values, latents, and the settings that reproduce them."""

from __future__ import annotations

import operator
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any, SupportsIndex

from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.printable import MOST_SHOWN, brief, shown
from versatile_diffusion.sampling.rules import Cost

if TYPE_CHECKING:  # ranking imports this module
    from versatile_diffusion.pipeline.ranking import Ranked


@dataclass(frozen=True, repr=False)
class Output:
    """Result of one run; iterating yields one Output per item, with its own seed.

    Args:
        data: modality generated.
        values: one per item: images (`.images`), texts (`.texts`), in the form of `output_type`.
        latents: (B, ...) final latents of the diffuser.
        settings: everything needed to reproduce it, plain JSON, for `VersatileDiffusionPipeline.replay`.
        prompts: prompt of each item, including its style phrase; None without one.
        cost: diffuser passes and blocks run per item.
        layer_plan: for layer mixing, the context of each block per step (pass it as `Request.layer_plan` to repeat it).
        ranking: with `rank`, the results, best first and duplicates merged.
        considered: with `candidates`, all texts that were generated, best first and duplicates merged.
    """

    data: str
    values: Any
    latents: Float[Tensor, "b ..."]
    settings: dict[str, Any]
    prompts: tuple[str | None, ...] = ()
    cost: Cost = field(default_factory=Cost)
    layer_plan: tuple[tuple[int, ...], ...] = ()
    ranking: tuple[Ranked, ...] = ()
    considered: tuple[Ranked, ...] = ()

    @property
    def images(self) -> Any:
        """The images: PIL images, an array or tensor in [0, 1], or latents, depending on `output_type`."""
        return self._as("images", "image")

    @property
    def texts(self) -> list[str]:
        """The texts."""
        texts: list[str] = self._as("texts", "text")
        return texts

    def _as(self, name: str, data: str) -> Any:
        if self.data != data:
            raise AttributeError(f"this output has no {name}; its modality is {shown(self.data)}")
        return self.values

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: SupportsIndex) -> Output:
        """Return item `index` (negative: from the end) as its own Output; its settings also hold `index`, `seed` and
        `prompt`."""
        index = operator.index(index)
        index += len(self) if index < 0 else 0
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
            considered=(),
        )

    def __iter__(self) -> Iterator[Output]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        """One line, whatever the values are."""
        modality = MODALITIES[self.data]
        parts = [f"{len(self)} {modality.noun if len(self) == 1 else modality.plural}"]
        if isinstance(self.values, Tensor) or hasattr(self.values, "dtype"):
            parts.append(f"{type(self.values).__name__} {tuple(self.values.shape)}")
        elif modality.plain:
            parts.append(shown([modality.line(value) for value in self.values]))
        if prompts := list(dict.fromkeys(prompt for prompt in self.prompts if prompt)):
            parts.append(f"prompt {shown(prompts[0])}" if len(prompts) == 1 else f"prompts {shown(prompts)}")
        return f"Output({', '.join([*parts, f'seed {self._seeds()}'])})"

    def _seeds(self) -> str:
        seeds = self.settings.get("seeds", [])
        seeds = seeds if "index" not in self.settings else [self.settings["seed"]]
        return brief(", ".join(map(str, seeds)), MOST_SHOWN)

    def _repr_html_(self) -> str:
        """What a notebook shows: the images, or the texts, each with its prompt."""
        modality = MODALITIES[self.data]
        try:
            values = [modality.check(value) for value in self.values]
        except ValueError:  # latents or tokens
            return f"<code>{escape(repr(self))}</code>"
        if modality.draw is None:
            return f"<ul>{''.join(f'<li>{escape(modality.line(value))}</li>' for value in values)}</ul>"
        tiles = []
        for value, prompt in zip(values, self.prompts, strict=True):
            stream = BytesIO()
            modality.draw(value).save(stream, "png")
            source = f"data:image/png;base64,{b64encode(stream.getvalue()).decode()}"
            words = escape(prompt or "")
            tiles.append(
                f'<figure style="display:inline-block;margin:4px"><img src="{source}" alt="{words}">'
                f"<figcaption>{words}</figcaption></figure>"
            )
        return "".join(tiles)


OUTPUT_TYPES = ("pil", "np", "pt")
"""Output types: raw values, an array, a tensor; also `"latent"`, which skips decoding."""


def convert_values(values: list[Any], data: str, output_type: str) -> Any:
    """Convert decoded values to the output type, if the modality supports it."""
    convert = MODALITIES[data].forms.get(output_type)
    return values if convert is None else convert(values)
