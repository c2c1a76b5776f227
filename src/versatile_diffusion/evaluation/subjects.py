"""What can be measured: models of this library; `baselines` has those of others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from versatile_diffusion.evaluation.networks import Encoders
from versatile_diffusion.evaluation.protocol import Protocol
from versatile_diffusion.sampling.output import fingerprint
from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.tasks import Task

BATCH = 64


class Subject(ABC):
    """A model to measure.

    Attributes:
        name: of the model.
        hash: of its weights.
        tasks: what it can do, of tasks with one context.
        encoders: its context encoders that share a space, by modality; none where it has none.
        codecs: the modalities that it has a codec for.
        network: all of it that computes, a network or a pipeline.
    """

    name: str
    hash: str
    tasks: tuple[Task, ...]
    encoders: Encoders = {}  # noqa: RUF012 (never changed)
    codecs: tuple[str, ...] = ()
    network: Any

    @property
    def device(self) -> torch.device:
        """Where the model computes; the networks that measure go there too."""
        return self.network.device

    def to(self, device: torch.device) -> None:
        """Moves the model to where it shall compute."""
        self.network.to(device)

    def wanted(self, protocol: Protocol, tasks: Sequence[str] = ()) -> list[Task]:
        """The tasks to measure: those named, or all.

        Raises:
            ValueError: the model has not all of them, or cannot choose among candidates in one.
        """
        if strange := set(tasks) - {task.name for task in self.tasks}:
            able = ", ".join(task.name for task in self.tasks)
            raise ValueError(f"{self.name} is not measured on {', '.join(sorted(strange))}; it can: {able}")
        found = [task for task in self.tasks if not tasks or task.name in tasks]
        blind = [task.name for task in found if not self._compares(task)]
        if protocol.candidates > 1 and blind:
            raise ValueError(
                f"{self.name} cannot choose among {protocol.candidates} candidates in {', '.join(blind)}: it has no "
                "encoders of its own for both sides that share a space; measure it with candidates 1"
            )
        return found

    def _compares(self, task: Task) -> bool:
        """Whether the model can tell how well what it makes agrees with what it was given."""
        ends = [self.encoders.get(modality) for modality in (task.flow.data, *task.flow.contexts)]
        return None not in ends and len({end.space for end in ends if end is not None}) == 1

    @abstractmethod
    def make(self, task: Task, given: Sequence[Any], seeds: Sequence[int], protocol: Protocol) -> list[Any]:
        """One value per given one, each with its own seed."""

    def round_trip(self, modality: str, values: Sequence[Any]) -> list[Any]:
        """Values through the codec and back."""
        raise ValueError(f"{self.name} has no codecs that are measured")

    def guidance(self, task: Task, protocol: Protocol) -> float | None:
        """The guidance scale that a task is measured with."""
        return protocol.guidance_scale


class OwnModel(Subject):
    """A pipeline of this library."""

    def __init__(self, pipe: VersatileDiffusionPipeline):
        self.pipe, self.name, self.hash = pipe, pipe.model_name, fingerprint(pipe.unet, pipe.bank)
        self.tasks = tuple(task for task in pipe.tasks() if len(task.flow.contexts) == 1)
        self.encoders = {m: encoder for m, encoder in pipe.bank.encoders.items() if encoder.space is not None}
        self.codecs = tuple(pipe.bank.codecs)
        self.network = pipe
        pipe.set_progress_bar_config(disable=True)

    def make(self, task: Task, given: Sequence[Any], seeds: Sequence[int], protocol: Protocol) -> list[Any]:
        options: dict[str, Any] = {"num_inference_steps": protocol.steps, "scheduler": protocol.scheduler}
        options["candidates"] = protocol.candidates
        decoding: Mapping[str, Any] = {"temperature": protocol.temperature} if task.flow.data == "text" else {}
        method = getattr(self.pipe, task.name.replace("-", "_"))
        guidance = self.guidance(task, protocol)
        return list(method(list(given), seed=list(seeds), guidance_scale=guidance, **options, **decoding).values)

    @torch.no_grad()
    def round_trip(self, modality: str, values: Sequence[Any]) -> list[Any]:
        codec = self.pipe.bank.codecs[modality]
        return [
            value
            for start in range(0, len(values), BATCH)
            for value in codec.decode(codec.encode(list(values[start : start + BATCH]), None), None)
        ]

    def guidance(self, task: Task, protocol: Protocol) -> float | None:
        if protocol.guidance_scale is not None:
            return protocol.guidance_scale
        return self.pipe.config.defaults.get(task.name, {}).get("guidance_scale", task.guidance_scale)
