"""The networks that measure: a judge, encoders in a shared space, features of pictures; all with a hash of weights."""

from __future__ import annotations

import hashlib
import json
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

from versatile_diffusion.evaluation.protocol import DATA, OWN, Protocol
from versatile_diffusion.modalities.bank import INDEX as BANK
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.base import ContextEncoder
from versatile_diffusion.modalities.clip import CLIPImageContext, CLIPTextContext, load_tokenizer
from versatile_diffusion.modalities.dual_encoder import DualImageEncoder
from versatile_diffusion.modalities.lite_vae import pixels_of
from versatile_diffusion.sampling.models import fetched, find_model
from versatile_diffusion.sampling.output import fingerprint
from versatile_diffusion.training.judge import PictureJudge

Encoders = Mapping[str, ContextEncoder]
"""By modality, in one space."""
BATCH = 128
SCRIPTS = (".pt", ".pth", ".ts")
"""How TorchScript files are called; no hub id ends so."""
ROLES = ("judge", "encoders")
"""What stands in a protocol's features for the networks that it has already."""


@dataclass(frozen=True)
class FeatureNetwork:
    """Pictures to features; `name` is that of its metrics."""

    name: str
    embed: Callable[[Sequence[Image.Image]], Tensor] = field(repr=False)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> Float[np.ndarray, "n d"]:
        """Features of pictures that are all of one size."""
        parts = [self.embed(pictures[k : k + BATCH]).float().cpu().numpy() for k in range(0, len(pictures), BATCH)]
        return np.concatenate(parts)


@dataclass(frozen=True)
class Networks:
    """All that a protocol measures with; `hashes` by role."""

    judge: PictureJudge | None
    encoders: Encoders
    features: tuple[FeatureNetwork, ...]
    hashes: Mapping[str, str]


def load_networks(protocol: Protocol, own: Encoders, device: torch.device) -> Networks:
    """The networks that a protocol names.

    Args:
        own: encoders of the model that is measured; none for a model without.

    Raises:
        ValueError: one is not there or not of a known kind, or is there twice, or it is not the one whose hash the
            protocol has.
    """
    judge = load_judge(protocol.judge, device) if protocol.judge else None
    encoders = own if protocol.encoders == OWN else load_encoders(protocol.encoders, device)
    hashes = {} if judge is None else {"judge": fingerprint(judge)}
    if encoders:
        hashes["encoders"] = fingerprint(*encoders.values())
    found: list[FeatureNetwork] = []
    loaded: dict[str, str] = {}
    names = list(dict.fromkeys(protocol.features))
    short = [called(name) for name in names if name not in ROLES]
    for name in names:
        if name == "judge" and judge is not None:
            found.append(FeatureNetwork(name, lambda pictures: judge(pixels(pictures, judge.device)).features))
        elif name == "encoders" and "image" in encoders:
            found.append(FeatureNetwork(name, encoders["image"].compare))
        elif name not in ROLES:
            embed, weights = _features(name, device)
            if (other := loaded.setdefault(weights, name)) != name:
                raise ValueError(f"{other} and {name} are one feature network, with hash {weights}; name it once")
            alone = short.count(called(name)) == 1 and called(name) not in (*ROLES, DATA)
            role = called(name) if alone else f"{called(name)}-{weights[:6]}"
            found.append(FeatureNetwork(role, embed))
            hashes[role] = weights
    protocol.check(hashes)
    return Networks(judge, encoders, tuple(found), hashes)


def load_judge(folder: str, device: torch.device) -> PictureJudge:
    """A judge of pictures, as the training of `judge` exports it."""
    if _class_of(Path(folder)) != PictureJudge.__name__:
        raise ValueError(f"{folder} holds no judge of pictures; train one with: versatile train judge --settings emoji")
    return PictureJudge.from_pretrained(folder).eval().to(device)


def load_encoders(name: str, device: torch.device) -> Encoders:
    """Text and image encoders of a model, or of a CLIP folder of transformers."""
    folder = Path(fetched(find_model(name), {}))
    if _class_of(folder) == "clip":
        model = CLIPModel.from_pretrained(folder)
        return {encoder.modality: encoder.eval().to(device) for encoder in _clip_encoders(model, folder)}
    bank = folder if (folder / BANK).is_file() else folder / "bank"
    return dict(ModalityBank.from_pretrained(bank).to(device).encoders.items())


def _clip_encoders(model: CLIPModel, folder: Path) -> list[ContextEncoder]:
    """The two towers of a CLIP."""
    config: Any = model.config
    width = {"projection_dim": config.projection_dim}
    text = CLIPTextContext(config.text_config.to_dict() | width, load_tokenizer(folder))
    image = CLIPImageContext(config.vision_config.to_dict() | width)
    state = model.state_dict()
    for tower in (text.model, image.model):
        tower.load_state_dict({name: state[name] for name in tower.state_dict()})
    return [text, image]


def called(name: str) -> str:
    """The last part of a name or path, that of a link and not of what it leads to; what a run exported is called as
    the run is."""
    path = Path(os.path.abspath(name))
    if path.is_file():
        return path.stem
    return path.parent.name if path.name == "export" else path.name


def _features(name: str, device: torch.device) -> tuple[Callable[[Sequence[Image.Image]], Tensor], str]:
    """Features by a network in a TorchScript file, or in a folder (of a model by its name, or from the hub), and the
    hash of its weights."""
    if Path(name).is_file():
        return _scripted(torch.jit.load(name, map_location=device).eval(), device), _hash(Path(name))
    if Path(name).suffix in SCRIPTS:
        raise ValueError(f"there is no feature network {name}: no such file")
    path = Path(fetched(find_model(name), {}))
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
            f"{name} is no feature network; allowed: a TorchScript file, or the folder of a judge, a dual encoder, "
            f"a CLIP or a model, or the name or hub id of one"
        )
    return encoder.compare, fingerprint(encoder)


def _scripted(module: torch.jit.ScriptModule, device: torch.device) -> Callable[[Sequence[Image.Image]], Tensor]:
    """Features by a TorchScript network of pictures in 0..255, as FID's Inception is handed on; one that can return
    either features or logits is asked for features."""
    forward: Any = module.forward
    options = {"return_features": True} if "return_features" in str(forward.schema) else {}

    def embed(pictures: Sequence[Image.Image]) -> Tensor:
        return module((255 * pixels(pictures, device)).round().to(torch.uint8), **options).flatten(1)

    return embed


def pixels(pictures: Sequence[Image.Image], device: torch.device) -> Float[Tensor, "b 3 h w"]:
    """Square pictures of one size to pixels in [0, 1]."""
    return pixels_of(pictures, pictures[0].width).to(device)


def fitted(pictures: Sequence[Image.Image], side: int) -> list[Image.Image]:
    """Pictures of any size on white squares of `side` pixels."""
    made: UInt8[np.ndarray, "n h w 3"]
    made = rearrange((255 * pixels_of(pictures, side)).round().byte().numpy(), "n c h w -> n h w c")
    return [Image.fromarray(picture) for picture in made]


def _class_of(folder: Path) -> str:
    """The class or kind that a folder's `config.json` names; empty where there is none."""
    file = folder / "config.json"
    if not file.is_file():
        return ""
    config = json.loads(file.read_text(encoding="utf-8"))
    return config.get("_class_name") or config.get("model_type", "")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
