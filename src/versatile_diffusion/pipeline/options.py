"""Options of a generation, for editors and type checkers.

Written by `scripts/option_types.py` from `controls.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class Options(TypedDict, total=False):
    """What `VersatileDiffusionPipeline.generate` takes besides its own arguments."""

    mixing: str
    """How several inputs are combined: attention, layer, model or join."""
    num_inference_steps: int
    """Sampling steps; more is finer."""
    guidance_scale: float
    """Classifier-free guidance scale; 1 disables guidance."""
    guidance_interval: Sequence[float]
    """Apply guidance only in this part of sampling (0 = noise, 1 = done), e.g. 0.1:0.8; faster."""
    guidance_rescale: float
    """Reduces oversaturation at a high CFG scale: 0 (off) to 1; try 0.7."""
    fast: str
    """Skip work; changes the result: off, guidance, deep, deep3 or both; 4: the model distilled to 4 steps."""
    num_outputs: int
    """Number of outputs per input."""
    candidates: int
    """Generate this many per output and keep the one that matches the inputs best."""
    height: int | None
    """Height of the image in pixels."""
    width: int | None
    """Width of the image in pixels."""
    eta: float
    """Noise added at each DDIM step: 0 none, 1 as much as DDPM."""
    scheduler: str | None
    """Sampler: ddim, dpm++ or unipc; the model's own if omitted."""
    null: str | Mapping[str, str] | None
    """Unconditional embedding of a release: 2023 (empty text, zeros or black) or 2022 (grey)."""
    negative_prompt: str | Sequence[str] | None
    """What should not appear."""
    style: str | None
    """Style of the model, e.g. noto."""
    start: Any
    """Image to start from."""
    fidelity: float
    """Fidelity to the init image: 0 ignores it, 1 keeps it (1 - denoising strength)."""
    repaint: Any
    """Part of the init image to regenerate: left, right, top, bottom, middle, a box as LEFT:TOP:RIGHT:BOTTOM as
    fractions of the canvas, or a mask (file)."""
    temperature: float | None
    """Sampling temperature of words; 0 is greedy."""
    top_k: int | None
    """Top-k sampling of words; 0 disables."""
    top_p: float | None
    """Top-p (nucleus) sampling of words; 1 disables."""
    max_length: int | None
    """Maximum length of a text in tokens, both ends included."""
    rank: bool
    """Sort by similarity to the inputs; merge duplicates."""
    layer_seed: int
    """Seed for layer-level mixing."""
    layer_bits: int
    """Bits of the layer seed that count: 64, or 32 as in earlier versions."""
    layer_plan: Sequence[Sequence[int]] | None
    """Plan for layer-level mixing, as --show-plan prints it."""
    num_images_per_prompt: int
    init_latent: Any
    strength: float
    output: str


class TaskOptions(Options, total=False):
    """What the methods of tasks take besides their own arguments: those of `generate`, too."""

    seed: Any
    generator: Any
    latents: Any
    output_type: str
    callback_on_step_end: Any
    callback_on_step_end_tensor_inputs: Sequence[str] | None
    return_dict: bool


class DecodingOptions(TypedDict, total=False):
    """What `VersatileDiffusionPipeline.decode_latent` takes besides its own arguments."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    max_length: int | None
