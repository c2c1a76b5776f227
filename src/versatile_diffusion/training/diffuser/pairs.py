"""Training items of the diffuser in several modalities, as latents and as context tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.modality import ZEROS
from versatile_diffusion.tasks import Task
from versatile_diffusion.training.engine.cache import load_cached

ENCODE_BATCH = 64
Values = Mapping[str, Sequence[Sequence[Any]]]


@dataclass(frozen=True)
class EncodedValues:
    """One raw value per item, encoded once: latents or tokens (N, ...) in half precision."""

    rows: Tensor

    @property
    def alike(self) -> list[Tensor]:
        return [torch.arange(len(self.rows))]

    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        return self.rows[items].float()


@dataclass(frozen=True)
class Drawn:
    """Several raw values per item: one is drawn and encoded each time."""

    values: Sequence[Sequence[Any]]
    encode: Any

    @property
    def alike(self) -> list[Tensor]:
        return [torch.arange(len(self.values))]

    @torch.no_grad()
    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        picks = torch.rand(len(items), generator=generator, device=generator.device).tolist()
        choices = (self.values[item] for item in items.tolist())
        encoded: Tensor = self.encode([c[int(pick * len(c))] for c, pick in zip(choices, picks, strict=True)])
        return encoded


@dataclass(frozen=True)
class Choices:
    """Several raw values per item, all encoded once: one is drawn each time.

    Args:
        rows: (V, ...), one for each distinct value, in half precision.
        which: (N, most), row indices of each item, padded.
        counts: (N,), number of rows of each item.
    """

    rows: Tensor
    which: Tensor
    counts: Tensor

    @property
    def alike(self) -> list[Tensor]:
        return [torch.arange(len(self.counts))]

    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        picks = torch.rand(len(items), generator=generator, device=generator.device)
        return self.rows[self.which[items, (picks * self.counts[items]).long()]].float()


@dataclass(frozen=True)
class Picked:
    """Several encoded rows per item, in memory: one is drawn each time."""

    rows: Sequence[Sequence[Tensor]]
    device: torch.device

    @property
    def alike(self) -> list[Tensor]:
        return [torch.arange(len(self.rows))]

    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        picks = torch.rand(len(items), generator=generator, device=generator.device).tolist()
        choices = (self.rows[item] for item in items.tolist())
        return (
            torch.stack([c[int(pick * len(c))] for c, pick in zip(choices, picks, strict=True)]).to(self.device).float()
        )


class Side(Protocol):
    """One modality of all items, as latents or as tokens."""

    @property
    def alike(self) -> list[Tensor]:
        """Item indices grouped by shape; items of a group can be drawn together."""

    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        """Draw (B, ...) for item indices (B,) of one shape."""


@dataclass(frozen=True)
class Only:
    """A subset of another side's items, renumbered."""

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
    """Items in several modalities. `latents[m]` and `tokens[m]` give (B, ...) for item indices (B,)."""

    count: int
    latents: Mapping[str, Side]
    tokens: Mapping[str, Side]

    def of(self, task: Task) -> Pairs:
        """The items that a task draws from."""
        return self

    def target(self, task: Task, items: Tensor, timesteps: Tensor, latents: Tensor) -> Tensor:
        """What a task learns to generate of items (B,) at timesteps (B,), given their drawn latents (B, ...): these."""
        return latents

    def only(self, items: Sequence[int]) -> Pairs:
        """A subset of the items, in the given order."""
        numbers = torch.tensor(items)
        latents, tokens = ({m: Only(s, numbers) for m, s in sides.items()} for sides in (self.latents, self.tokens))
        return Pairs(len(items), latents, tokens)

    def batches(
        self,
        wanted: Callable[[int], Sequence[tuple[Task, int]]],
        step: int,
        number: int,
        count: int,
        generator: torch.Generator,
    ) -> Iterator[tuple[Pairs, Tensor]]:
        """Yield the items and random indices of the batch for each task of a step. A batch has one shape, which is
        drawn with the probability of its share of items.

        Args:
            wanted: the tasks and batch sizes of a step.
            step: index of the step.
            number: index of the batch in the step.
            count: number of batches in the step.
            generator: source of randomness.
        """
        for task, size in wanted(step):
            pairs, which = self.of(task), 0
            alike = pairs.latents[task.flow.data].alike
            if len(alike) > 1:
                counts = torch.tensor([float(len(numbers)) for numbers in alike], device=generator.device)
                which = int(torch.multinomial(counts, 1, generator=generator))
            drawn = torch.randint(len(alike[which]), (size,), generator=generator, device=generator.device)
            yield pairs, alike[which][drawn.to(alike[which].device)].to(generator.device)

    @classmethod
    def encode(
        cls, guiding: Values, generated: Values, bank: ModalityBank, cache: Path | None = None, ahead: bool = False
    ) -> Pairs:
        """Encode items from raw values.

        A modality with one value per item is encoded once, and cached in the folder `cache` under a name that depends
        on the values and the weights; a modality with several values per item is encoded when drawn.

        Args:
            guiding: by modality, the alternative raw values of each item that become context tokens.
            generated: likewise, the values that become latents.
            bank: codecs and encoders.
            cache: folder for encoded values.
            ahead: encode several values per item once as well, which pays if each is drawn more than once.

        Raises:
            ValueError: the modalities have different numbers of items.
        """
        counts = {len(items) for values in (guiding, generated) for items in values.values()}
        if len(counts) != 1:
            raise ValueError(f"every modality needs the same number of items; got {sorted(counts)}")
        latents = {m: _side(items, bank.codecs[m], f"latents-{m}", cache, ahead) for m, items in generated.items()}
        tokens = {m: _side(items, bank.encoders[m], f"tokens-{m}", cache, ahead) for m, items in guiding.items()}
        return cls(counts.pop(), latents, tokens)


def _side(
    items: Sequence[Sequence[Any]], part: Any, name: str, cache: Path | None, ahead: bool
) -> EncodedValues | Drawn | Choices:
    if any(len(choices) > 1 for choices in items):
        return _choices(items, part, name, cache) if ahead else Drawn(items, part.encode)
    return EncodedValues(_encode_all([choices[0] for choices in items], part, name, cache))


def _choices(items: Sequence[Sequence[Any]], part: Any, name: str, cache: Path | None) -> Choices:
    place = {value: number for number, value in enumerate(dict.fromkeys(v for choices in items for v in choices))}
    rows = _encode_all(list(place), part, name, cache)
    most = max(map(len, items))
    which = [[place[value] for value in choices] + [0] * (most - len(choices)) for choices in items]
    counts = torch.tensor([len(choices) for choices in items], device=rows.device)
    return Choices(rows, torch.tensor(which, device=rows.device), counts)


def _encode_all(values: Sequence[Any], part: Any, name: str, cache: Path | None) -> Tensor:
    @torch.no_grad()
    def encode() -> Tensor:
        starts = tqdm(range(0, len(values), ENCODE_BATCH), desc=name, disable=None)
        return torch.cat([part.encode(values[start : start + ENCODE_BATCH]).half() for start in starts])

    if cache is None:
        return encode()
    return load_cached(cache / f"{name}-{_digest(values, part)}.safetensors", "rows", encode).to(part.device)


def _digest(values: Sequence[Any], part: Any) -> str:
    digest = hashlib.sha256(type(part).__name__.encode())
    for tensor in part.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    modality = MODALITIES[part.modality]
    for value in values:
        digest.update(value.encode() if modality.plain else np.ascontiguousarray(modality.numbers(value)).tobytes())
    return digest.hexdigest()[:16]


def null_tokens(task: Task, bank: ModalityBank, stream: str | None = None) -> Tensor:
    """The null context (1, L, D) of a task's context (default: its only one); zeros are broadcast over the tokens."""
    if stream is None:
        (stream,) = task.flow.contexts
    kind = task.null.get(stream, ZEROS)
    encoder = bank.encoders[stream]
    if kind == ZEROS:
        return torch.zeros(1, 1, 1, device=encoder.device)
    with torch.no_grad():
        encoded: Tensor = encoder.encode([MODALITIES[stream].blanks[kind]])
        return encoded
