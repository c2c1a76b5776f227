"""Passes of several requests on one device: as one where they can be, in halves where memory is short."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.sampling.passes import Pass, merge_passes
from versatile_diffusion.serving.jobs import NoMemoryError

GROWS_AFTER = 1000
"""Calls after which batches of twice the size are tried again, where memory was short once."""
logger = logging.getLogger(__name__)


class Passes:
    """Runs passes of one kind.

    Args:
        unet: the diffuser.
        on_pass: called after each network call with its batch size (guidance counts an item twice) and seconds.

    Attributes:
        most: the largest batch that there is memory for, as far as is known; None before memory was ever short.
    """

    def __init__(self, unet: MultiFlowUNet, on_pass: Callable[[int, float], None] | None = None):
        self.unet, self.on_pass = unet, on_pass
        self.most: int | None = None
        self._since = 0

    def run(self, passes: Sequence[Pass]) -> list[Tensor | Exception]:
        """The output of each pass, or why there is none. Where memory is short, two halves are tried, once; after any
        other failure each pass alone, since only one of them may be to blame."""
        whole = merge_passes(passes)
        rows: dict[int, Tensor | Exception]
        try:
            if self.most is None or len(whole.latent) <= self.most or not whole.divisible:
                return list(torch.split(self._timed(whole), [len(one.latent) for one in passes]))
            rows = self._rows(whole)
        except Exception as error:
            rows = {row: error for row in range(len(whole.latent))}
        if any(map(out_of_memory, rows.values())):
            self._shrink(len(whole.latent))
            rows = self._rows(whole) if whole.divisible else rows
        elif len(passes) > 1 and any(isinstance(row, Exception) for row in rows.values()):
            return [answer for one in passes for answer in self.run([one])]
        answers, first = list[Tensor | Exception](), 0
        for one in passes:
            answers.append(_join([rows[k] for k in range(first, first + len(one.latent))]))
            first += len(one.latent)
        return answers

    def _rows(self, whole: Pass) -> dict[int, Tensor | Exception]:
        """The output for each row of a batch, run in parts that there is memory for."""
        count = len(whole.latent)
        most = count if self.most is None else self.most
        rows: dict[int, Tensor | Exception] = {}
        for first in range(0, count, most):
            chosen = slice(first, min(first + most, count))
            places = range(chosen.start, chosen.stop)
            try:
                rows |= dict(zip(places, self._timed(whole.items(chosen)), strict=True))
            except Exception as error:
                rows |= dict.fromkeys(places, error)
        return rows

    def _shrink(self, count: int) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        now = count if self.most is None else min(count, self.most)
        self.most, self._since = max(1, (now + 1) // 2), 0
        logger.warning("memory is short: the network gets batches of up to %d from now on", self.most)

    def _timed(self, one: Pass) -> Tensor:
        before = time.monotonic()
        output = one.run(self.unet)
        self._since += 1
        if self.most is not None and self._since >= GROWS_AFTER:
            self.most, self._since = 2 * self.most, 0
        if self.on_pass is not None:
            self.on_pass(len(one.latent), time.monotonic() - before)
        return output


def _join(rows: Sequence[Tensor | Exception]) -> Tensor | Exception:
    """The rows of a pass, or the first reason why one is missing."""
    for row in rows:
        if isinstance(row, Exception):
            short = NoMemoryError("there is not enough memory; ask for fewer or smaller images")
            return short if out_of_memory(row) else row
    return torch.stack([row for row in rows if isinstance(row, Tensor)])


def out_of_memory(error: object) -> bool:
    """Whether memory was short, of the device or of the machine."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
