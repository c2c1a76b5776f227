"""The nodes. An image is a tensor (B, H, W, 3) in 0..1, a mask (B, H, W) in 0..1, as ComfyUI has them.

Conditions of any number are chained into a list; what is sampled from them depends on the node that takes it.
"""

from __future__ import annotations

from typing import Any

import torch

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.applications.disentangle import LEVELS, restyle, strip
from versatile_diffusion.applications.disentangle import levels as focus_levels
from versatile_diffusion.controls import CONDITION, MIXINGS, REQUEST, SCHEDULERS

MODEL, CONDITIONS, CATEGORY = "VERSATILE_MODEL", "VERSATILE_CONDITIONS", "versatile-diffusion"
MODEL_DEFAULT = "model default"
SEED = ("INT", {"default": 0, "min": 0, "max": 2**64 - 1})
ONE = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05}
EDGES = ("left", "top", "right", "bottom")
WHOLE = (0.0, 0.0, 1.0, 1.0)
NEUTRAL = 0.5
FOCUS = ONE | {"default": NEUTRAL, "tooltip": CONDITION["focus"].help}


def _number(name: str, kind: str, default: float, most: float) -> tuple[str, dict[str, Any]]:
    """An input for an option of the library, with its range and help."""
    control = REQUEST[name]
    bounds = {"default": default, "min": control.least, "max": min(control.most, most), "step": control.step or 1}
    return kind, {**bounds, "tooltip": control.help}


SAMPLING = {
    "seed": SEED,
    "steps": _number("num_inference_steps", "INT", 25, 1000),
    "guidance_scale": _number("guidance_scale", "FLOAT", 7.5, 100),
    "count": ("INT", {"default": 1, "min": 1, "max": 64}),
    "scheduler": ([MODEL_DEFAULT, *SCHEDULERS],),
    "mixing": (list(MIXINGS),),
}


class VersatileNode:
    """What the nodes share."""

    CATEGORY, FUNCTION = CATEGORY, "run"


class LoadVersatile(VersatileNode):
    """A model by name, folder or hub id."""

    RETURN_TYPES, RETURN_NAMES = (MODEL,), ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        device = (["auto", "cuda", "cpu"],)
        return {"required": {"model": ("STRING", {"default": "emoji"}), "device": device}}

    def run(self, model: str, device: str) -> tuple[VersatileDiffusionPipeline]:
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        return (VersatileDiffusionPipeline.from_pretrained(model).to(place),)


def _condition_inputs() -> dict[str, Any]:
    return {
        "weight": (
            "FLOAT",
            {"default": 1.0, "min": 0.0, "max": 100.0, "step": 0.05, "tooltip": CONDITION["weight"].help},
        ),
        "start": ("FLOAT", ONE | {"default": 0.0, "tooltip": CONDITION["start"].help}),
        "end": ("FLOAT", ONE | {"tooltip": CONDITION["end"].help}),
        **{name: ("FLOAT", ONE | {"default": edge}) for name, edge in zip(EDGES, WHOLE, strict=True)},
    }


def _shared(weight: float, start: float, end: float, edges: dict[str, float]) -> dict[str, Any]:
    box = tuple(edges[name] for name in EDGES)
    return {"weight": weight, "start": start, "end": end} | ({} if box == WHOLE else {"region": box})


class TextCondition(VersatileNode):
    """A prompt as a condition, added to those that are connected."""

    RETURN_TYPES, RETURN_NAMES = (CONDITIONS,), ("conditions",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        text = ("STRING", {"multiline": True, "default": "a red apple"})
        return {"required": {"text": text, **_condition_inputs()}, "optional": {"conditions": (CONDITIONS,)}}

    def run(
        self, text: str, weight: float, start: float, end: float, conditions: Any = (), **edges: float
    ) -> tuple[list[Condition]]:
        return ([*conditions, Condition("text", text, **_shared(weight, start, end, edges))],)


class ImageCondition(VersatileNode):
    """An image (the first of a batch) as a condition, added to those that are connected. White parts of the mask count.
    The focus disentangles: towards 0 the content counts, towards 1 the style."""

    RETURN_TYPES, RETURN_NAMES = (CONDITIONS,), ("conditions",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {"image": ("IMAGE",), "focus": ("FLOAT", FOCUS), **_condition_inputs()},
            "optional": {"conditions": (CONDITIONS,), "mask": ("MASK",)},
        }

    def run(
        self,
        image: torch.Tensor,
        focus: float,
        weight: float,
        start: float,
        end: float,
        conditions: Any = (),
        mask: torch.Tensor | None = None,
        **edges: float,
    ) -> tuple[list[Condition]]:
        levels = None if mask is None else (mask[0] if mask.ndim == 3 else mask).cpu().numpy()
        given = _shared(weight, start, end, edges) | ({} if focus == NEUTRAL else {"focus": focus})
        return ([*conditions, Condition("image", image[0].cpu().numpy(), mask=levels, **given)],)


def _options(seed: int, steps: int, guidance_scale: float, count: int, scheduler: str, mixing: str) -> dict[str, Any]:
    named = {} if scheduler == MODEL_DEFAULT else {"scheduler": scheduler}
    given = {"seed": seed, "num_inference_steps": steps, "guidance_scale": guidance_scale}
    return {**given, "num_outputs": count, "mixing": mixing, **named}


class SampleImages(VersatileNode):
    """Images from conditions: prompts, images or both."""

    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("images",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": (MODEL,), "conditions": (CONDITIONS,), **SAMPLING}}

    def run(self, model: VersatileDiffusionPipeline, conditions: Any, **sampling: Any) -> tuple[torch.Tensor]:
        output = model.generate("image", conditions, output_type="pt", **_options(**sampling))
        return (output.images.movedim(1, -1).contiguous(),)


class SampleTexts(VersatileNode):
    """Texts from conditions: captions of images, other words for prompts, or both."""

    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("texts",)
    OUTPUT_IS_LIST = (True,)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": (MODEL,), "conditions": (CONDITIONS,), **SAMPLING}}

    def run(self, model: VersatileDiffusionPipeline, conditions: Any, **sampling: Any) -> tuple[list[str]]:
        return (model.generate("text", conditions, **_options(**sampling)).texts,)


class Disentangle(VersatileNode):
    """Variations of an image (the first of a batch) from its content alone to its style alone, in as many levels; or,
    with a style image, one that has the content of the one and the style of the other."""

    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("images",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        own = {"levels": ("INT", {"default": LEVELS, "min": 2, "max": 32})}
        options = {name: SAMPLING[name] for name in ("seed", "steps", "guidance_scale")}
        return {
            "required": {"model": (MODEL,), "image": ("IMAGE",), **own, **options},
            "optional": {"style": ("IMAGE",)},
        }

    def run(
        self,
        model: VersatileDiffusionPipeline,
        image: torch.Tensor,
        levels: int,
        seed: int,
        steps: int,
        guidance_scale: float,
        style: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        given: dict[str, Any] = {"seed": seed, "num_inference_steps": steps, "guidance_scale": guidance_scale}
        content = image[0].cpu().numpy()
        if style is not None:
            outputs = [restyle(model, style[0].cpu().numpy(), content, output_type="pt", **given)]
        else:
            focuses = focus_levels(count=levels)
            outputs = [step.output for step in strip(model, content, focuses, output_type="pt", **given)]
        return (torch.cat([output.images for output in outputs]).movedim(1, -1).contiguous(),)


NODE_CLASS_MAPPINGS = {
    "LoadVersatile": LoadVersatile,
    "VersatileTextCondition": TextCondition,
    "VersatileImageCondition": ImageCondition,
    "VersatileSampleImages": SampleImages,
    "VersatileSampleTexts": SampleTexts,
    "VersatileDisentangle": Disentangle,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LoadVersatile": "Load Versatile Diffusion",
    "VersatileTextCondition": "Prompt (Versatile Diffusion)",
    "VersatileImageCondition": "Image condition (Versatile Diffusion)",
    "VersatileSampleImages": "Generate images (Versatile Diffusion)",
    "VersatileSampleTexts": "Generate captions (Versatile Diffusion)",
    "VersatileDisentangle": "Disentangle content and style (Versatile Diffusion)",
}
