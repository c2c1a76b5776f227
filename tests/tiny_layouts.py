"""Tiny checkpoints in the published layouts, made from the tiny official file set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_official
import torch
from safetensors.torch import load_file, save_file
from tiny_official import CONFIG, LEVELS, WIDTH

from versatile_diffusion.interop.names.autokl import autokl_rules
from versatile_diffusion.interop.names.keymap import find_official, to_ours
from versatile_diffusion.interop.names.unet import DIFFUSERS, UNet, diffusers_rules, original_rules
from versatile_diffusion.interop.official import diffuser_plan

State = dict[str, torch.Tensor]

_PLAN = diffuser_plan(CONFIG["diffuser"])
_UNET = {
    "sample_size": 8,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
}
_KINDS = {"image_unet": ("Block2D", 4), "text_unet": ("BlockFlat", [WIDTH, 1, 1])}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [32, 64],
    "latent_channels": 4,
    "layers_per_block": 1,
    "sample_size": 16,
}
_OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def unet_config(name: str) -> dict[str, Any]:
    """`config.json` of `image_unet` or `text_unet`."""
    kind, channels = _KINDS[name]
    blocks = {"down_block_types": [f"CrossAttnDown{kind}", f"Down{kind}"]}
    blocks["up_block_types"] = [f"Up{kind}", f"CrossAttnUp{kind}"]
    return {**_UNET, **blocks, "in_channels": channels, "out_channels": channels}


def streams(official: State, *unets: UNet) -> State:
    """The time embedding and those streams of the diffuser that `unets` hold."""
    kept = ["diffuser.image.time_embed."]
    kept += [f"diffuser.{unet.data}.data_blocks." for unet in unets if unet.data]
    kept += [f"diffuser.{unet.context}.context_blocks." for unet in unets]
    return {name: value for name, value in official.items() if name.startswith(tuple(kept))}


def original_state(official: State, unets: tuple[UNet, ...]) -> State:
    """The streams that `unets` hold, under the names of 2022 or of Stable Diffusion."""
    rules = original_rules(_PLAN, unets)
    return {find_official(name, rules): value for name, value in streams(official, *unets).items()}


def diffusers_state(official: State, unet: UNet) -> State:
    """The streams that one UNet of diffusers holds, under its names."""
    rules = diffusers_rules(_PLAN, unet)
    return {find_official(name, rules): value for name, value in streams(official, unet).items()}


def link(files: Path, folder: Path, *but: str) -> Path:
    """Links in `folder` to all of `files`, without those named."""
    for file in files.iterdir():
        if file.name not in but:
            (folder / file.name).symlink_to(file)
    return folder


def write_diffusers(files: Path, folder: Path, old: bool = False) -> Path:
    """The folders of the hub repository.

    Args:
        files: the tiny official file set, for its CLIP.
        old: as diffusers wrote them in 2022: pickles, other names in the image codec, index buffers in CLIP.
    """
    states = tiny_official.official_states()
    clip = load_file(files / "clip-vit-large-patch14" / "model.safetensors")
    vae = to_ours(states["image-codec"], autokl_rules(LEVELS))
    text = {name: value for name, value in clip.items() if name.startswith("text_")}
    image = {name: value for name, value in clip.items() if name.startswith("vis")}
    if old:
        vae = {_old_name(name): value for name, value in vae.items()}
        text["text_model.embeddings.position_ids"] = torch.arange(12)[None]
        image["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    width = {"projection_dim": WIDTH}
    components = {
        **{name: (diffusers_state(states["diffuser"], row), unet_config(name)) for name, row in DIFFUSERS.items()},
        "vae": (vae, VAE),
        "text_encoder": (text, {**tiny_official.CLIP["text_config"], **width}),
        "image_encoder": (image, {**tiny_official.CLIP["vision_config"], **width}),
    }
    for name, (state, config) in components.items():
        write_component(folder / name, state, config, old)
    (folder / "tokenizer").mkdir()
    tiny_official.write_clip_tokenizer(folder / "tokenizer")
    return folder


def write_component(folder: Path, state: State, config: dict[str, Any], old: bool = False) -> None:
    """One folder of weights and configuration."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    of_transformers = folder.name.endswith("encoder")
    if old:
        torch.save(state, folder / f"{'pytorch_model' if of_transformers else 'diffusion_pytorch_model'}.bin")
    else:
        stem = "model" if of_transformers else "diffusion_pytorch_model"
        save_file({name: value.contiguous() for name, value in state.items()}, folder / f"{stem}.safetensors")


def _old_name(name: str) -> str:
    for new, old in _OLD_NAMES.items():
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return name
