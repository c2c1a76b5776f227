"""What comes out of the deep stages, kept from one denoising step to the next ones (as in DeepCache, Ma et al. 2024).

It changes little from step to step, and the deep stages have most of the parameters. The stages above them run in every
step, with the skips of that step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from versatile_diffusion.layers.plan import Stage, deep_span


class Deep:
    """The output of the stages below a level, for passes with the same contexts.

    Args:
        plan: of the diffuser.
        level: see `deep_span`.

    Attributes:
        first, last: where these stages begin and end.
        renew: whether the next pass runs them although there is an output of theirs.
        ran: whether the latest pass did.
    """

    def __init__(self, plan: Sequence[Stage], level: int):
        self.first, self.last = deep_span(plan, level)
        self.renew = True
        self.ran = False
        self._kept: Tensor | None = None

    def of(self, run: Callable[[], Tensor]) -> Tensor:
        """The output of the deep stages: that of `run`, or the one that is kept."""
        self.ran = self.renew or self._kept is None
        if self.ran or self._kept is None:
            self._kept = run()
        return self._kept
