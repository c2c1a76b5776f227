"""Resource estimates of a training, before anything is built: parameters, memory, FLOPs, days, bytes of data.

Everything is counted on the meta device with the network to be trained; only the constants below are assumptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch.utils.flop_counter import FlopCounterMode

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.diffuser.groups import parameter_counts, parameter_groups
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.training.diffuser.paper import PaperRun, Phase, multipliers

STATE_BYTES = {"weights": 4, "gradients": 4, "AdamW": 8, "averaged model": 4}
"""Bytes per parameter, in float32."""

BACKWARD = 2.0
"""FLOPs of the backward pass, as a multiple of the forward pass."""

TOKENS = {"text": 77, "image": 257}
FACTOR = 8
"""Downscaling factor of the image codec."""

TRANSFORMERS = {
    "text tokens": (123_700_000, 77),
    "image tokens": (304_000_000, 257),
    "text latent": (109_500_000, 79),
}
"""Parameters and sequence length of the frozen transformers: CLIP's two encoders, and BERT. A position takes two FLOPs
per parameter."""

AUTOENCODER = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
"""diffusers' arguments of the image autoencoder."""

IMAGE_BYTES = {256: 25_000, 512: 75_000}
"""Approximate size of a JPEG file by image size."""

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """The GPUs to train on.

    Args:
        gpus: total number.
        per_node: number per machine.
        tflops: peak dense bfloat16 TFLOP/s; 989 for an H100.
        mfu: model FLOPs utilisation, the share of the peak that training reaches.
    """

    gpus: int = 8
    per_node: int = 8
    tflops: float = 989.0
    mfu: float = 0.35

    def __post_init__(self) -> None:
        if self.gpus < 1 or self.per_node < 1:
            raise ValueError(f"{self.gpus} GPUs, {self.per_node} per node: both must be 1 or more")
        if not self.tflops > 0 or not 0 < self.mfu <= 1:
            raise ValueError(f"tflops is {self.tflops} and mfu {self.mfu}; they must be above 0, and mfu at most 1")


@dataclass(frozen=True)
class TrainingPlan:
    """Resources that one of the paper's trainings needs on given GPUs."""

    run: PaperRun
    machine: Machine

    @cached_property
    def unet(self) -> MultiFlowUNet:
        """The network on the meta device."""
        with torch.device("meta"):
            return self.run.settings().build()

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Number of parameters by group and stream."""
        return parameter_counts(self.unet)

    @cached_property
    def forward_flops(self) -> dict[str, dict[int, float]]:
        """FLOPs of the forward pass for one sample, by flow and image size."""
        return {
            name: {side: _flops(self.unet, name, side) for side in (phase.side for phase in self.run.phases)}
            for name in self.run.flows
        }

    @cached_property
    def activations(self) -> int:
        """Bytes of activations for one sample at the largest image size, for the flow that needs most: in bfloat16,
        half of those kept in float32."""
        side = max(phase.side for phase in self.run.phases)
        return max(_kept_bytes(self.unet, name, side) for name in self.run.flows) // 2

    def memory(self) -> dict[str, int]:
        """Bytes on each GPU by sharding strategy, with one sample at a time."""
        state = sum(STATE_BYTES.values()) * sum(self.parameters.values())
        groups = parameter_groups(self.unet).values()
        gathered = 4 * max(parameter.numel() for members in groups for _, parameter in members) * 8
        shards = {"ddp": 1, "hsdp": min(self.machine.per_node, self.machine.gpus), "fsdp": self.machine.gpus}
        return {
            name: state // count + self.activations + (gathered if count > 1 else 0) for name, count in shards.items()
        }

    def flops(self, phase: Phase) -> float:
        """FLOPs of a phase with equal shares of the flows, on precomputed latents and tokens."""
        mean = sum(by_side[phase.side] for by_side in self.forward_flops.values()) / len(self.run.flows)
        return (1 + BACKWARD) * mean * phase.samples

    def encoding_flops(self, phase: Phase) -> float:
        """FLOPs of the frozen codecs and encoders in a phase without precomputed latents and tokens."""
        each = {name: 2.0 * size * positions for name, (size, positions) in TRANSFORMERS.items()}
        each["image latent"] = _encoder_flops(phase.side)
        total = 0.0
        for flow in (TASKS[name].flow for name in self.run.flows):
            total += each[f"{flow.data} latent"] + sum(each[f"{context} tokens"] for context in flow.contexts)
        return total / len(self.run.flows) * phase.samples

    def gpu_hours(self, flops: float) -> float:
        """GPU hours."""
        return flops / (self.machine.tflops * 1e12 * self.machine.mfu) / 3600

    def days(self, flops: float) -> float:
        """Days on all GPUs."""
        return self.gpu_hours(flops) / 24 / self.machine.gpus

    def cached_bytes(self, phase: Phase) -> dict[str, int]:
        """Bytes of one sample: as a file, and encoded in half precision."""
        return {
            "image file": IMAGE_BYTES.get(phase.side, phase.side**2 // 3),
            "image latent": 2 * 4 * (phase.side // FACTOR) ** 2,
            "text latent": 2 * 768,
            **{f"{modality} tokens": 2 * count * 768 for modality, count in TOKENS.items()},
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.run.stage,
            "start": self.run.start,
            "batch": self.run.batch,
            "lr": self.run.lr,
            "steps": self.run.steps,
            "machine": asdict(self.machine),
            "parameters": self.parameters,
            "multipliers": multipliers(self.run),
            "memory": self.memory(),
            "activations": self.activations,
            "forward_flops": self.forward_flops,
            "phases": [self._phase(phase) for phase in self.run.phases],
        }

    def _phase(self, phase: Phase) -> dict[str, Any]:
        trained, encoded = self.flops(phase), self.encoding_flops(phase)
        return {
            **asdict(phase),
            "flops": trained,
            "encoding_flops": encoded,
            "gpu_hours": self.gpu_hours(trained),
            "encoding_gpu_hours": self.gpu_hours(encoded),
            "days": self.days(trained),
            "bytes": self.cached_bytes(phase),
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        run, machine = self.run, self.machine
        name = run.stage.replace("_", "-")
        yield f"{name}: from {run.start}, {run.steps:,} updates of {run.batch:,}, AdamW {run.lr:g}"
        factors: Mapping[str, float] = multipliers(run)
        for stream, count in self.parameters.items():
            yield f"  {stream:14} {count:>14,} parameters, multiplier {factors[stream]:g}"
        yield f"  {'all':14} {sum(self.parameters.values()):>14,} parameters"
        for flow, by_side in self.forward_flops.items():
            costs = ", ".join(f"{flops / 1e12:.3f} TFLOP at {side}" for side, flops in by_side.items())
            yield f"  {flow:16} {costs} (forward, one sample)"
        state = "batch size 1; weights, gradients, AdamW and EMA in float32"
        yield f"  memory per GPU ({state}):"
        for way, size in self.memory().items():
            yield f"    {way:5} {size / GIB:7.1f} GiB"
        yield f"  on {machine.gpus} GPUs of {machine.tflops:g} TFLOP/s at an MFU of {machine.mfu:g}:"
        for phase in run.phases:
            trained, encoded, sizes = self.flops(phase), self.encoding_flops(phase), self.cached_bytes(phase)
            cache = sum(size for name, size in sizes.items() if name != "image file")
            yield (
                f"    {phase.samples / 1e6:g} M samples at {phase.side}: {trained:.2e} FLOP, "
                f"{self.gpu_hours(trained):,.0f} GPU hours, {self.days(trained):.2g} days; encoding online adds "
                f"{self.gpu_hours(encoded):,.0f} GPU hours"
            )
            yield (
                f"      {phase.samples * sizes['image file'] / 1e12:.1f} TB of files, "
                f"{phase.samples * cache / 1e12:.1f} TB of precomputed latents and tokens"
            )


def _one(name: str, side: int, unet: MultiFlowUNet) -> tuple[torch.Tensor, torch.Tensor, list[Context], str]:
    """A latent, a timestep and the contexts of one sample, on the meta device."""
    flow = TASKS[name].flow
    shapes = {"image": (4, side // FACTOR, side // FACTOR), "text": (768,)}
    latent = torch.empty(1, *shapes[flow.data], device="meta")
    contexts = [
        Context(m, torch.empty(1, TOKENS[m], unet.config.context_streams[m]["width"], device="meta"))
        for m in flow.contexts
    ]
    return latent, torch.zeros(1, dtype=torch.long, device="meta"), contexts, flow.data


def _flops(unet: MultiFlowUNet, name: str, side: int) -> float:
    latent, timestep, contexts, data = _one(name, side, unet)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(latent, timestep, contexts, data=data)
    return float(counter.get_total_flops())


def _encoder_flops(side: int) -> float:
    """FLOPs of the image encoder for one image."""
    with torch.device("meta"), torch.no_grad():
        encoder, image = AutoencoderKL(**AUTOENCODER).encoder, torch.empty(1, 3, side, side)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(image)
    return float(counter.get_total_flops())


def _kept_bytes(unet: MultiFlowUNet, name: str, side: int) -> int:
    """Bytes of the tensors that autograd keeps for the backward pass, without weights, each storage once."""
    weights = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage()._cdata) not in weights:
            kept[place] = tensor
        return tensor

    latent, timestep, contexts, data = _one(name, side, unet)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        unet(latent, timestep, contexts, data=data)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
