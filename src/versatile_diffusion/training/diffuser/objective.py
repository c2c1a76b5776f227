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
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.tasks import Task
from versatile_diffusion.training.diffuser.batch import Batch
from versatile_diffusion.training.diffuser.lora import add_lora, merge_loras, save_lora
from versatile_diffusion.training.diffuser.mixture import by_flow
from versatile_diffusion.training.diffuser.pairs import Pairs, null_tokens
from versatile_diffusion.training.diffuser.promotion import promote
from versatile_diffusion.training.diffuser.settings import DiffuserSettings
from versatile_diffusion.training.diffuser.sheet import write_sheet
from versatile_diffusion.training.diffuser.streamed import Streamed
from versatile_diffusion.training.engine.loop import Objective
from versatile_diffusion.training.engine.optimizer import multiply, split_parameters

FEWEST_MEASURED, MOST_MEASURED = 64, 256


@dataclass
class DiffuserObjective(Objective[MultiFlowUNet]):
    """Mean squared error of the predicted noise, of one flow per step or of all jointly; contexts are dropped for CFG.

    Args:
        options: settings.
        train_pairs: the training items.
        held_out: items for the validation loss.
        bank: codecs and context encoders; frozen.
        looks: raw values by modality, the inputs of sample sheets.
        start: diffuser of an earlier stage whose streams are copied, and the teacher of flows to `retain`.
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
        if self.options.retain:
            if self.start is None:
                raise ValueError("retain needs a diffuser to begin from")
            self.start.to(self.device).eval().requires_grad_(False)
        self.null = {
            task.name: {stream: null_tokens(task, self.bank, stream) for stream in task.flow.contexts}
            for task in self.options.tasks
        }

    def settings(self) -> dict[str, Any]:
        settings = asdict(self.options)
        for name in ("distill", "loss_weights", "noises", "lowest_timestep", "high_noise", "new_data", "retain"):
            if settings[name] in (
                None,
                {},
                "fresh",
                (),
            ):  # so that runs of earlier versions, which lack it, can be resumed
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
        if not measured:
            latent = pairs.target(task, items, timestep, latent)
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
            loss, errors = self._loss(module, one, one.task.name in self.options.retain)
            total.append(one.weight * loss)
            levels = self._by_level(one, errors)
            parts |= {one.task.name: loss} | {f"{one.task.name}/{level}": mean for level, mean in levels.items()}
        return sum(total[1:], total[0]), parts

    def _by_level(self, batch: Batch, errors: Tensor) -> dict[str, Tensor]:
        lowest, high = self.options.lowest_of(batch.task), self.options.high_of(batch.task)
        return self.denoising.by_level(errors, batch.timestep, lowest, high)

    def _loss(self, module: MultiFlowUNet, batch: Batch, retain: bool = False) -> tuple[Tensor, Tensor]:
        """The loss of a batch towards the data, or (`retain`) towards the predictions of the start."""
        given = {"timestep": batch.timestep, "contexts": batch.contexts, "data": batch.task.flow.data}

        def predict(noisy: Tensor) -> Tensor:
            # A trainable group norm with only frozen layers before it crashes the backward pass of torch 2.13 on CPUs.
            return module(noisy.requires_grad_(self.options.freezes), **given)

        teacher = partial(self.start, **given) if retain and self.start is not None else None
        return self.denoising.loss(predict, batch.latent, batch.noise, batch.timestep, teacher)

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
            total, errors, timesteps, mine = 0.0, [], [], pairs.of(task)
            for items in self._measured(task, mine):
                batch = self._of(task, mine, items, generator)
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
