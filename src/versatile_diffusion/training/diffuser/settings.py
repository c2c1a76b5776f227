"""Settings of a diffuser training (paper section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from versatile_diffusion.diffuser.groups import Multipliers, streams_in
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.printable import shown
from versatile_diffusion.tasks import TASKS, Task
from versatile_diffusion.training.diffuser.denoising import Denoising
from versatile_diffusion.training.diffuser.distillation import DistillSettings
from versatile_diffusion.training.diffuser.lora import LoraSettings
from versatile_diffusion.training.diffuser.mixture import STAGES, Mixture, by_flow, check_by_flow


@dataclass(frozen=True)
class DiffuserSettings:
    """Settings of a diffuser training.

    Args:
        stage: a key of `STAGES`: the flows to train unless `flows` is given.
        unet: arguments of MultiFlowUNet other than its streams.
        data_streams, context_streams: options by modality; a stage uses those that its flows need.
        mixture: by task, its share of the steps, or its weight in a `joint` step; see `Mixture`. Tasks that are not in
            the stage are ignored; a task with 0 is not trained, but the diffuser has its streams.
        batch: items per step, by task or by generated modality.
        prediction: what the network predicts, `epsilon` (the paper), `v_prediction` or `sample`.
        dropout: share of items whose context is replaced with the task's null context; one for all contexts, or by
            modality (default 0).
        lr, weight_decay: of the optimizer.
        muon_lr: learning rate of Muon for matrices; None: use `optimizer` for them, too.
        not_muon: substrings of the names of matrices that `optimizer` updates all the same.
        optimizer: a key of `OPTIMIZERS`.
        flows: tasks to train instead of those of the stage; the diffuser has the streams that they need.
        joint: whether every step trains all flows, or a single one.
        multipliers, multiply: see `Multipliers`.
        new_contexts, new_data: initialisation of streams that the previous stage lacks, see `promote`.
        min_snr, zero_terminal_snr, noise_offset: see `Denoising`.
        lora: train adapters instead of the weights.
        distill: distil a model instead of training it; see `DistillObjective`.
        loss_weights: factor of a flow's loss, by task or by generated modality.
        noises: number of noise levels per item of a batch, by task or by generated modality; default 1. Keys and values
            of its context are computed once, which is most of the work for texts.
        lowest_timestep: lowest timestep to train, by task or by generated modality; default 0. High noise levels teach
            the meaning of a context fastest; finish with all of them.
        retain: flows that are trained towards the predictions of the diffuser that the run begins from, in place of the
            data, so that they stay as they are while layers that they share learn (Li and Hoiem 2016, learning without
            forgetting).
        high_noise: share of items that draw their noise levels from the upper half only, by task or by generated
            modality; default 0.

    Raises:
        ValueError: an unknown name, a number out of range, or a flow without trainable weights.
    """

    stage: str
    unet: Mapping[str, Any]
    data_streams: Mapping[str, Mapping[str, Any]]
    context_streams: Mapping[str, Mapping[str, Any]]
    mixture: Mapping[str, float]
    batch: Mapping[str, int]
    prediction: str = "epsilon"
    dropout: float | Mapping[str, float] = 0.1
    lr: float = 1e-3
    weight_decay: float = 0.01
    muon_lr: float | None = None
    not_muon: tuple[str, ...] = ()
    optimizer: str = "adamw"
    flows: tuple[str, ...] | None = None
    joint: bool = False
    multipliers: Mapping[str, float] = field(default_factory=dict)
    multiply: str = "update"
    new_contexts: str = "fresh"
    min_snr: float | None = None
    zero_terminal_snr: bool = False
    noise_offset: float = 0.0
    lora: LoraSettings | None = None
    distill: DistillSettings | None = None
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    noises: Mapping[str, int] = field(default_factory=dict)
    lowest_timestep: Mapping[str, int] = field(default_factory=dict)
    high_noise: Mapping[str, float] = field(default_factory=dict)
    new_data: str = "fresh"
    retain: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage is {shown(self.stage)}; allowed: {', '.join(STAGES)}")
        if unknown := [name for name in self.flows or () if name not in TASKS]:
            raise ValueError(f"unknown flow {', '.join(unknown)}; allowed: {', '.join(TASKS)}")
        if missing := [task.name for task in self.tasks if task.name not in self.mixture]:
            raise ValueError(f"mixture has {dict(self.mixture)}, but no weight for {', '.join(missing)}")
        if untrained := [name for name in self.retain if name not in {task.name for task in self.flow_mixture.tasks}]:
            flows = ", ".join(task.name for task in self.flow_mixture.tasks)
            raise ValueError(f"retain names {', '.join(untrained)}; the flows that are trained are {flows}")
        if self.retain and self.distill:
            raise ValueError("retain and distill cannot be combined: a distilled flow learns from the model already")
        rates = self.dropout.values() if isinstance(self.dropout, Mapping) else [self.dropout]
        if not all(0 <= rate <= 1 for rate in rates):
            raise ValueError(f"dropout is {self.dropout}; it must be from 0 to 1")
        streams = ["global", *self.streams]
        factors = self.learning.of(streams)
        learning = [
            stream for stream in streams_in(self.lora.targets if self.lora else streams, streams) if factors[stream]
        ]
        for task in self.flow_mixture.tasks:
            used = {"global", f"data.{task.flow.data}", *(f"context.{c}" for c in task.flow.contexts)}
            if used.isdisjoint(learning):
                raise ValueError(
                    f"{task.name} has no trainable weights: of {', '.join(streams)}, only {learning} are trained"
                )
        most = self.denoising.levels  # (checks its own settings)
        check_by_flow("noises", self.noises, 1, most)
        check_by_flow("lowest_timestep", self.lowest_timestep, 0, most - 1)
        check_by_flow("high_noise", self.high_noise, 0, 1, whole=False)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(TASKS[name] for name in self.flows or STAGES[self.stage])

    @property
    def data(self) -> list[str]:
        """Modalities that these settings generate."""
        return [m for m in self.data_streams if any(m == task.flow.data for task in self.tasks)]

    @property
    def contexts(self) -> list[str]:
        """Modalities that these settings use as contexts."""
        return [m for m in self.context_streams if any(m in task.flow.contexts for task in self.tasks)]

    @property
    def streams(self) -> list[str]:
        return [f"data.{m}" for m in self.data] + [f"context.{m}" for m in self.contexts]

    @property
    def flow_mixture(self) -> Mixture:
        shares = {task.name: self.mixture[task.name] for task in self.tasks}
        shares = {name: share for name, share in shares.items() if share}
        return Mixture(shares, self.batch, self.joint, self.loss_weights)

    @property
    def learning(self) -> Multipliers:
        return Multipliers(self.multipliers, self.multiply)

    @property
    def freezes(self) -> bool:
        """Whether some weights are frozen."""
        return self.lora is not None or 0 in self.learning.of(["global", *self.streams]).values()

    @property
    def denoising(self) -> Denoising:
        return Denoising(self.prediction, self.min_snr, self.zero_terminal_snr, self.noise_offset)

    def lowest_of(self, task: Task) -> int:
        """Lowest timestep of the task."""
        return by_flow(self.lowest_timestep, task, 0)

    def high_of(self, task: Task) -> float:
        """Share of the task's items that draw from the upper half of noise levels only."""
        return by_flow(self.high_noise, task, 0.0)

    def dropped(self, context: str) -> float:
        """Dropout rate of a context."""
        return self.dropout.get(context, 0.0) if isinstance(self.dropout, Mapping) else self.dropout

    def build(self) -> MultiFlowUNet:
        """Build a new diffuser with the streams that the flows need."""
        return MultiFlowUNet(
            data_streams={m: dict(self.data_streams[m]) for m in self.data},
            context_streams={m: dict(self.context_streams[m]) for m in self.contexts},
            **self.unet,
        )
