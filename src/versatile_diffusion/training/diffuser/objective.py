"""Training objective of the diffuser: several flows in one run (paper section 3.4)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.diffuser.groups import Multipliers, streams_in
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.printable import shown
from versatile_diffusion.tasks import TASKS, Task
from versatile_diffusion.training.diffuser.batch import Batch
from versatile_diffusion.training.diffuser.denoising import Denoising
from versatile_diffusion.training.diffuser.distillation import DistillSettings
from versatile_diffusion.training.diffuser.lora import LoraSettings, add_lora, merge_loras, save_lora
from versatile_diffusion.training.diffuser.mixture import STAGES, Mixture, by_flow, check_by_flow
from versatile_diffusion.training.diffuser.pairs import Pairs, null_tokens
from versatile_diffusion.training.diffuser.promotion import promote
from versatile_diffusion.training.diffuser.sheet import write_sheet
from versatile_diffusion.training.diffuser.streamed import Streamed
from versatile_diffusion.training.engine.loop import Objective
from versatile_diffusion.training.engine.optimizer import multiply, split_parameters

__all__ = ["STAGES", "Batch", "DiffuserObjective", "DiffuserSettings"]

FEWEST_MEASURED, MOST_MEASURED = 64, 256


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

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage is {shown(self.stage)}; allowed: {', '.join(STAGES)}")
        if unknown := [name for name in self.flows or () if name not in TASKS]:
            raise ValueError(f"unknown flow {', '.join(unknown)}; allowed: {', '.join(TASKS)}")
        if missing := [task.name for task in self.tasks if task.name not in self.mixture]:
            raise ValueError(f"mixture has {dict(self.mixture)}, but no weight for {', '.join(missing)}")
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


@dataclass
class DiffuserObjective(Objective[MultiFlowUNet]):
    """Mean squared error of the predicted noise, of one flow per step or of all jointly; contexts are dropped for CFG.

    Args:
        options: settings.
        train_pairs: the training items.
        held_out: items for the validation loss.
        bank: codecs and context encoders; frozen.
        looks: raw values by modality, the inputs of sample sheets.
        start: diffuser of an earlier stage whose streams are copied.
        model: further arguments of the exported pipeline, such as `styles` and `defaults`.
        seen: training items whose loss is measured beside the held-out one; None: not measured.
    """

    options: DiffuserSettings
    train_pairs: Pairs | Streamed
    held_out: Pairs
    bank: ModalityBank
    looks: Mapping[str, list[Any]]
    start: MultiFlowUNet | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    model: Mapping[str, Any] = field(default_factory=dict)
    seen: Pairs | None = None
    name = "diffuser"

    def __post_init__(self) -> None:
        self.mixture, self.denoising = self.options.flow_mixture, self.options.denoising
        self.turns = self.mixture.turns
        self.scheduler = self.denoising.scheduler
        self.null = {
            task.name: {stream: null_tokens(task, self.bank, stream) for stream in task.flow.contexts}
            for task in self.options.tasks
        }

    def settings(self) -> dict[str, Any]:
        settings = asdict(self.options)
        for name in ("distill", "loss_weights", "noises", "lowest_timestep", "high_noise", "new_data"):
            if settings[name] in (None, {}, "fresh"):  # so that runs of earlier versions, which lack it, can be resumed
                del settings[name]
        return settings

    def build(self) -> MultiFlowUNet:
        unet = self.options.build()
        if self.start is not None:
            promote(unet, self.start, self.options.new_contexts, self.options.new_data)
        if self.options.lora is not None:
            add_lora(unet, self.options.lora)
        self.options.learning.freeze(unet)
        return unet.to(memory_format=torch.channels_last)  # 20 % faster on a CPU

    def optimizers(self, module: MultiFlowUNet) -> list[torch.optim.Optimizer]:
        options = self.options
        groups = split_parameters(module, muon=options.muon_lr is not None, not_muon=options.not_muon)
        optimizers = groups.optimizers(
            options.lr,
            options.weight_decay,
            (0.9, 0.99),
            options.muon_lr or 0.0,
            options.weight_decay,
            muon_steps=4,
            kind=options.optimizer,
        )
        multiply(optimizers, module, options.learning)
        return optimizers

    def batch(self, step: int, generator: torch.Generator) -> list[Batch]:
        return self.numbered_batch(step, 0, 1, generator)

    def numbered_batch(self, step: int, number: int, count: int, generator: torch.Generator) -> list[Batch]:
        """One batch for each flow of the step."""
        drawn = self.train_pairs.batches(self.mixture.wanted, step, number, count, generator)
        return [
            self._of(task, pairs, items, generator, weight)
            for (task, weight), (pairs, items) in zip(self.mixture.at(step), drawn, strict=True)
        ]

    def start_reading(self, seed: int, bookmarks: Mapping[int, Any]) -> None:
        if isinstance(self.train_pairs, Streamed):
            self.train_pairs.stream.start(seed, bookmarks)

    def bookmarks(self) -> dict[int, Any]:
        return self.train_pairs.stream.bookmarks() if isinstance(self.train_pairs, Streamed) else {}

    def _of(
        self, task: Task, pairs: Pairs, items: Tensor, generator: torch.Generator, weight: float | None = None
    ) -> Batch:
        """A batch with the noise levels and dropout of the settings; without a weight, one for evaluation: one noise
        level per item, no dropout."""
        measured = weight is None
        noises, timesteps = self._levels(task, measured)
        latent = pairs.latents[task.flow.data].draw(items, generator).repeat_interleave(noises, 0)
        contexts = []
        for stream in task.flow.contexts:  # dropped independently, so that the model learns every combination
            tokens = pairs.tokens[stream].draw(items, generator)
            dropout = 0.0 if measured else self.options.dropped(stream)
            dropped = torch.rand(len(items), 1, 1, generator=generator, device=self.device) < dropout
            contexts.append(Context(stream, torch.where(dropped, self.null[task.name][stream].to(tokens), tokens)))
        noise = self.denoising.noise(latent.shape, generator)
        timestep = timesteps(len(items), generator)
        return Batch(task, latent, noise, timestep, tuple(contexts), 1.0 if weight is None else weight)

    def _levels(self, task: Task, measured: bool) -> tuple[int, Callable[[int, torch.Generator], Tensor]]:
        """At how many noise levels a batch has each item, and what draws their timesteps."""
        options, draw = self.options, self.denoising.timesteps
        if measured:
            return 1, draw
        each = by_flow(options.noises, task, 1)
        return each, partial(draw, each=each, lowest=options.lowest_of(task), high=options.high_of(task))

    def items(self, step: int) -> int:
        return self.mixture.items(step)

    def pieces(self, batch: Sequence[Batch]) -> list[Sequence[Batch]]:
        """One flow after another, so that a joint step needs no more memory than a step of one flow."""
        return [[one] for one in batch]

    def blocks(self, module: MultiFlowUNet) -> Iterator[nn.Module]:
        for streams in (module.data, module.context):
            for blocks in streams.values():
                yield from blocks

    def loss(self, module: MultiFlowUNet, batch: Sequence[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum over the flows of a step, and for each flow its loss and its errors by noise level."""
        total: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for one in batch:
            loss, errors = self._loss(module, one)
            total.append(one.weight * loss)
            levels = self._by_level(one, errors)
            parts |= {one.task.name: loss} | {f"{one.task.name}/{level}": mean for level, mean in levels.items()}
        return sum(total[1:], total[0]), parts

    def _by_level(self, batch: Batch, errors: Tensor) -> dict[str, Tensor]:
        lowest, high = self.options.lowest_of(batch.task), self.options.high_of(batch.task)
        return self.denoising.by_level(errors, batch.timestep, lowest, high)

    def _loss(self, module: MultiFlowUNet, batch: Batch) -> tuple[Tensor, Tensor]:
        def predict(noisy: Tensor) -> Tensor:
            # A trainable group norm with only frozen layers before it crashes the backward pass of torch 2.13 on CPUs.
            noisy.requires_grad_(self.options.freezes)
            return module(noisy, batch.timestep, batch.contexts, data=batch.task.flow.data)

        return self.denoising.loss(predict, batch.latent, batch.noise, batch.timestep)

    def evaluate(self, module: MultiFlowUNet) -> dict[str, float]:
        """Loss of each flow on held-out items, in total and by noise level, with fixed noise and timesteps; likewise on
        `seen` training items, if any; and counts of streamed samples."""
        losses = self._losses(module, self.held_out)
        if self.seen is not None:
            losses |= {f"seen/{name}": loss for name, loss in self._losses(module, self.seen).items()}
        return losses | (self.train_pairs.counts() if isinstance(self.train_pairs, Streamed) else {})

    def _losses(self, module: MultiFlowUNet, pairs: Pairs) -> dict[str, float]:
        losses: dict[str, float] = {}
        for task in self.options.tasks:
            generator = torch.Generator(self.device).manual_seed(0)
            total, errors, timesteps = 0.0, [], []
            for items in self._measured(task, pairs):
                batch = self._of(task, pairs, items, generator)
                loss, error = self._loss(module, batch)
                total += len(items) * float(loss.detach())
                errors.append(error)
                timesteps.append(batch.timestep)
            levels = self.denoising.means_by_level(torch.cat(errors), torch.cat(timesteps))
            losses[task.name] = total / sum(map(len, errors))
            losses |= {f"{task.name}/{level}": mean for level, mean in levels.items()}
        return losses

    def _measured(self, task: Task, pairs: Pairs) -> list[Tensor]:
        """The first items, grouped by latent shape; small sets are repeated, with new noise each time."""
        count = min(max(pairs.count, FEWEST_MEASURED), MOST_MEASURED)
        items = torch.arange(count) % pairs.count
        parts = [items[torch.isin(items, alike)] for alike in pairs.latents[task.flow.data].alike]
        return [part.to(self.device) for part in parts if len(part)]

    def pipeline(self, module: MultiFlowUNet) -> VersatileDiffusionPipeline:
        """Pipeline of `module` with its codecs and encoders."""
        return VersatileDiffusionPipeline(unet=module, bank=self.bank, scheduler=self.scheduler, **self.model)

    def sample_sheet(self, module: MultiFlowUNet, path: Path) -> dict[str, float]:
        """Write sheets with the outputs of each task for held-out inputs. Return the mean cosine similarity of inputs
        and outputs, where their encoders share an embedding space."""
        agreement: dict[str, float] = {}
        pipe = self.pipeline(module)
        pipe.set_progress_bar_config(disable=True)
        for task in self.options.tasks:
            given = {context: self.looks[context] for context in task.flow.contexts}
            made = pipe.run(task, given, **self._sampling(task), seed=0)
            rows = [*given.items(), (task.flow.data, made.values)]
            write_sheet(rows, path.with_name(f"{path.name}-{task.name}"))
            agreement |= self._agreement(task, next(iter(given.values())), made.values)
        return agreement

    def _sampling(self, task: Task) -> dict[str, Any]:
        """Options of the sample sheets."""
        return {"num_inference_steps": 20, "guidance_scale": 3.0}

    def _agreement(self, task: Task, given: Sequence[Any], made: Sequence[Any]) -> dict[str, float]:
        encoders: dict[str, Any] = dict(self.bank.encoders.items())
        start, end = encoders.get(task.flow.contexts[0]), encoders.get(task.flow.data)
        if start is None or end is None or start.space is None or start.space != end.space:
            return {}
        cosines = (start.compare(given) * end.compare(made)).sum(1)
        return {f"{task.name}/agreement": float(cosines.mean())}

    def export(self, module: MultiFlowUNet, folder: Path) -> None:
        """Save the pipeline, with adapters merged; adapters also separately in `lora/`."""
        if self.options.lora is not None:
            save_lora(module, folder / "lora", self.options.lora.name)
            module = merge_loras(copy.deepcopy(module))
        self.pipeline(module).save_pretrained(folder)
