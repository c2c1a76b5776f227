"""Readers of component folders: diffusers' Versatile Diffusion repository, Stable Diffusion as saved by diffusers, and
our layout. The result is `Found`; `write/folders.py` writes the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from versatile_diffusion.interop.names.autokl import autokl_rules, old_attention_rules, published_config
from versatile_diffusion.interop.names.keymap import NameRule, find_official, find_ours
from versatile_diffusion.interop.names.unet import (
    DIFFUSERS,
    DIFFUSERS_STABLE_DIFFUSION,
    UNet,
    diffusers_rules,
)
from versatile_diffusion.interop.official import FULL_SIZE, diffuser_plan
from versatile_diffusion.interop.read.found import HIDDEN_TEXT_ENCODER, OURS, Found, first_file, streams_of
from versatile_diffusion.interop.read.tensors import Tensors, open_tensors
from versatile_diffusion.reading import INDEX_SUFFIX, read_json

Json = dict[str, Any]

LARGE_PICTURE = 512
"""Default image side of published models in pixels, if their files do not specify it."""
POSITIONS = 4
"""Tokens per text latent in diffusers' text UNet; fixed in its class."""
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")


@dataclass(frozen=True)
class Repository:
    """A folder layout.

    Args:
        name: name of the layout.
        title: title for users.
        unets: diffuser folders; at least one is required.
        lacks, kinds: as in `Found`.
    """

    name: str
    title: str
    unets: Mapping[str, UNet]
    lacks: frozenset[str] = frozenset()
    kinds: Mapping[str, str] = field(default_factory=dict)


REPOSITORIES = (
    Repository(
        "diffusers",
        "diffusers' layout of Versatile Diffusion (image_unet, text_unet)",
        DIFFUSERS,
        frozenset(["text-codec"]),
    ),
    Repository(
        "stable-diffusion-diffusers",
        "diffusers' layout of Stable Diffusion v1 (unet)",
        {"unet": DIFFUSERS_STABLE_DIFFUSION},
        kinds={"text-encoder": HIDDEN_TEXT_ENCODER},
    ),
)
OUR_TITLE = "our layout (unet, bank)"
TITLES = "; ".join([OUR_TITLE, *(row.title for row in REPOSITORIES)])


def recognise(folder: Path) -> Found | None:
    """Recognise a folder of components; None if it is not one.

    Raises:
        ValueError: a component lacks its configuration or weights.
    """
    if (folder / "bank").is_dir() and (folder / "unet").is_dir():
        streams = read_json(folder / "unet" / "config.json")
        named = [f"{group}.{name}" for group in ("data", "context") for name in streams[f"{group}_streams"]]
        return Found(OURS, OUR_TITLE, folder, tuple(named))
    rows = (row for row in REPOSITORIES if any((folder / name).is_dir() for name in row.unets))
    row = next(rows, None)
    return None if row is None else _repository(folder, row)


def _repository(folder: Path, row: Repository) -> Found:
    here = [name for name in row.unets if (folder / name).is_dir()]
    read = {name: read_json(folder / name / "config.json") for name in here}
    config = diffuser_config_of(read)
    plan = diffuser_plan(config)
    rules = {name: diffusers_rules(plan, row.unets[name]) for name in here}
    diffuser = Tensors.merged(
        _weights(folder / name).renamed(partial(_name_2023, rules=rules[name], time=name == here[0])) for name in here
    )
    parts = {
        part: reader(folder, latent_side=read[here[0]].get("sample_size"))
        for (part, component), reader in READERS.items()
        if (folder / component).is_dir()
    }
    return Found(
        layout=row.name,
        title=row.title,
        path=folder,
        streams=streams_of(diffuser),
        tensors={"diffuser": diffuser, **{part: tensors for part, (tensors, _, _) in parts.items()}},
        configs={"diffuser": config, **{part: numbers for part, (_, numbers, _) in parts.items()}},
        files={part: files for part, (_, _, files) in parts.items()},
        kinds=row.kinds,
        lacks=row.lacks,
    )


def _name_2023(name: str, *, rules: tuple[NameRule, ...], time: bool) -> str | None:
    """Convert to the 2023 name; None for the second copy of the time embedding."""
    return None if name.startswith("time_embedding.") and not time else find_ours(name, rules)


def diffuser_config_of(unets: Mapping[str, Json]) -> Json:
    """Build the original configuration from the `config.json` of each UNet, by folder."""
    shared = next(iter(unets.values()))
    widths, layers = shared["block_out_channels"], shared.get("layers_per_block", 2)
    text = unets.get("text_unet", {}).get("in_channels", FULL_SIZE["text_channels"])
    return {
        "image_channels": next((c["in_channels"] for name, c in unets.items() if name != "text_unet"), 4),
        "text_channels": text[0] if isinstance(text, list | tuple) else text,
        "context_dim": shared["cross_attention_dim"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [layers] * len(widths) if isinstance(layers, int) else list(layers),
        "with_attn": [kind.startswith("CrossAttn") for kind in shared["down_block_types"]],
        "second_dim": [POSITIONS] * len(widths),
        "num_heads": _heads(shared),
    }


def _heads(config: Json) -> int:
    """Return the number of attention heads, which diffusers calls `attention_head_dim`."""
    heads = config.get("num_attention_heads") or config["attention_head_dim"]
    if isinstance(heads, int):
        return heads
    if len(set(heads)) == 1:
        return int(heads[0])
    raise ValueError(f"every level must have the same number of attention heads (Stable Diffusion v1 has), got {heads}")


def _image_codec(folder: Path, latent_side: int | None) -> tuple[Tensors, Json, tuple[Path, ...]]:
    config = read_json(folder / "vae" / "config.json")
    levels = len(config["block_out_channels"])
    rules = (*autokl_rules(levels), *old_attention_rules())
    resolution = latent_side * 2 ** (levels - 1) if latent_side else LARGE_PICTURE
    numbers = published_config(config, resolution)
    return _weights(folder / "vae").renamed(lambda name: find_official(name, rules)), numbers, ()


def _tower(folder: Path, component: str, section: str, beside: str) -> tuple[Tensors, Json, tuple[Path, ...]]:
    config = read_json(folder / component / "config.json")
    whole = {"projection_dim": config.get("projection_dim", config["hidden_size"]), section: config}
    vocabulary = first_file(folder, (f"{beside}/tokenizer.json", f"{beside}/vocab.json", f"{beside}/config.json"))
    return _weights(folder / component), whole, (vocabulary,) if vocabulary else ()


def _text_encoder(folder: Path, latent_side: int | None) -> tuple[Tensors, Json, tuple[Path, ...]]:
    return _tower(folder, "text_encoder", "text_config", "tokenizer")


def _image_encoder(folder: Path, latent_side: int | None) -> tuple[Tensors, Json, tuple[Path, ...]]:
    return _tower(folder, "image_encoder", "vision_config", "image_encoder")


READERS = {
    ("image-codec", "vae"): _image_codec,
    ("text-encoder", "text_encoder"): _text_encoder,
    ("image-encoder", "image_encoder"): _image_encoder,
}
"""Part and folder -> reader of its tensors, configuration and further files."""


def _weights(folder: Path) -> Tensors:
    """Open the weights of a component: plain names before variants like `model.fp16`, safetensors before pickles."""
    endings = [ending for suffix in (".safetensors", ".bin") for ending in (suffix + INDEX_SUFFIX, suffix)]
    patterns = [f"{stem}{variant}{end}" for variant in ("", ".*") for end in endings for stem in _STEMS]
    file = first_file(folder, patterns)
    return open_tensors(folder if file is None else file).unwrapped()  # reports a folder without weights
