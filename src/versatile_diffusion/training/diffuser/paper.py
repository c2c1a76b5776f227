"""The paper's three trainings at full size (section 4.1): basic, dual-context, official, each from the previous one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.official import FULL_SIZE, diffuser_config
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.training.diffuser.mixture import STAGES
from versatile_diffusion.training.diffuser.settings import DiffuserSettings
from versatile_diffusion.training.engine.config import LoopSettings

WIDTHS = ("channels", "width")
"""Options of a data stream that set the number of latent channels."""
INHERITED = 0.1
"""Learning-rate multiplier of pretrained layers relative to new ones. The paper publishes no value; the fine-tuning
settings of this project use the same."""


@dataclass(frozen=True)
class Phase:
    """A phase of a training at one image size.

    Args:
        side: of the images in pixels.
        samples: number of samples over all flows.
    """

    side: int
    samples: int


PHASES = (Phase(256, 30_000_000), Phase(512, 6_400_000))


@dataclass(frozen=True)
class PaperRun:
    """One of the three trainings.

    Args:
        stage: a key of `STAGES`.
        batch: samples per update, divided evenly among the flows.
        lr: learning rate.
        start: the initial checkpoint.
        inherited: groups and streams that start from pretrained weights.
        phases: in order.
        size: overrides of the published configuration; default: full size.
    """

    stage: str
    batch: int
    lr: float
    start: str
    inherited: tuple[str, ...]
    phases: tuple[Phase, ...] = PHASES
    size: tuple[tuple[str, Any], ...] = ()

    @property
    def flows(self) -> tuple[str, ...]:
        return STAGES[self.stage]

    @property
    def steps(self) -> int:
        """Number of updates over all phases."""
        return sum(-(-phase.samples // self.batch) for phase in self.phases)

    def settings(self) -> DiffuserSettings:
        """Settings of the training engine: every update sums the losses of all flows (section 3.4)."""
        options = diffuser_config({**FULL_SIZE, **dict(self.size)})
        data, contexts = options.pop("data_streams"), options.pop("context_streams")
        each = max(1, self.batch // len(self.flows))
        return DiffuserSettings(
            stage=self.stage,
            unet=options,
            data_streams=data,
            context_streams=contexts,
            mixture=dict.fromkeys(self.flows, 1.0),
            batch=dict.fromkeys(self.flows, each),
            lr=self.lr,
            joint=True,
            multipliers=multipliers(self),
            new_contexts="copied",
        )


def settings_for(run: PaperRun, earlier: MultiFlowUNet, bank: ModalityBank) -> DiffuserSettings:
    """Settings of a training at the size of its initial diffuser; streams that it lacks match the codecs and encoders.

    Raises:
        ValueError: the bank has no codec or encoder for a modality to train.
    """
    options = run.settings()
    for kind, needed, there in (("codec", options.data, bank.codecs), ("encoder", options.contexts, bank.encoders)):
        if lost := [name for name in needed if name not in there]:
            raise ValueError(f"{run.stage} needs a {kind} for {', '.join(lost)}, which the model lacks")
    config = {name: value for name, value in earlier.config.items() if not name.startswith("_")}
    data = {
        name: {
            option: bank.codecs[name].latent_shape()[0] if option in WIDTHS else value for option, value in o.items()
        }
        for name, o in options.data_streams.items()
        if name in options.data
    }
    contexts = {name: {"width": _token_width(bank, name)} for name in options.contexts}
    return replace(
        options,
        data_streams={**data, **config.pop("data_streams")},
        context_streams={**contexts, **config.pop("context_streams")},
        unet=config,
    )


@torch.no_grad()
def _token_width(bank: ModalityBank, name: str) -> int:
    blank = next(iter(MODALITIES[name].blanks.values()))
    width: int = bank.encoders[name].encode([blank]).shape[-1]
    return width


def loop_of(run: PaperRun, phase: int) -> LoopSettings:
    """Loop settings of a phase (1 or 2). The paper does not specify warm-up or EMA; these values are ours."""
    steps = -(-run.phases[phase - 1].samples // run.batch)
    return LoopSettings(
        steps=steps,
        warmup=min(1000, steps // 10),
        schedule="constant",
        ema=0.9999,
        checkpoint_minutes=15,
        eval_minutes=60,
        sample_minutes=60,
    )


def multipliers(run: PaperRun, mode: str = "update") -> dict[str, float]:
    """Learning-rate multipliers of each group and stream, "based on the number of gradient accumulations and the model
    initialisations" (paper section 3.2, which gives no numbers). docs/guides/scale.md derives them.

    Args:
        run: the training.
        mode: `"gradient"`: a layer that k flows use sums k gradients, so its multiplier is divided by k, which gives
            the magnitude of a layer of one flow. `"update"`: the optimizer's update does not depend on the gradient's
            magnitude, so k does not matter. In both, pretrained layers learn at `INHERITED` times the rate of new ones.
    """
    return {
        stream: (INHERITED if stream in run.inherited else 1.0) / (count if mode == "gradient" else 1)
        for stream, count in accumulations(run.flows).items()
    }


def accumulations(flows: tuple[str, ...]) -> Mapping[str, int]:
    """Number of flows that use each group and stream."""
    counts = {"global": len(flows)}
    for flow in (TASKS[name].flow for name in flows):
        for stream in (f"data.{flow.data}", *(f"context.{context}" for context in flow.contexts)):
            counts[stream] = counts.get(stream, 0) + 1
    return counts


PAPER: Mapping[str, PaperRun] = {
    "basic": PaperRun("basic", 2048, 1e-4, "Stable Diffusion v1.4", ("global", "data.image")),
    "dual-context": PaperRun("dual_context", 1024, 1e-4, "basic", ("global", "data.image", "context.image")),
    "official": PaperRun(
        "official", 512, 5e-5, "dual-context", ("global", "data.image", "context.image", "context.text")
    ),
}
"""Learning rates, batch sizes and sample counts are second-hand, from a public review of the paper."""
