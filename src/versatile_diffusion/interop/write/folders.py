"""Writer of diffusers' Versatile Diffusion folders (`image_unet`, `text_unet`, `vae`, ...)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers import __version__ as diffusers_version
from torch import Tensor

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.names.keymap import find_official, to_official
from versatile_diffusion.interop.names.unet import DIFFUSERS, UNet, diffusers_rules
from versatile_diffusion.interop.read.folders import POSITIONS, Json
from versatile_diffusion.modalities.encoders.clip import MEAN, STD, CLIPImageContext, CLIPTextContext
from versatile_diffusion.modalities.image.autokl import AutoKLCodec
from versatile_diffusion.sampling.schedulers import SCHEDULE

WriteWeights = Callable[[Path, Mapping[str, Tensor]], None]

LATENT_SIDE = 64
"""Latent side of published models, for images of 512 x 512 pixels."""
SCHEDULER: Json = {
    "_class_name": "DDIMScheduler",
    **SCHEDULE,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
COMPONENTS = {
    "image_feature_extractor": ("transformers", "CLIPImageProcessor"),
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
    "image_unet": ("diffusers", "UNet2DConditionModel"),
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "text_unet": ("versatile_diffusion", "UNetFlatConditionModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "vae": ("diffusers", "AutoencoderKL"),
}
# folder of a UNet -> the data stream's field for its channels, and the kinds of its blocks
_BLOCKS = {"image_unet": ("channels", "Block2D"), "text_unet": ("width", "BlockFlat")}


def write_unets(unet: MultiFlowUNet, folder: Path, latent_side: int, write: WriteWeights) -> None:
    """Write the diffuser as one diffusers UNet per modality.

    Args:
        latent_side: height and width of image latents.
        write: `(file without suffix, tensors)`.

    Raises:
        ValueError: a stream that the layout cannot hold.
    """
    held = {name: row for name, row in DIFFUSERS.items() if row.data in unet.data and row.context in unet.context}
    placed = {(row.data, row.context) for row in held.values()}
    if {d for d, _ in placed} != set(unet.data) or {c for _, c in placed} != set(unet.context):
        raise ValueError(
            "diffusers' layout keeps the data and the context stream of a modality together; this model has the data "
            f"streams {', '.join(unet.data)} and the context streams {', '.join(unet.context)}"
        )
    state = to_official(unet.state_dict())
    for name, row in held.items():
        write_json(folder / name / "config.json", unet_config(unet, name, latent_side))
        rules = diffusers_rules(unet.plan, row)
        names = {key: find_official(key, rules) for key in state if _belongs(key, row)}
        write(folder / name / "diffusion_pytorch_model", {theirs: state[key] for key, theirs in names.items()})


def _belongs(name: str, row: UNet) -> bool:
    kept = ("diffuser.image.time_embed.", f"diffuser.{row.data}.data_", f"diffuser.{row.context}.context_")
    return name.startswith(kept)


def unet_config(unet: MultiFlowUNet, name: str, latent_side: int) -> Json:
    """Return the `config.json` of a diffusers UNet, `image_unet` or `text_unet`."""
    config, (field, block) = unet.config, _BLOCKS[name]
    options = config.data_streams[DIFFUSERS[name].data]
    channels: Any = options[field]
    if name == "text_unet":
        if options.get("positions", POSITIONS) != POSITIONS:
            raise ValueError(f"diffusers' text UNet has {POSITIONS} positions, this model {options['positions']}")
        channels = [channels, 1, 1]
    depth = set(config.depth) if isinstance(config.depth, list | tuple) else {config.depth}
    return {
        "_class_name": COMPONENTS[name][1],
        "_diffusers_version": diffusers_version,
        "sample_size": latent_side,
        "in_channels": channels,
        "out_channels": channels,
        "down_block_types": [f"{'CrossAttn' if attends else ''}Down{block}" for attends in config.attends],
        "up_block_types": [f"{'CrossAttn' if attends else ''}Up{block}" for attends in reversed(config.attends)],
        "block_out_channels": [config.width * multiplier for multiplier in config.multipliers],
        "layers_per_block": depth.pop() if len(depth) == 1 else list(config.depth),
        "cross_attention_dim": config.context_streams[DIFFUSERS[name].context]["width"],
        "attention_head_dim": config.heads,  # the number of heads: diffusers misnamed it
        "norm_num_groups": config.norm_groups,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    }


def write_image_codec(codec: AutoKLCodec, folder: Path, write: WriteWeights) -> None:
    """Write `vae/`."""
    codec.vae.save_config(folder / "vae")
    write(folder / "vae" / "diffusion_pytorch_model", codec.vae.state_dict())


def write_text_encoder(encoder: CLIPTextContext, folder: Path, write: WriteWeights) -> None:
    """Write `text_encoder/` and `tokenizer/`."""
    encoder.model.config.save_pretrained(folder / "text_encoder")
    write(folder / "text_encoder" / "model", encoder.model.state_dict())
    write_clip_tokenizer(encoder, folder / "tokenizer")


def write_clip_tokenizer(encoder: CLIPTextContext, folder: Path) -> None:
    """Write the tokenizer in the current format, and as the two vocabulary files for older libraries."""
    if encoder.tokenizer is not None:
        encoder.tokenizer.save_pretrained(folder)
        encoder.tokenizer.backend_tokenizer.model.save(str(folder))


def write_image_encoder(encoder: CLIPImageContext, folder: Path, write: WriteWeights) -> None:
    """Write `image_encoder/` and `image_feature_extractor/`."""
    encoder.model.config.save_pretrained(folder / "image_encoder")
    write(folder / "image_encoder" / "model", encoder.model.state_dict())
    write_json(folder / "image_feature_extractor" / "preprocessor_config.json", preprocessor(encoder.side))


def preprocessor(side: int) -> Json:
    """Return transformers' configuration of `CLIPImageContext.preprocess`."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }


def write_index(folder: Path) -> None:
    """Write `model_index.json` and `scheduler/` for the existing components."""
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    index: Json = {"_class_name": "VersatileDiffusionPipeline", "_diffusers_version": diffusers_version}
    index |= {name: list(where) for name, where in COMPONENTS.items() if (folder / name).is_dir()}
    write_json(folder / "model_index.json", index)


def write_json(file: Path, value: Json) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
