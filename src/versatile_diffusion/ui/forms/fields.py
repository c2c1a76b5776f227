"""Fields with buttons or menus of their own: the seed, the denoising strength, the size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from versatile_diffusion.ui.forms.widgets import PRIVATE

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.ui.forms.controls import Setting

NEW = -1  # random seed; an empty field is impossible, as browsers turn it into 0
DENOISING = "denoising"
RATIOS = {"1:1": (1, 1), "4:3": (4, 3), "3:4": (3, 4), "16:9": (16, 9), "9:16": (9, 16)}


def seed_box(label: str, setting: Setting) -> gr.Number:
    """Create the seed's field with its buttons: a random one, and that of the last result."""
    with gr.Row(elem_classes="seed"):
        drawn = gr.Number(NEW, label=label, info=f"{NEW} = random.", precision=0, min_width=110, scale=2)
        dice = gr.Button("\u2684 Random", size="sm", min_width=84, scale=1, elem_classes="dice")
        reuse = gr.Button("\u21ba Last", size="sm", min_width=70, scale=1, elem_classes="last-seed")

    def last(request: gr.Request) -> Any:
        seed = setting.last_seed(str(request.session_hash))
        return gr.skip() if seed is None else seed

    dice.click(None, None, drawn, js=f"() => {NEW}", **PRIVATE)
    reuse.click(last, None, drawn, queue=False, **PRIVATE)
    return drawn


def denoising_slider(least: float, value: float, label: str = "Denoising strength") -> gr.Slider:
    """Create the slider of the denoising strength, 1 - fidelity."""
    info = "1 ignores the init image; low values keep it."
    return gr.Slider(least, 1, value, step=0.05, label=label, info=info)


def as_fidelity(value: Any) -> float | None:
    """Convert a denoising strength to the fidelity that records store, and back."""
    return None if value is None else round(1 - value, 6)


def multiple_of(pipe: VersatileDiffusionPipeline, data: str) -> int:
    """Return the pixels of which every side must be a multiple."""
    codec = pipe.bank.codecs[data]
    levels = sum(stage.kind == "down" for stage in pipe.unet.plan)
    return 2**levels * codec.fit(Image.new("RGB", (64, 64))).height // codec.latent_shape()[1]


def size_presets(setting: Setting, data: str, width: Any, height: Any) -> None:
    """Draw a menu that fills in width and height: the model's own size, and its area in other shapes.

    Args:
        data: modality with a canvas.
    """
    codec = setting.pipe.bank.codecs[data]
    blank = codec.fit(Image.new("RGB", (64, 64)))
    multiple = multiple_of(setting.pipe, data)
    sizes = {f"{blank.width} x {blank.height} (model)": (0, 0)}
    for name, (wide, high) in RATIOS.items():
        exact = blank.width * (wide / high) ** 0.5, blank.height * (high / wide) ** 0.5
        across = tuple(max(1, round(side / multiple)) * multiple for side in exact)
        if max(across) <= setting.limits.side and across not in (blank.size, *sizes.values()):
            sizes[f"{across[0]} x {across[1]} ({name})"] = across
    first = next(iter(sizes))
    chosen = gr.Dropdown([*sizes], value=first, label="Size presets", elem_classes="presets")
    chosen.input(lambda name: list(sizes.get(name, (0, 0))), chosen, [width, height], queue=False, **PRIVATE)
