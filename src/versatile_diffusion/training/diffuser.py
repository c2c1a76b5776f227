"""Training of the diffuser: several flows in one run, each batch of one flow (paper section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.sampling.schedulers import SCHEDULERS
from versatile_diffusion.tasks import TASKS, Task
from versatile_diffusion.training.loop import Objective
from versatile_diffusion.training.optimizer import split_parameters
from versatile_diffusion.training.pairs import Pairs

STAGES = {
    "basic": ("image-variation",),
    "dual_context": ("text-to-image", "image-variation"),
    "official": ("text-to-image", "image-variation", "image-to-text", "text-variation"),
}
"""The paper's three settings (section 4.1), in their order: the tasks trained. Each starts from the one before."""


@dataclass(frozen=True)
class DiffuserSettings:
    """What is trained, and how.

    Args:
        stage: a key of `STAGES`.
        unet: arguments of MultiFlowUNet other than its streams.
        data_streams, context_streams: options per modality; a stage takes those that its tasks need.
        mixture: relative number of steps per task; tasks that the stage lacks are left out.
        batch: items per step, by the modality that is generated.
        prediction: what the network predicts, `epsilon` (the paper) or `v_prediction`.
        dropout: share of items whose context is replaced with the task's null context.
        lr, weight_decay: of AdamW.
        muon_lr: learning rate of Muon for the matrices; None leaves them to AdamW.
        not_muon: parts of names of matrices that AdamW takes all the same.
    """

    stage: str
    unet: Mapping[str, Any]
    data_streams: Mapping[str, Mapping[str, Any]]
    context_streams: Mapping[str, Mapping[str, Any]]
    mixture: Mapping[str, int]
    batch: Mapping[str, int]
    prediction: str = "epsilon"
    dropout: float = 0.1
    lr: float = 1e-3
    weight_decay: float = 0.01
    muon_lr: float | None = None
    not_muon: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage is {self.stage!r}; allowed: {', '.join(STAGES)}")

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(TASKS[name] for name in STAGES[self.stage])

    @property
    def data(self) -> list[str]:
        """Modalities that this stage generates."""
        return [m for m in self.data_streams if any(m == task.flow.data for task in self.tasks)]

    @property
    def contexts(self) -> list[str]:
        """Modalities that guide in this stage."""
        return [m for m in self.context_streams if any(m in task.flow.contexts for task in self.tasks)]

    def build(self) -> MultiFlowUNet:
        """A fresh diffuser with the streams of this stage."""
        return MultiFlowUNet(
            data_streams={m: dict(self.data_streams[m]) for m in self.data},
            context_streams={m: dict(self.context_streams[m]) for m in self.contexts},
            **self.unet,
        )


@dataclass(frozen=True)
class Batch:
    """One step of one flow: x0 and noise (B, ...), timesteps (B,), one context."""

    task: Task
    latent: Tensor
    noise: Tensor
    timestep: Tensor
    context: Context


@dataclass
class DiffuserObjective(Objective[MultiFlowUNet]):
    """Mean squared error to the noise (or velocity), one flow per step; contexts dropped for guidance.

    Args:
        options: what is trained, and how.
        train_pairs: the items to train on.
        held_out: items for the validation loss.
        bank: codecs and context encoders; they stay as they are.
        looks: per modality, raw values that the sample sheets start from.
        start: a diffuser of an earlier stage whose streams this one takes over.
    """

    options: DiffuserSettings
    train_pairs: Pairs
    held_out: Pairs
    bank: ModalityBank
    looks: Mapping[str, list[Any]]
    start: MultiFlowUNet | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    name = "diffuser"

    def __post_init__(self) -> None:
        self.batch_size = max(self.options.batch.values())
        self.scheduler = SCHEDULERS["ddim"](prediction_type=self.options.prediction)
        mixture = {task: self.options.mixture[task.name] for task in self.options.tasks}
        self.turns = _interleave(mixture)
        self.null = {task.name: null_tokens(task, self.bank) for task in self.options.tasks}

    def settings(self) -> dict[str, Any]:
        return asdict(self.options)

    def build(self) -> MultiFlowUNet:
        unet = self.options.build()
        if self.start is not None:
            take_over(unet, self.start)
        return unet.to(memory_format=torch.channels_last)  # a fifth faster on a CPU

    def optimizers(self, module: MultiFlowUNet) -> list[torch.optim.Optimizer]:
        options = self.options
        groups = split_parameters(module, muon=options.muon_lr is not None, not_muon=options.not_muon)
        return groups.optimizers(
            options.lr, options.weight_decay, (0.9, 0.99), options.muon_lr or 0.0, options.weight_decay, muon_steps=4
        )

    def batch(self, step: int, generator: torch.Generator) -> Batch:
        task = self.turns[step % len(self.turns)]
        size = self.options.batch[task.flow.data]
        items = torch.randint(self.train_pairs.count, (size,), generator=generator, device=self.device)
        return self._of(task, self.train_pairs, items, generator, self.options.dropout)

    def _of(self, task: Task, pairs: Pairs, items: Tensor, generator: torch.Generator, dropout: float) -> Batch:
        (stream,) = task.flow.contexts
        latent = pairs.latents[task.flow.data].draw(items, generator)
        tokens = pairs.tokens[stream].draw(items, generator)
        dropped = torch.rand(len(items), 1, 1, generator=generator, device=self.device) < dropout
        tokens = torch.where(dropped, self.null[task.name].to(tokens), tokens)
        noise = torch.randn(latent.shape, generator=generator, device=self.device)
        timestep = torch.randint(len(self.scheduler.betas), (len(items),), generator=generator, device=self.device)
        return Batch(task, latent, noise, timestep, Context(stream, tokens))

    def loss(self, module: MultiFlowUNet, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        noisy = self.scheduler.add_noise(batch.latent, batch.noise, batch.timestep)
        predicted = module(noisy, batch.timestep, [batch.context], data=batch.task.flow.data)
        if self.options.prediction == "epsilon":
            target = batch.noise
        else:
            target = self.scheduler.get_velocity(batch.latent, batch.noise, batch.timestep)
        loss = F.mse_loss(predicted.float(), target)
        return loss, {batch.task.name: loss}

    def evaluate(self, module: MultiFlowUNet) -> dict[str, float]:
        """Loss of each flow on held-out items, always with the same noise and timesteps."""
        losses = {}
        for task in self.options.tasks:
            generator = torch.Generator(self.device).manual_seed(0)
            items = torch.arange(self.held_out.count, device=self.device)[:256]
            batch = self._of(task, self.held_out, items, generator, dropout=0.0)
            losses[task.name] = float(self.loss(module, batch)[0])
        return losses

    def pipeline(self, module: MultiFlowUNet) -> VersatileDiffusionPipeline:
        """`module` with its codecs and encoders, ready to generate."""
        return VersatileDiffusionPipeline(unet=module, bank=self.bank, scheduler=self.scheduler)

    def sample_sheet(self, module: MultiFlowUNet, path: Path) -> None:
        """What each task makes of held-out items, below (or beside) what it was given."""
        pipe = self.pipeline(module)
        pipe.set_progress_bar_config(disable=True)
        for task in self.options.tasks:
            given = self.looks[task.flow.contexts[0]]
            made = getattr(pipe, task.name.replace("-", "_"))(given, num_inference_steps=20, guidance_scale=3.0, seed=0)
            write_sheet(given, made.values, path.with_name(f"{path.name}-{task.name}"))

    def export(self, module: MultiFlowUNet, folder: Path) -> None:
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


def take_over(unet: MultiFlowUNet, earlier: MultiFlowUNet) -> None:
    """Copies every weight of an earlier stage into a later one, whose other streams stay as they are.

    Raises:
        ValueError: the earlier one has weights that this one has no place for.
    """
    unexpected = unet.load_state_dict(earlier.state_dict(), strict=False).unexpected_keys
    if unexpected:
        raise ValueError(
            f"the earlier stage has {len(unexpected)} weights that this one lacks, such as {unexpected[0]}"
        )


def _interleave(mixture: Mapping[Task, int]) -> list[Task]:
    """Tasks in turn, each as often as its share, spread evenly."""
    turns = [
        ((turn + 0.5) / share, order, task)
        for order, (task, share) in enumerate(mixture.items())
        for turn in range(share)
    ]
    return [task for _, _, task in sorted(turns, key=lambda turn: turn[:2])]
