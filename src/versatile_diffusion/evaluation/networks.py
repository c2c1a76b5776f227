"""Metric networks: judge, encoders in a shared space, feature networks; each with a hash of its weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from transformers import CLIPModel

from versatile_diffusion.evaluation.judge_network import PictureJudge
from versatile_diffusion.evaluation.protocol import DATA, OWN, Protocol
from versatile_diffusion.modalities.bank import INDEX as BANK
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.base import ContextEncoder
from versatile_diffusion.modalities.encoders.clip import CLIPImageContext, CLIPTextContext, load_tokenizer
from versatile_diffusion.modalities.encoders.dual import DualImageEncoder
from versatile_diffusion.modalities.image.lite_vae import pixels_of
from versatile_diffusion.pipeline.models import fetch_model, find_model
from versatile_diffusion.reading import check_shards, read_json, reading
from versatile_diffusion.records.record import fingerprint

Encoders = Mapping[str, ContextEncoder]
"""Encoders in one space, by modality."""
BATCH = 128
SCRIPTS = (".pt", ".pth", ".ts")
"""Suffixes of TorchScript files; hub ids never end with them."""
ROLES = ("judge", "encoders")
"""Names of the judge and the encoders in a protocol's features."""


@dataclass(frozen=True)
class FeatureNetwork:
    """Image feature network; metrics are named after `name`."""

    name: str
    embed: Callable[[Sequence[Image.Image]], Tensor] = field(repr=False)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> Float[np.ndarray, "n d"]:
        """Compute features of images of one size."""
        parts = [self.embed(pictures[k : k + BATCH]).float().cpu().numpy() for k in range(0, len(pictures), BATCH)]
        return np.concatenate(parts)


@dataclass(frozen=True)
class Networks:
    """All networks of a protocol; `hashes` by role."""

    judge: PictureJudge | None
    encoders: Encoders
    features: tuple[FeatureNetwork, ...]
    hashes: Mapping[str, str]


def check_trusted(protocol: Protocol, trust: bool) -> None:
    """Raise ValueError if a protocol uses TorchScript feature networks without trust."""
    if programs := [name for name in protocol.features if _is_program(name) and not trust]:
        raise ValueError(
            f"{programs[0]} is a TorchScript program, which can read and write any of your files; if you trust its "
            f"source, add --trust-features (in Python trust_features=True)"
        )


def load_networks(protocol: Protocol, own: Encoders, device: torch.device, trust_features: bool = False) -> Networks:
    """Load the networks of a protocol.

    Args:
        own: encoders of the evaluated model; empty if it has none.
        trust_features: whether TorchScript feature networks (which execute code) are allowed.

    Raises:
        ValueError: a missing, unknown, duplicate or untrusted network, or one whose hash differs from the protocol's.
    """
    check_trusted(protocol, trust_features)
    judge = load_judge(protocol.judge, device) if protocol.judge else None
    encoders = own if protocol.encoders == OWN else load_encoders(protocol.encoders, device)
    hashes = {} if judge is None else {"judge": fingerprint(judge)}
    if encoders:
        hashes["encoders"] = fingerprint(*encoders.values())
    found: list[FeatureNetwork] = []
    loaded: dict[str, str] = {}
    names = list(dict.fromkeys(protocol.features))
    short = [short_name(name) for name in names if name not in ROLES]
    for name in names:
        if name == "judge" and judge is not None:
            found.append(FeatureNetwork(name, lambda pictures: judge(pixels(pictures, judge.device)).features))
        elif name == "encoders" and "image" in encoders:
            found.append(FeatureNetwork(name, encoders["image"].compare))
        elif name not in ROLES:
            embed, weights = _features(name, device)
            if (other := loaded.setdefault(weights, name)) != name:
                raise ValueError(f"{other} and {name} are the same feature network, with hash {weights}; list it once")
            alone = short.count(short_name(name)) == 1 and short_name(name) not in (*ROLES, DATA)
            role = short_name(name) if alone else f"{short_name(name)}-{weights[:6]}"
            found.append(FeatureNetwork(role, embed))
            hashes[role] = weights
    protocol.check(hashes)
    return Networks(judge, encoders, tuple(found), hashes)


def load_judge(folder: str, device: torch.device) -> PictureJudge:
    """Load a judge exported by the `judge` training."""
    if _class_of(Path(folder)) != PictureJudge.__name__:
        raise ValueError(f"{folder} contains no judge; train one with: versatile train judge --settings emoji-2")
    return PictureJudge.from_pretrained(folder).eval().to(device)


def load_encoders(name: str, device: torch.device) -> Encoders:
    """Load text and image encoders of a model, or of a CLIP folder of transformers."""
    folder = Path(fetch_model(find_model(name), {}))
    if _class_of(folder) == "clip":
        with reading(folder, "a CLIP"):
            check_shards(folder)
            model = CLIPModel.from_pretrained(folder, local_files_only=True)  # nosec B615 # a local folder
        return {encoder.modality: encoder.eval().to(device) for encoder in _clip_encoders(model, folder)}
    bank = folder if (folder / BANK).is_file() else folder / "bank"
    held: dict[str, Any] = dict(ModalityBank.from_pretrained(bank).to(device).encoders.items())
    return held


def _clip_encoders(model: CLIPModel, folder: Path) -> list[ContextEncoder]:
    """Return the two towers of a CLIP."""
    config: Any = model.config
    width = {"projection_dim": config.projection_dim}
    text = CLIPTextContext(config.text_config.to_dict() | width, load_tokenizer(folder))
    image = CLIPImageContext(config.vision_config.to_dict() | width)
    state = model.state_dict()
    for tower in (text.model, image.model):
        tower.load_state_dict({name: state[name] for name in tower.state_dict()})
    return [text, image]


def short_name(name: str) -> str:
    """Return the last part of a name or path (links are not resolved); exports of a run are named after the run."""
    path = Path(os.path.abspath(name))
    if path.is_file():
        return path.stem
    return path.parent.name if path.name == "export" else path.name


def _features(name: str, device: torch.device) -> tuple[Callable[[Sequence[Image.Image]], Tensor], str]:
    """Load a feature network from a trusted TorchScript file (see `check_trusted`), a folder, or a model by name or
    hub id; return it with the hash of its weights."""
    if _is_program(name):
        with reading(name, "a TorchScript program"):
            return _wrap_script(torch.jit.load(name, map_location=device).eval(), device), _hash(Path(name))
    if Path(name).suffix in SCRIPTS:
        raise ValueError(f"feature network {name}: no such file")
    path = Path(fetch_model(find_model(name), {}))
    kind = _class_of(path)
    if kind == PictureJudge.__name__:
        judge = load_judge(str(path), device)
        return lambda pictures: judge(pixels(pictures, device)).features, fingerprint(judge)
    if kind == DualImageEncoder.__name__:
        encoder: Any = DualImageEncoder.from_pretrained(path).eval().to(device)
    elif kind == "clip" or (path / "bank" / BANK).is_file() or (path / BANK).is_file():
        encoder = load_encoders(str(path), device)["image"]
    else:
        raise ValueError(
            f"{name} is not a feature network; allowed: a TorchScript file, the folder of a judge, dual encoder, "
            f"CLIP or model, or the name or hub id of one"
        )
    return encoder.compare, fingerprint(encoder)


def _is_program(name: str) -> bool:
    """Return whether a feature network is a TorchScript file, which executes code."""
    return name not in ROLES and Path(name).is_file()


def _wrap_script(module: torch.jit.ScriptModule, device: torch.device) -> Callable[[Sequence[Image.Image]], Tensor]:
    """Wrap a TorchScript network for images in 0..255, the usual form of FID's Inception; requests features if it can
    also return logits."""
    forward: Any = module.forward
    options = {"return_features": True} if "return_features" in str(forward.schema) else {}

    def embed(pictures: Sequence[Image.Image]) -> Tensor:
        features: Tensor = module((255 * pixels(pictures, device)).round().to(torch.uint8), **options).flatten(1)
        return features

    return embed


def pixels(pictures: Sequence[Image.Image], device: torch.device) -> Float[Tensor, "b 3 h w"]:
    """Convert square images of one size to pixels in [0, 1]."""
    return pixels_of(pictures, pictures[0].width).to(device)


def fit_images(pictures: Sequence[Image.Image], side: int) -> list[Image.Image]:
    """Fit images of any size onto white squares of `side` pixels."""
    made: UInt8[np.ndarray, "n h w 3"]
    made = rearrange((255 * pixels_of(pictures, side)).round().byte().numpy(), "n c h w -> n h w c")
    return [Image.fromarray(picture) for picture in made]


def _class_of(folder: Path) -> str:
    """Return the class or type in a folder's `config.json`; empty if there is none."""
    file = folder / "config.json"
    if not file.is_file():
        return ""
    config = read_json(file)
    return str(config.get("_class_name") or config.get("model_type", ""))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
