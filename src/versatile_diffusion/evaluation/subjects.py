"""Models to evaluate: those of this library; `baselines` has others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from versatile_diffusion.evaluation.networks import Encoders
from versatile_diffusion.evaluation.protocol import Protocol
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.records.record import fingerprint
from versatile_diffusion.tasks import Task

BATCH = 64


class Subject(ABC):
    """A model to evaluate.

    Attributes:
        name: name of the model.
        hash: hash of its weights.
        tasks: supported tasks with one context.
        encoders: context encoders with a shared space, by modality; empty if none.
        codecs: modalities with a codec.
        network: network or pipeline that computes.
    """

    name: str
    hash: str
    tasks: tuple[Task, ...]
    encoders: Encoders = {}  # noqa: RUF012 (never changed)
    codecs: tuple[str, ...] = ()
    network: Any

    @property
    def device(self) -> torch.device:
        """Device of the model and the metric networks."""
        device: torch.device = self.network.device
        return device

    def to(self, device: torch.device) -> None:
        """Move the model to a device."""
        self.network.to(device)

    def wanted(self, protocol: Protocol, tasks: Sequence[str] = ()) -> list[Task]:
        """Return the tasks to measure: those named, or all.

        Raises:
            ValueError: an unsupported task, or one without encoders to rank candidates.
        """
        if strange := set(tasks) - {task.name for task in self.tasks}:
            able = ", ".join(task.name for task in self.tasks)
            raise ValueError(f"{self.name} does not support {', '.join(sorted(strange))}; it supports: {able}")
        found = [task for task in self.tasks if not tasks or task.name in tasks]
        blind = [task.name for task in found if not self._compares(task)]
        if protocol.candidates > 1 and blind:
            raise ValueError(
                f"{self.name} cannot rank {protocol.candidates} candidates in {', '.join(blind)}: it has no encoders "
                "for both modalities in a shared space; use candidates 1"
            )
        return found

    def _compares(self, task: Task) -> bool:
        """Return whether the model can rank the outputs of a task."""
        ends = [self.encoders.get(modality) for modality in (task.flow.data, *task.flow.contexts)]
        return None not in ends and len({end.space for end in ends if end is not None}) == 1

    @abstractmethod
    def make(self, task: Task, given: Sequence[Any], seeds: Sequence[int], protocol: Protocol) -> list[Any]:
        """Generate one value per given one, each with its own seed."""

    def round_trip(self, modality: str, values: Sequence[Any]) -> list[Any]:
        """Encode and decode values with the codec."""
        raise ValueError(f"{self.name} has no codecs to evaluate")

    def guidance(self, task: Task, protocol: Protocol) -> float | None:
        """Return the guidance scale used for a task."""
        return protocol.guidance_scale


class OwnModel(Subject):
    """Pipeline of this library."""

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
        if "temperature" in MODALITIES[task.flow.data].decoding:
            options["temperature"] = protocol.temperature
        options |= {"guidance_scale": self.guidance(task, protocol), "seed": list(seeds)}
        return list(self.pipe.run(task, list(given), **options).values)

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
        scale: float = self.pipe.config.defaults.get(task.name, {}).get("guidance_scale", task.guidance_scale)
        return scale
