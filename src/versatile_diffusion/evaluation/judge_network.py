"""Image classifier used as judge: concept, style, or "nothing recognisable".

EfficientNet-Lite0 (inverted residual blocks, no squeeze-and-excitation, ReLU6) with custom heads. Training starts from
ImageNet weights of a package; a trained judge needs only this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from versatile_diffusion.reading import reading

STEM = 32
STAGES = (
    *((16, 1, 3, 1, 1), (24, 2, 3, 2, 6), (40, 2, 5, 2, 6), (80, 3, 3, 2, 6)),
    *((112, 3, 5, 1, 6), (192, 4, 5, 2, 6), (320, 1, 3, 1, 6)),
)
"""Channels, blocks, kernel, first stride and expansion of each stage, as in EfficientNet-Lite0."""
WEIGHTS, SCALE = "judge.safetensors", ".scale"
LOOKS, TINY = 3, 1e-5
"""Number of stages whose channel statistics feed the style head, and the epsilon of their variance."""
LEVELS, SHORT = 127, 32
"""Range of the stored int8 weights; rows with fewer values stay in half precision, since depthwise filters do not
tolerate rounding."""
MEAN, SPREAD = 127 / 255, 128 / 255
"""Pixel mean and deviation expected by those weights."""


@dataclass(frozen=True)
class Verdict:
    """Output for a batch: logits of concepts and of "nothing", logits of styles, and features."""

    concept: Float[Tensor, "b k"]
    nothing: Float[Tensor, " b"]
    style: Float[Tensor, "b s"]
    features: Float[Tensor, "b d"]

    @property
    def refused(self) -> Bool[Tensor, " b"]:
        """Whether "nothing" is more likely than all concepts together."""
        return self.nothing > self.concept.logsumexp(1)

    def likeliest(self, count: int) -> Int[Tensor, "b n"]:
        """Return the most likely concepts, best first; -1 for refused images."""
        return self.concept.topk(count).indices.masked_fill(self.refused[:, None], -1)


class PictureJudge(ModelMixin, ConfigMixin):
    """Classifier of concepts, "nothing" and styles; 4.0 M parameters, stored in 8 bits. Batch norm uses fixed
    statistics even in training; `measure_statistics` sets them first.

    Args:
        concepts: concept keys in the order of the logits; "nothing" comes after them.
        styles: style names in the order of the logits.
        names: concept names for users.
        stages: see `STAGES`.
        width: width of the features.
        side: input image side; a multiple of the total stride.
        dropout: dropout of the features in training.
    """

    @register_to_config
    def __init__(
        self,
        concepts: Sequence[str],
        styles: Sequence[str],
        names: Sequence[str] = (),
        stages: Sequence[Sequence[int]] = STAGES,
        width: int = 1280,
        side: int = 96,
        dropout: float = 0.2,
    ):
        super().__init__()
        channels, blocks = STEM, []
        for out, count, kernel, stride, expansion in stages:
            for number in range(count):
                blocks.append(Block(channels, out, kernel, 1 if number else stride, expansion))
                channels = out
        last = (*_convolution(channels, width, 1), nn.ReLU6())
        self.grid = nn.Sequential(*_convolution(3, STEM, 3, 2), nn.ReLU6(), *blocks, *last)
        self.first = len(self.grid) - len(blocks) - len(last)
        self.looks = dict.fromkeys([self.first - 1, *(self.first + k - 1 for k in _ends(stages)[:LOOKS])])
        looks = 2 * (STEM + sum(stage[0] for stage in stages[:LOOKS]))
        self.thinned = nn.Dropout(dropout)
        self.evened = nn.BatchNorm1d(width + looks, affine=False)
        self.to_concept = nn.Linear(width, len(concepts) + 1)
        self.to_style = nn.Linear(width + looks, len(styles))

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Verdict:
        """Classify pixels in [0, 1]."""
        return self.heads(self.embed(pixels))

    def embed(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """Return the features, followed by channel means and deviations of the first stages, which describe style."""
        size = self.config.side
        if pixels.shape[-1] != size:
            pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=pixels.shape[-1] > size)
        x = ((pixels - MEAN) / SPREAD).contiguous(memory_format=torch.channels_last)
        looks = []
        for place, layer in enumerate(self.grid):
            x = layer(x)
            if place in self.looks:
                looks += [x.mean((2, 3)), (x.var((2, 3), correction=0) + TINY).sqrt()]
        return torch.cat([reduce(x, "b c h w -> b c", "mean"), *looks], dim=1)

    def heads(self, embedded: Float[Tensor, "b n"]) -> Verdict:
        """Classify the output of `embed`."""
        features = embedded[:, : self.config.width]
        concept = self.to_concept(self.thinned(features))
        style = self.to_style(self.thinned(self.evened(embedded)))
        return Verdict(concept[:, :-1], concept[:, -1], style, features)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for batch norm."""
        super().train(mode)
        for norm in self._norms():
            norm.eval()
        return self

    @torch.no_grad()
    def measure_statistics(self, batches: Sequence[Float[Tensor, "b 3 h w"]]) -> None:
        """Set batch norm statistics to their means over some batches."""
        for norm in self._norms():
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None
        for pixels in batches:
            self(pixels)
        self.train(self.training)

    def _norms(self) -> list[Any]:
        return [layer for layer in self.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]

    @torch.no_grad()
    def judge(self, pictures: UInt8[np.ndarray, "n h w 3"], batch_size: int = 128) -> Verdict:
        """Classify images stored as uint8."""
        parts = []
        for part in torch.split(torch.from_numpy(pictures), batch_size):
            parts.append(self(rearrange(part.to(self.device), "b h w c -> b c h w").float() / 255))
        return Verdict(*(torch.cat([getattr(part, name) for part in parts]) for name in Verdict.__dataclass_fields__))

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Load the backbone from weights of EfficientNet-Lite, whose layers have the same order.

        Raises:
            ValueError: a layer of another shape.
        """
        mine = self.grid.state_dict()
        for (name, tensor), (other, given) in zip(mine.items(), weights.items(), strict=False):
            if tensor.shape != given.shape:
                raise ValueError(f"{other} is {tuple(given.shape)}; {name} takes {tuple(tensor.shape)}")
        self.grid.load_state_dict(dict(zip(mine, weights.values(), strict=False)))

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """Write the configuration, and the weights in 8 bits."""
        self.save_config(save_directory)
        save_file(pack_weights(self.state_dict()), Path(save_directory) / WEIGHTS)

    @classmethod
    def from_pretrained(cls, folder: Any, **options: Any) -> Any:
        """Load a judge written by `save_pretrained`.

        Raises:
            ValueError: missing or damaged files, or weights that do not match the configuration.
        """
        with reading(folder, f"a {cls.__name__}"):
            if not (Path(folder) / WEIGHTS).is_file():
                raise ValueError(f"{folder} lacks {WEIGHTS}; a judge of an older release must be trained again")
            judge = cls.from_config(cls.load_config(folder))
            judge.load_state_dict(unpack_weights(load_file(Path(folder) / WEIGHTS)))
        return judge.eval()


def pack_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Quantise weights for storage: matrices to int8 with a scale per row, others to half precision."""
    stored = {}
    for name, tensor in weights.items():
        if tensor.ndim < 2 or tensor[0].numel() < SHORT:
            stored[name] = tensor.half().contiguous() if tensor.is_floating_point() else tensor
            continue
        rows = tensor.flatten(1)
        scale = (rows.abs().amax(1, keepdim=True) / LEVELS).clamp(min=1e-12)
        stored[name] = (rows / scale).round().to(torch.int8).view(tensor.shape).contiguous()
        stored[name + SCALE] = scale[:, 0].float()
    return stored


def unpack_weights(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dequantise stored weights to float32."""
    weights = {}
    for name, tensor in stored.items():
        if name + SCALE in stored:
            scale = stored[name + SCALE].view(-1, *(1,) * (tensor.ndim - 1))
            weights[name] = tensor.float() * scale
        elif not name.endswith(SCALE):
            weights[name] = tensor.float() if tensor.is_floating_point() else tensor
    return weights


class Block(nn.Module):
    """Inverted residual block: 1 x 1 expansion, depthwise filter, 1 x 1 projection; with residual connection if shapes
    match."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = channels * expansion
        expand = [*_convolution(channels, wide, 1), nn.ReLU6()] if expansion > 1 else []
        each = [*_convolution(wide, wide, kernel, stride, groups=wide), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *each, *_convolution(wide, out, 1))
        self.adds = stride == 1 and channels == out

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        y = self.layers(x)
        return x + y if self.adds else y


def _ends(stages: Sequence[Sequence[int]]) -> list[int]:
    """Return the cumulative number of blocks at the end of each stage."""
    return list(accumulate(stage[1] for stage in stages))


def _convolution(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, ...]:
    """Build a convolution with batch norm and TensorFlow's asymmetric padding, as the pretrained weights require."""
    before, behind = (kernel - stride) // 2, (kernel - stride + 1) // 2
    pad = (nn.ZeroPad2d((before, behind, before, behind)),) if before != behind else ()
    padding = 0 if pad else before
    layer = nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False)
    return *pad, layer, nn.BatchNorm2d(out, eps=1e-3)
