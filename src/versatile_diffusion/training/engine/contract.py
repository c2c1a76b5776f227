"""The interface between the training loop and what is trained."""

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
    """A training objective: module, data, loss and evaluation.

    Attributes:
        name: as on the command line.
        batch_size: items per batch, if constant; see `items`.
        device: of the module and the batches.
        remark: a summary of its data for the log, if any.
    """

    name: str
    batch_size: int
    device: torch.device
    remark: str = ""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain JSON values that identify this objective; they must match to resume a run."""

    @abstractmethod
    def build(self) -> Trained:
        """Build a module with everything to train, initialised from torch's random state. Its state dict is saved in
        checkpoints, and its parameters and buffers are averaged (EMA)."""

    @abstractmethod
    def optimizers(self, module: Trained) -> list[torch.optim.Optimizer]:
        """Optimizers over the parameters of `module`, with the base learning rates of the schedule."""

    @abstractmethod
    def batch(self, step: int, generator: torch.Generator) -> Any:
        """A batch of `step`, including noise. All randomness comes from `generator` (on `device`), which differs
        between the batches of a step."""

    def numbered_batch(self, step: int, number: int, count: int, generator: torch.Generator) -> Any:
        """Batch `number` of `count` in `step`; for objectives that read their data in order."""
        return self.batch(step, generator)

    def start_reading(self, seed: int, bookmarks: Mapping[int, Any]) -> None:
        """Called before the first batch; for objectives that read their data in order.

        Args:
            seed: of the run.
            bookmarks: the `bookmarks` of all processes in the checkpoint to resume from. They only save reading data
                again: batches are the same without them.
        """

    def bookmarks(self) -> dict[int, Any]:
        """Reading positions by batch number, for the batches of this process; plain numbers and lists."""
        return {}

    def items(self, step: int) -> int:
        """Items per batch of `step`, to compute throughput."""
        return self.batch_size

    def pieces(self, batch: Any) -> Sequence[Any]:
        """Micro-batches of a batch, whose gradients are accumulated; all processes have the same kinds in the same
        order."""
        return [batch]

    @abstractmethod
    def loss(self, module: Trained, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss of a micro-batch, and its named parts for the log."""

    def blocks(self, module: Trained) -> Iterable[nn.Module]:
        """Modules that FSDP gathers one at a time; they must be called through `forward` only."""
        return ()

    def evaluate(self, module: Trained) -> dict[str, float]:
        """Metrics on held-out data; `module` is the EMA in eval mode, without gradients."""
        return {}

    def sample_sheet(self, module: Trained, path: Path) -> dict[str, float] | None:
        """Write a sample image or text to `path` plus a suffix; return metrics of it, if any."""

    def export(self, module: Trained, folder: Path) -> None:
        """Save the result in `folder` with `save_pretrained`."""
