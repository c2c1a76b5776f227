"""What the diffuser is trained on: items that exist in several modalities, as latents and as context tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from versatile_diffusion.modalities.bank import ModalityBank

ENCODE_BATCH = 64
Values = Mapping[str, Sequence[Sequence[Any]]]


@dataclass(frozen=True)
class Table:
    """One raw value per item, encoded once: (N, ...) latents or tokens, kept in half precision."""

    rows: Tensor

    @property
    def alike(self) -> list[Tensor]:
        return [torch.arange(len(self.rows))]

    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        return self.rows[items].float()


@dataclass(frozen=True)
class Drawn:
    """Several raw values per item: one is drawn each time, and encoded then."""

    values: Sequence[Sequence[Any]]
    encode: Any

    @property
    def alike(self) -> list[Tensor]:
        return [torch.arange(len(self.values))]

    @torch.no_grad()
    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        picks = torch.rand(len(items), generator=generator, device=generator.device).tolist()
        choices = (self.values[item] for item in items.tolist())
        return self.encode([c[int(pick * len(c))] for c, pick in zip(choices, picks, strict=True)])


class Side(Protocol):
    """One modality of all items, as latents or as tokens."""

    @property
    def alike(self) -> list[Tensor]:
        """The numbers of the items that may be drawn together, since what they give has one shape; shape by shape."""

    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        """(B, ...) for item numbers (B,), all of one shape."""


@dataclass(frozen=True)
class Only:
    """Some of the items of another side, numbered anew."""

    side: Side
    items: Tensor

    @cached_property
    def alike(self) -> list[Tensor]:
        found = [torch.isin(self.items, numbers).nonzero()[:, 0] for numbers in self.side.alike]
        return [numbers for numbers in found if len(numbers)]

    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        return self.side.draw(self.items[items.cpu()], generator)


@dataclass(frozen=True)
class Pairs:
    """Items in several modalities. `latents[m]` and `tokens[m]` give (B, ...) for item numbers (B,)."""

    count: int
    latents: Mapping[str, Side]
    tokens: Mapping[str, Side]

    def only(self, items: Sequence[int]) -> Pairs:
        """Some of the items, in the order given."""
        numbers = torch.tensor(items)
        latents, tokens = ({m: Only(s, numbers) for m, s in sides.items()} for sides in (self.latents, self.tokens))
        return Pairs(len(items), latents, tokens)

    @classmethod
    def encode(cls, guiding: Values, generated: Values, bank: ModalityBank, cache: Path | None = None) -> Pairs:
        """Items from raw values.

        A modality with one value per item is encoded here, once, and the result kept in the folder `cache` under a
        name that depends on the values and the weights; one with several is encoded as it is drawn.

        Args:
            guiding: per modality, for each item the raw values that say the same of it; they become context tokens.
            generated: likewise; they become latents.

        Raises:
            ValueError: the modalities have different numbers of items.
        """
        counts = {len(items) for values in (guiding, generated) for items in values.values()}
        if len(counts) != 1:
            raise ValueError(f"every modality needs the same number of items; given are {sorted(counts)}")
        latents = {m: _side(items, bank.codecs[m], f"latents-{m}", cache) for m, items in generated.items()}
        tokens = {m: _side(items, bank.encoders[m], f"tokens-{m}", cache) for m, items in guiding.items()}
        return cls(counts.pop(), latents, tokens)


def _side(items: Sequence[Sequence[Any]], part: Any, name: str, cache: Path | None) -> Table | Drawn:
    if any(len(choices) > 1 for choices in items):
        return Drawn(items, part.encode)
    return Table(_encode_all([choices[0] for choices in items], part, name, cache))


@torch.no_grad()
def _encode_all(values: Sequence[Any], part: Any, name: str, cache: Path | None) -> Tensor:
    path = None if cache is None else cache / f"{name}-{_digest(values, part)}.safetensors"
    if path is not None and path.exists():
        return load_file(path)["rows"].to(part.device)
    starts = tqdm(range(0, len(values), ENCODE_BATCH), desc=name, disable=None)
    rows = torch.cat([part.encode(values[start : start + ENCODE_BATCH]).half() for start in starts])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"rows": rows.contiguous().cpu()}, path)
    return rows


def _digest(values: Sequence[Any], part: Any) -> str:
    digest = hashlib.sha256(type(part).__name__.encode())
    for tensor in part.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for value in values:
        digest.update(value.encode() if isinstance(value, str) else value.tobytes())
    return digest.hexdigest()[:16]
