"""Name tables for layouts that name a layer by its position in a UNet, to 2023 names.

The 2023 layout (and ours) numbers the layers of each group in running order. The 2022 code and Stable Diffusion use
`input_blocks.4.1`, diffusers `down_blocks.1.attentions.0`. All follow from the plan, so the tables below are valid for
every network size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from versatile_diffusion.interop.names.keymap import NameRule
from versatile_diffusion.layers.plan import Stage

Half = Literal["down", "middle", "up", "out"]

# kind of stage, half of the UNet -> name in the original and in diffusers
DATA_PLACES: dict[tuple[str, Half], tuple[str, str]] = {
    ("stem", "down"): ("input_blocks.{block}.0", "conv_in."),
    ("residual", "down"): ("input_blocks.{block}.0", "down_blocks.{level}.resnets.{layer}."),
    ("down", "down"): ("input_blocks.{block}.0", "down_blocks.{level}.downsamplers.0."),
    ("residual", "middle"): ("middle_block.{block}", "mid_block.resnets.{layer}."),
    ("residual", "up"): ("output_blocks.{block}.0", "up_blocks.{level}.resnets.{layer}."),
    ("up", "up"): ("output_blocks.{block}.{last}", "up_blocks.{level}.upsamplers.0."),
    ("out", "out"): ("out", ""),
}
CONTEXT_PLACES: dict[Half, tuple[str, str]] = {
    "down": ("input_blocks.{block}.1", "down_blocks.{level}.attentions.{layer}."),
    "middle": ("middle_block.1", "mid_block.attentions.0."),
    "up": ("output_blocks.{block}.1", "up_blocks.{level}.attentions.{layer}."),
}
# kind of stage -> what is inside it: the original's name (2022 and 2023 alike) and diffusers'
DATA_LEAVES: dict[str, tuple[tuple[str, str], ...]] = {
    "stem": (("{leaf}", "{leaf}"),),
    "residual": (
        ("in_layers.0.{leaf}", "norm1.{leaf}"),
        ("in_layers.2.{leaf}", "conv1.{leaf}"),
        ("emb_layers.1.{leaf}", "time_emb_proj.{leaf}"),
        ("out_layers.0.{leaf}", "norm2.{leaf}"),
        ("out_layers.3.{leaf}", "conv2.{leaf}"),
        ("skip_connection.{leaf}", "conv_shortcut.{leaf}"),
    ),
    "down": (("op.{leaf}", "conv.{leaf}"), ("{leaf}", "{leaf}")),  # of grids, of vectors
    "up": (("conv.{leaf}", "conv.{leaf}"), ("{leaf}", "{leaf}")),
    "out": (("0.{leaf}", "conv_norm_out.{leaf}"), ("2.{leaf}", "conv_out.{leaf}")),
}
TIME_LEAVES = (("0.{leaf}", "linear_1.{leaf}"), ("2.{leaf}", "linear_2.{leaf}"))
CONTEXT_LEAVES = (
    "norm{which}.{leaf}",
    "proj_in{which}.{leaf}",
    "transformer_blocks{which}.{rest}",
    "proj_out{which}.{leaf}",
)


@dataclass(frozen=True)
class LayerPlace:
    """A layer: group and number in the 2023 layout, kind, and names by position."""

    group: Literal["data", "context"]
    number: int
    kind: str
    original: str
    diffusers: str


@dataclass(frozen=True)
class UNet:
    """A UNet of a published layout: prefix and streams.

    Args:
        prefix: prefix of its names.
        data: its data stream; None if it shares another's.
        context: its context stream.
        which: suffix inside its context blocks, if blocks of two streams share a position.
    """

    prefix: str
    data: str | None
    context: str
    which: str = ""


ORIGINAL = "model.diffusion_model."
FOUR_FLOW_2022 = (UNet(f"{ORIGINAL}unet_image.", "image", "image"), UNet(f"{ORIGINAL}unet_text.", "text", "text"))
DUAL_CONTEXT_2022 = (UNet(ORIGINAL, "image", "text", "_0"), UNet(ORIGINAL, None, "image", "_1"))
BASIC_2022 = (UNet(ORIGINAL, "image", "image"),)
STABLE_DIFFUSION = (UNet(ORIGINAL, "image", "text"),)
DIFFUSERS = {"image_unet": UNet("", "image", "image"), "text_unet": UNet("", "text", "text")}
DIFFUSERS_STABLE_DIFFUSION = UNet("", "image", "text")


def places(plan: tuple[Stage, ...]) -> Iterator[LayerPlace]:
    """Yield every layer of a plan, in running order."""
    half: Half = "down"
    at = {"block": -1, "level": 0, "layer": -1, "last": 0}
    for number, stage in enumerate(plan):
        before, half = half, _half(stage)
        if half != before:
            at |= {"block": -1, "level": 0, "layer": -1}
        if stage.kind != "up":  # shares the previous block
            at["block"] += 2 if half == "middle" and at["block"] == 0 else 1
        if stage.kind == "residual":
            at["layer"] += 1
        original, diffusers = DATA_PLACES[stage.kind, half]
        yield LayerPlace("data", number, stage.kind, original.format(**at), diffusers.format(**at))
        at["last"] = 1
        if stage.attention is not None:
            original, diffusers = CONTEXT_PLACES[half]
            yield LayerPlace("context", stage.attention, "attention", original.format(**at), diffusers.format(**at))
            at["last"] = 2
        if stage.kind in ("down", "up"):
            at |= {"level": at["level"] + 1, "layer": -1}


def _half(stage: Stage) -> Half:
    if stage.kind == "out":
        return "out"
    return "down" if stage.pushes else "up" if stage.pops or stage.kind == "up" else "middle"


def original_rules(plan: tuple[Stage, ...], unets: tuple[UNet, ...]) -> tuple[NameRule, ...]:
    """Return the rules between names of 2022 or Stable Diffusion (as `official`), and 2023 names (as `ours`)."""
    rules = [NameRule(f"{ORIGINAL}time_embed.{{rest}}", "diffuser.image.time_embed.{rest}")]
    for unet in unets:
        for place in places(plan):
            before, after = f"{unet.prefix}{place.original}.", _name_2023(place, unet)
            if place.group == "context" and unet.which:
                plain = (leaf.replace("{which}", "") for leaf in CONTEXT_LEAVES)
                marked = (leaf.replace("{which}", unet.which) for leaf in CONTEXT_LEAVES)
                rules += [NameRule(before + a, after + b) for a, b in zip(marked, plain, strict=True)]
            elif place.group == "context" or unet.data is not None:
                rules.append(NameRule(before + "{rest}", after + "{rest}"))
    return tuple(rules)


def diffusers_rules(plan: tuple[Stage, ...], unet: UNet) -> tuple[NameRule, ...]:
    """Return the rules between names of a diffusers UNet (as `official`), and 2023 names (as `ours`)."""
    rules = [NameRule(f"time_embedding.{b}", f"diffuser.image.time_embed.{a}") for a, b in TIME_LEAVES]
    for place in places(plan):
        leaves = DATA_LEAVES[place.kind] if place.group == "data" else (("{rest}", "{rest}"),)
        rules += [NameRule(unet.prefix + place.diffusers + b, _name_2023(place, unet) + a) for a, b in leaves]
    return tuple(rules)


def _name_2023(place: LayerPlace, unet: UNet) -> str:
    stream = unet.data if place.group == "data" else unet.context
    return f"diffuser.{stream}.{place.group}_blocks.{place.number}.0."
