"""What the training loop asks of whatever is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Trained = TypeVar("Trained", bound=nn.Module)
"""The module that an objective trains."""


class Objective(ABC, Generic[Trained]):
    """What is trained, on what, and how well it does.

    Attributes:
        name: as on the command line.
        batch_size: items per batch, where all have as many; see `items`.
        device: where the module and the batches live.
        remark: a line on its data for people, if there is something to say.
    """

    name: str
    batch_size: int
    device: torch.device
    remark: str = ""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain JSON values that tell this objective from another; compared when a run goes on."""

    @abstractmethod
    def build(self) -> Trained:
        """A fresh module of all that is trained (from torch's random state); its state dict is the checkpoint and its
        parameters and buffers are averaged."""

    @abstractmethod
    def optimizers(self, module: Trained) -> list[torch.optim.Optimizer]:
        """Optimizers over the parameters of `module`, with the learning rates that the schedule multiplies."""

    @abstractmethod
    def batch(self, step: int, generator: torch.Generator) -> Any:
        """A batch of `step`, noise included; all chance comes from `generator` (on `device`), which is another one for
        each of the step's batches."""

    def numbered_batch(self, step: int, number: int, count: int, generator: torch.Generator) -> Any:
        """Batch `number` of the `count` of `step`; for objectives that read their data in an order."""
        return self.batch(step, generator)

    def start_reading(self, seed: int, bookmarks: Mapping[int, Any]) -> None:
        """Before the first batch of a call; for objectives that read their data in an order.

        Args:
            seed: of the run.
            bookmarks: what `bookmarks` of all processes gave at the checkpoint that the run goes on from. They only
                save reading again: a batch is the same without them.
        """

    def bookmarks(self) -> dict[int, Any]:
        """Where the reading stands, by the number of the batches that this process takes; plain numbers and lists."""
        return {}

    def items(self, step: int) -> int:
        """Items per batch of `step`, for the throughput."""
        return self.batch_size

    def pieces(self, batch: Any) -> Sequence[Any]:
        """Parts of a batch that pass one after the other, their gradients added up; all processes have the same kind of
        parts in the same order."""
        return [batch]

    @abstractmethod
    def loss(self, module: Trained, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar) of a piece of a batch, and its named parts for the log."""

    def blocks(self, module: Trained) -> Iterable[nn.Module]:
        """Modules that FSDP gathers one at a time; each is called by its `forward` alone."""
        return ()

    def evaluate(self, module: Trained) -> dict[str, float]:
        """Measures on held-out data; `module` is the averaged one, in eval mode, gradients are off."""
        return {}

    def sample_sheet(self, module: Trained, path: Path) -> dict[str, float] | None:
        """Writes a picture or text to look at; `path` has no suffix yet. Returns what was measured of it, if at all."""

    def export(self, module: Trained, folder: Path) -> None:
        """Writes what users load, with `save_pretrained`, below `folder`."""
