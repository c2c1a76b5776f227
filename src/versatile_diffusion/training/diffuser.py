"""Training of the diffuser: several flows in one run (paper section 3.4)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.diffuser.groups import Multipliers, covered
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.tasks import TASKS, Task
from versatile_diffusion.training.loop import Objective
from versatile_diffusion.training.lora import LoraSettings, add_lora, merge_loras, save_lora
from versatile_diffusion.training.mixture import STAGES, Mixture, by_flow, check_by_flow
from versatile_diffusion.training.objective import Denoising
from versatile_diffusion.training.optimizer import multiply, split_parameters
from versatile_diffusion.training.pairs import Pairs
from versatile_diffusion.training.promotion import promote

__all__ = ["STAGES", "Batch", "DiffuserObjective", "DiffuserSettings", "null_tokens", "write_sheet"]

FEWEST_MEASURED, MOST_MEASURED = 64, 256


@dataclass(frozen=True)
class DiffuserSettings:
    """What is trained, and how.

    Args:
        stage: a key of `STAGES`.
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
        flows: tasks of the stage to train alone; the diffuser has the streams that these need. All if left out.
        joint: whether every step trains all flows, or each step a single one.
        multipliers, multiply: see `Multipliers`.
        new_contexts: how context streams begin that the stage before lacks, see `promote`.
        min_snr, zero_terminal_snr, noise_offset: see `Denoising`.
        lora: adapters to train in place of the weights.
        loss_weights: what a flow's loss is multiplied by in training, by task or by the modality that is generated.
        noises: at how many noise levels each item of a batch is seen, by task or by the modality that is generated; 1
            where left out. Its context's keys and values are computed once, which for texts is most of the work.
        lowest_timestep: likewise, from which timestep on noise levels are trained; 0 where left out. High ones alone
            teach soonest what a context means; end with all.

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
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    noises: Mapping[str, int] = field(default_factory=dict)
    lowest_timestep: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage is {self.stage!r}; allowed: {', '.join(STAGES)}")
        if unknown := [name for name in self.flows or () if name not in STAGES[self.stage]]:
            raise ValueError(f"{self.stage} has no flow {', '.join(unknown)}; it has {', '.join(STAGES[self.stage])}")
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

    def noises_of(self, task: Task) -> int:
        """At how many noise levels a batch of the task has each item."""
        return by_flow(self.noises, task, 1)

    def lowest_of(self, task: Task) -> int:
        """The lowest timestep that the task is trained at."""
        return by_flow(self.lowest_timestep, task, 0)

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


@dataclass(frozen=True)
class Batch:
    """Items of one flow: x0 and noise (B * n, ...), timesteps (B * n,), each item n times, next to each other; one
    context, with the tokens of B items; and the weight of their loss."""

    task: Task
    latent: Tensor
    noise: Tensor
    timestep: Tensor
    context: Context
    weight: float = 1.0


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
    """

    options: DiffuserSettings
    train_pairs: Pairs
    held_out: Pairs
    bank: ModalityBank
    looks: Mapping[str, list[Any]]
    start: MultiFlowUNet | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    model: Mapping[str, Any] = field(default_factory=dict)
    name = "diffuser"

    def __post_init__(self) -> None:
        self.mixture, self.denoising = self.options.flow_mixture, self.options.denoising
        self.turns = self.mixture.turns
        self.scheduler = self.denoising.scheduler
        self.null = {task.name: null_tokens(task, self.bank) for task in self.options.tasks}

    def settings(self) -> dict[str, Any]:
        settings = asdict(self.options)
        for name in ("loss_weights", "noises", "lowest_timestep"):
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
        """One batch for each flow of the step."""
        return [
            self._of(task, self._draw(task, generator), generator, weight) for task, weight in self.mixture.at(step)
        ]

    def _draw(self, task: Task, generator: torch.Generator) -> Tensor:
        """Numbers of items whose latents have one shape; a shape is drawn as often as there are items of it."""
        alike, which = self.train_pairs.latents[task.flow.data].alike, 0
        if len(alike) > 1:
            counts = torch.tensor([float(len(numbers)) for numbers in alike], device=self.device)
            which = int(torch.multinomial(counts, 1, generator=generator))
        items, size = alike[which], (self.mixture.size(task),)
        drawn = torch.randint(len(items), size, generator=generator, device=self.device)
        return items[drawn.to(items.device)].to(self.device)

    def _of(
        self, task: Task, items: Tensor, generator: torch.Generator, weight: float = 1.0, training: bool = True
    ) -> Batch:
        """Training items with the noise levels and dropout of the settings, or held-out ones with one level each."""
        (stream,), options = task.flow.contexts, self.options
        pairs = self.train_pairs if training else self.held_out
        noises, lowest = (options.noises_of(task), options.lowest_of(task)) if training else (1, 0)
        dropout = options.dropped(stream) if training else 0.0
        latent = pairs.latents[task.flow.data].draw(items, generator).repeat_interleave(noises, 0)
        tokens = pairs.tokens[stream].draw(items, generator)
        dropped = torch.rand(len(items), 1, 1, generator=generator, device=self.device) < dropout
        tokens = torch.where(dropped, self.null[task.name].to(tokens), tokens)
        noise = self.denoising.noise(latent.shape, generator)
        timestep = self.denoising.timesteps(len(items), generator, noises, lowest)
        return Batch(task, latent, noise, timestep, Context(stream, tokens), weight)

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
            levels = self.denoising.by_level(errors, one.timestep, self.options.lowest_of(one.task))
            parts |= {one.task.name: loss} | {f"{one.task.name}/{level}": mean for level, mean in levels.items()}
        return sum(total[1:], total[0]), parts

    def _loss(self, module: MultiFlowUNet, batch: Batch) -> tuple[Tensor, Tensor]:
        def predict(noisy: Tensor) -> Tensor:
            # A group norm whose weights learn, and nothing before it, crashes torch 2.13 on a CPU in the backward pass.
            noisy.requires_grad_(self.options.freezes)
            return module(noisy, batch.timestep, [batch.context], data=batch.task.flow.data)

        return self.denoising.loss(predict, batch.latent, batch.noise, batch.timestep)

    def evaluate(self, module: MultiFlowUNet) -> dict[str, float]:
        """Loss of each flow on held-out items, as a whole and by noise level, always with the same noise and
        timesteps."""
        losses: dict[str, float] = {}
        for task in self.options.tasks:
            generator = torch.Generator(self.device).manual_seed(0)
            total, errors, timesteps = 0.0, [], []
            for items in self._measured(task):
                batch = self._of(task, items, generator, training=False)
                loss, error = self._loss(module, batch)
                total += len(items) * float(loss)
                errors.append(error)
                timesteps.append(batch.timestep)
            levels = self.denoising.means_by_level(torch.cat(errors), torch.cat(timesteps))
            losses[task.name] = total / sum(map(len, errors))
            losses |= {f"{task.name}/{level}": mean for level, mean in levels.items()}
        return losses

    def _measured(self, task: Task) -> list[Tensor]:
        """The first held-out items, by the shape of their latents; where there are few, each several times, with as
        many noises."""
        count = min(max(self.held_out.count, FEWEST_MEASURED), MOST_MEASURED)
        items = torch.arange(count) % self.held_out.count
        parts = [items[torch.isin(items, alike)] for alike in self.held_out.latents[task.flow.data].alike]
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
            given = self.looks[task.flow.contexts[0]]
            made = getattr(pipe, task.name.replace("-", "_"))(given, num_inference_steps=20, guidance_scale=3.0, seed=0)
            write_sheet(given, made.values, path.with_name(f"{path.name}-{task.name}"))
            agreement |= self._agreement(task, given, made.values)
        return agreement

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


def write_sheet(given: list[Any], made: list[Any], path: Path) -> None:
    """Pictures as a grid, the given above the made; with texts among them as numbered lines beside it."""
    sheets = [values for values in (given, made) if not isinstance(values[0], str)]
    if sheets:
        side = max(picture.width for values in sheets for picture in values)
        sheet = Image.new("RGB", (side * len(given), side * len(sheets)), "white")
        for row, values in enumerate(sheets):
            for column, picture in enumerate(values):
                sheet.paste(picture, (side * column, side * row))
        sheet.save(path.with_suffix(".png"))
    texts = [" -> ".join(v for v in pair if isinstance(v, str)) for pair in zip(given, made, strict=True)]
    if any(texts):
        path.with_suffix(".txt").write_text("".join(f"{n}: {text}\n" for n, text in enumerate(texts)))


def null_tokens(task: Task, bank: ModalityBank) -> Tensor:
    """The null context (1, L, D) of a task with one context; zeros are broadcast over the tokens."""
    (stream,) = task.flow.contexts
    kind = task.null[stream]
    encoder = bank.encoders[stream]
    if kind == "zeros":
        return torch.zeros(1, 1, 1, device=encoder.device)
    with torch.no_grad():
        return encoder.encode([MODALITIES[stream].blanks[kind]])
