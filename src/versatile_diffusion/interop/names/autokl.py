"""The published image autoencoder (`kl-f8.pth`) and diffusers' AutoencoderKL: names and configurations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from versatile_diffusion.interop.names.keymap import NameRule, to_ours
from versatile_diffusion.interop.read.weights import assign

_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OLD_ATTENTION = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"}
_HALF = (
    ("conv_in", "conv_in"),
    ("mid.block_1", "mid_block.resnets.0"),
    ("mid.attn_1", "mid_block.attentions.0"),
    ("mid.block_2", "mid_block.resnets.1"),
    ("norm_out", "conv_norm_out"),
    ("conv_out", "conv_out"),
)


def autokl_rules(levels: int) -> tuple[NameRule, ...]:
    """Return the name rules between `kl-f8.pth` and diffusers (as "ours"), for an autoencoder with `levels`
    resolutions.

    The original numbers decoder levels from the finest, diffusers from the coarsest. The attention's 1x1 convolutions
    are linear layers in diffusers.
    """
    places = [(f"{half}.{theirs}", f"{half}.{ours}") for half in ("encoder", "decoder") for theirs, ours in _HALF]
    for level in range(levels):
        up = levels - 1 - level
        places += [
            (f"encoder.down.{level}.block.{{i}}", f"encoder.down_blocks.{level}.resnets.{{i}}"),
            (f"encoder.down.{level}.downsample.conv", f"encoder.down_blocks.{level}.downsamplers.0.conv"),
            (f"decoder.up.{level}.block.{{i}}", f"decoder.up_blocks.{up}.resnets.{{i}}"),
            (f"decoder.up.{level}.upsample.conv", f"decoder.up_blocks.{up}.upsamplers.0.conv"),
        ]
    places += [("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv")]
    return tuple(rule for theirs, ours in places for rule in _module_rules(theirs, ours))


def old_attention_rules() -> tuple[NameRule, ...]:
    """Return the name rules for attention in diffusers before 0.18 (as "ours")."""
    return tuple(
        NameRule(
            f"{half}.mid.attn_1.{theirs}.{{leaf}}", f"{half}.mid_block.attentions.0.{old}.{{leaf}}", pointwise=True
        )
        for half in ("encoder", "decoder")
        for theirs, old in _OLD_ATTENTION.items()
    )


def _module_rules(theirs: str, ours: str) -> list[NameRule]:
    table = _ATTENTION if "attn" in theirs else _RESNET if "block" in theirs else {}
    if not table:
        return [NameRule(f"{theirs}.{{leaf}}", f"{ours}.{{leaf}}")]
    return [
        NameRule(f"{theirs}.{a}.{{leaf}}", f"{ours}.{b}.{{leaf}}", pointwise=table is _ATTENTION and a != "norm")
        for a, b in table.items()
    ]


def autokl_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the original configuration (`ddconfig`, `embed_dim`, `latent_scale_factor`) to arguments of
    AutoencoderKL.

    Raises:
        ValueError: unsupported by published models (attention outside the middle, a narrower code).
    """
    dd = config["ddconfig"]
    if dd.get("attn_resolutions") or not dd.get("double_z", True) or config["embed_dim"] != dd["z_channels"]:
        raise ValueError(
            "only KL autoencoders with attention in the middle alone, double_z and embed_dim equal to z_channels can "
            f"be read; got attn_resolutions {dd.get('attn_resolutions')}, double_z {dd.get('double_z')}, "
            f"embed_dim {config['embed_dim']}, z_channels {dd['z_channels']}"
        )
    widths = [dd["ch"] * multiplier for multiplier in dd["ch_mult"]]
    return {
        "in_channels": dd["in_channels"],
        "out_channels": dd["out_ch"],
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": dd["num_res_blocks"],
        "latent_channels": dd["z_channels"],
        "sample_size": dd["resolution"],
        "scaling_factor": config.get("latent_scale_factor", 0.18215),
    }


def published_config(config: Mapping[str, Any], resolution: int) -> dict[str, Any]:
    """Convert diffusers' `config.json` of an AutoencoderKL to the original configuration; inverse of `autokl_config`.

    Args:
        resolution: default side of generated images in pixels.
    """
    widths = config["block_out_channels"]
    return {
        "embed_dim": config["latent_channels"],
        "ddconfig": {
            "double_z": True,
            "z_channels": config["latent_channels"],
            "resolution": resolution,
            "in_channels": config["in_channels"],
            "out_ch": config["out_channels"],
            "ch": widths[0],
            "ch_mult": [width // widths[0] for width in widths],
            "num_res_blocks": config["layers_per_block"],
        },
        "latent_scale_factor": config.get("scaling_factor", 0.18215),
    }


def infer_autokl_config(state: Mapping[str, Tensor], resolution: int = 512) -> dict[str, Any]:
    """Infer the original configuration from the shapes of a state dict with the names of `kl-f8.pth`.

    Args:
        resolution: default side of generated images in pixels, which weights do not imply.
    """
    width = len(state["encoder.conv_in.weight"])
    tops: list[int] = []
    while (name := f"encoder.down.{len(tops)}.block.0.conv1.weight") in state:
        tops.append(len(state[name]))
    layers = sum(re.fullmatch(r"encoder\.down\.0\.block\.\d+\.conv1\.weight", name) is not None for name in state)
    return {
        "embed_dim": state["post_quant_conv.weight"].shape[1],
        "ddconfig": {
            "double_z": True,
            "z_channels": len(state["post_quant_conv.weight"]),
            "resolution": resolution,
            "in_channels": state["encoder.conv_in.weight"].shape[1],
            "out_ch": len(state["decoder.conv_out.weight"]),
            "ch": width,
            "ch_mult": [top // width for top in tops],
            "num_res_blocks": layers,
        },
        "latent_scale_factor": 0.18215,
    }


def build_autokl(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> AutoencoderKL:
    """Build the image autoencoder from the original configuration and state dict.

    Args:
        config: with `ddconfig`, `embed_dim` and, if it is not 0.18215, `latent_scale_factor`.
        state: entries named as in `kl-f8.pth`; the tensors are shared, not copied.

    Raises:
        ValueError: missing or unknown entries, or shapes that do not match the configuration.
    """
    arguments = autokl_config(config)
    with torch.device("meta"):
        vae = AutoencoderKL(**arguments)
    assign(vae, to_ours(state, autokl_rules(len(arguments["block_out_channels"]))))
    return vae.eval()
