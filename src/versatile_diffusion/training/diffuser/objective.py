"""Training of the diffuser: several flows in one run (paper section 3.4)."""

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
from versatile_diffusion.diffuser.groups import Multipliers, covered
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
    """What is trained, and how.

    Args:
        stage: a key of `STAGES`: which flows are trained, where `flows` does not say.
        unet: arguments of MultiFlowUNet other than its streams.
        data_streams, context_streams: options per modality; a stage takes those that its flows need.
        mixture: per task, its share of the steps, or its weight in a `joint` one; see `Mixture`. Tasks that the stage
            lacks are left out; one of 0 is not trained, though the diffuser has its streams.
        batch: items per step, by task or by the modality that is generated.
        prediction: what the network predicts, `epsilon` (the paper), `v_prediction` or `sample`.
        dropout: share of items whose context is replaced with the task's null context; one for all contexts, or by
            modality (0 where left out).
        lr, weight_decay: of the optimizer.
        muon_lr: learning rate of Muon for the matrices; None leaves them to the other optimizer.
        not_muon: parts of names of matrices that the other optimizer takes all the same.
        optimizer: a key of `OPTIMIZERS`.
        flows: tasks to train, of any flow and with any number of contexts, in place of those of the stage; the diffuser
            has the streams that these need.
        joint: whether every step trains all flows, or each step a single one.
        multipliers, multiply: see `Multipliers`.
        new_contexts: how context streams begin that the stage before lacks, see `promote`.
        min_snr, zero_terminal_snr, noise_offset: see `Denoising`.
        lora: adapters to train in place of the weights.
        distill: what a model is distilled to, in place of training it further; see `DistillObjective`.
        loss_weights: what a flow's loss is multiplied by in training, by task or by the modality that is generated.
        noises: at how many noise levels each item of a batch is seen, by task or by the modality that is generated; 1
            where left out. Its context's keys and values are computed once, which for texts is most of the work.
        lowest_timestep: likewise, from which timestep on noise levels are trained; 0 where left out. High ones alone
            teach soonest what a context means; end with all.
        high_noise: likewise, the share of items whose noise levels are drawn from the upper half alone; 0 where left
            out. What a context means is learnt there.

    Raises:
        ValueError: a name is unknown, a number is out of range, or a flow would have nothing left to train.
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

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage is {shown(self.stage)}; allowed: {', '.join(STAGES)}")
        if unknown := [name for name in self.flows or () if name not in TASKS]:
            raise ValueError(f"there is no flow {', '.join(unknown)}; allowed: {', '.join(TASKS)}")
        if missing := [task.name for task in self.tasks if task.name not in self.mixture]:
            raise ValueError(f"mixture has {dict(self.mixture)}, and nothing for {', '.join(missing)}")
        rates = self.dropout.values() if isinstance(self.dropout, Mapping) else [self.dropout]
        if not all(0 <= rate <= 1 for rate in rates):
            raise ValueError(f"dropout is {self.dropout}; it must be from 0 to 1")
        streams = ["global", *self.streams]
        factors = self.learning.of(streams)
        learning = [
            stream for stream in covered(self.lora.targets if self.lora else streams, streams) if factors[stream]
        ]
        for task in self.flow_mixture.tasks:
            used = {"global", f"data.{task.flow.data}", *(f"context.{c}" for c in task.flow.contexts)}
            if used.isdisjoint(learning):
                raise ValueError(
                    f"{task.name} has nothing left to train: of {', '.join(streams)} only {learning} learn"
                )
        most = self.denoising.levels  # (which checks itself)
        check_by_flow("noises", self.noises, 1, most)
        check_by_flow("lowest_timestep", self.lowest_timestep, 0, most - 1)
        check_by_flow("high_noise", self.high_noise, 0, 1, whole=False)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(TASKS[name] for name in self.flows or STAGES[self.stage])

    @property
    def data(self) -> list[str]:
        """Modalities that this stage generates."""
        return [m for m in self.data_streams if any(m == task.flow.data for task in self.tasks)]

    @property
    def contexts(self) -> list[str]:
        """Modalities that guide in this stage."""
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
        """Whether some weights stay as they are."""
        return self.lora is not None or 0 in self.learning.of(["global", *self.streams]).values()

    @property
    def denoising(self) -> Denoising:
        return Denoising(self.prediction, self.min_snr, self.zero_terminal_snr, self.noise_offset)

    def lowest_of(self, task: Task) -> int:
        """The lowest timestep that the task is trained at."""
        return by_flow(self.lowest_timestep, task, 0)

    def high_of(self, task: Task) -> float:
        """The share of the task's items that have noise levels of the upper half alone."""
        return by_flow(self.high_noise, task, 0.0)

    def dropped(self, context: str) -> float:
        """The dropout of a context."""
        return self.dropout.get(context, 0.0) if isinstance(self.dropout, Mapping) else self.dropout

    def build(self) -> MultiFlowUNet:
        """A fresh diffuser with the streams of this stage."""
        return MultiFlowUNet(
            data_streams={m: dict(self.data_streams[m]) for m in self.data},
            context_streams={m: dict(self.context_streams[m]) for m in self.contexts},
            **self.unet,
        )


@dataclass
class DiffuserObjective(Objective[MultiFlowUNet]):
    """Mean squared error to the noise, of one flow per step or of all jointly; contexts dropped for guidance.

    Args:
        options: what is trained, and how.
        train_pairs: the items to train on.
        held_out: items for the validation loss.
        bank: codecs and context encoders; they stay as they are.
        looks: per modality, raw values that the sample sheets start from.
        start: a diffuser of an earlier stage whose streams this one takes over.
        model: what else the pipelines made of it get, such as `styles` and `defaults`.
        seen: items that are trained on, to be measured beside the held-out ones; none if left out.
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
        for name in ("distill", "loss_weights", "noises", "lowest_timestep", "high_noise"):
            if not settings[name]:  # so that runs begun before there were such settings can go on
                del settings[name]
        return settings

    def build(self) -> MultiFlowUNet:
        unet = self.options.build()
        if self.start is not None:
            promote(unet, self.start, self.options.new_contexts)
        if self.options.lora is not None:
            add_lora(unet, self.options.lora)
        self.options.learning.freeze(unet)
        return unet.to(memory_format=torch.channels_last)  # a fifth faster on a CPU

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
        """Items with the noise levels and dropout of the settings; without a weight, to be measured, one level each."""
        measured = weight is None
        noises, timesteps = self._levels(task, measured)
        latent = pairs.latents[task.flow.data].draw(items, generator).repeat_interleave(noises, 0)
        contexts = []
        for stream in task.flow.contexts:  # each is dropped by itself, so that the model learns to do without it
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
        """One flow after the other, so that a joint step needs no more memory than a step of one flow."""
        return [[one] for one in batch]

    def blocks(self, module: MultiFlowUNet) -> Iterator[nn.Module]:
        for streams in (module.data, module.context):
            for blocks in streams.values():
                yield from blocks

    def loss(self, module: MultiFlowUNet, batch: Sequence[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum over the flows of the step; each one's loss alone, and its errors by noise level."""
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
            # A group norm whose weights learn, and nothing before it, crashes torch 2.13 on a CPU in the backward pass.
            noisy.requires_grad_(self.options.freezes)
            return module(noisy, batch.timestep, batch.contexts, data=batch.task.flow.data)

        return self.denoising.loss(predict, batch.latent, batch.noise, batch.timestep)

    def evaluate(self, module: MultiFlowUNet) -> dict[str, float]:
        """Loss of each flow on held-out items, as a whole and by noise level, always with the same noise and
        timesteps; and on items that are trained on, if there are some to be measured. What was read of shards, too."""
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
        """The first items, by the shape of their latents; where there are few, each several times, with as many
        noises."""
        count = min(max(pairs.count, FEWEST_MEASURED), MOST_MEASURED)
        items = torch.arange(count) % pairs.count
        parts = [items[torch.isin(items, alike)] for alike in pairs.latents[task.flow.data].alike]
        return [part.to(self.device) for part in parts if len(part)]

    def pipeline(self, module: MultiFlowUNet) -> VersatileDiffusionPipeline:
        """`module` with its codecs and encoders, ready to generate."""
        return VersatileDiffusionPipeline(unet=module, bank=self.bank, scheduler=self.scheduler, **self.model)

    def sample_sheet(self, module: MultiFlowUNet, path: Path) -> dict[str, float]:
        """What each task makes of held-out items, below (or beside) what it was given. Measured is how far the two
        agree: their mean cosine, where the encoders of both have one space."""
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
        """The pipeline; adapters also by themselves, in `lora/`."""
        if self.options.lora is not None:
            save_lora(module, folder / "lora", self.options.lora.name)
            module = merge_loras(copy.deepcopy(module))
        self.pipeline(module).save_pretrained(folder)
