"""The emoji model's diffuser: what it is, and what its stages are trained on and from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.data.emoji.reader import EmojiSet
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.dual_encoder import DualImageEncoder, DualTextEncoder
from versatile_diffusion.modalities.lite_vae import LiteVAE
from versatile_diffusion.modalities.optimus import Optimus
from versatile_diffusion.training.diffuser import STAGES, DiffuserObjective, DiffuserSettings
from versatile_diffusion.training.pairs import Pairs

SMALL = DiffuserSettings(
    stage="official",
    unet={
        "width": 48,
        "multipliers": (1, 2, 3),
        "depth": 1,
        "attends": (False, True, True),
        "heads": 4,
        "norm_groups": 16,
    },
    data_streams={"image": {"channels": 4}, "text": {"width": 128}},
    context_streams={"image": {"width": 192}, "text": {"width": 192}},
    mixture={"text-to-image": 3, "image-variation": 1, "image-to-text": 2, "text-variation": 1},
    batch={"image": 32, "text": 64},
    prediction="v_prediction",
    muon_lr=0.02,
    not_muon=("data.image.0.", "data.image.16.", "data.text", "time_embed"),
)
"""Trains on a CPU: 18.0 M parameters."""

LARGE = replace(SMALL, unet={**SMALL.unet, "width": 64}, batch={"image": 512, "text": 512})
"""For a GPU: 31.6 M parameters."""

STAGE_FOLDERS = {stage: f"diffuser-{stage.replace('_', '-')}" for stage in STAGES}
"""Where each stage's run lies, beside the runs of the codecs and encoders."""


DEFAULTS: dict[str, dict[str, Any]] = {
    "text-to-image": {"guidance_scale": 4.0},
    "image-variation": {"guidance_scale": 2.0},
    "image-to-text": {"guidance_scale": 3.0},
    "text-variation": {"guidance_scale": 3.0},
}
"""What suits the model where the user says nothing."""


def emoji_objective(options: DiffuserSettings, data: Path, out: Path, device: torch.device) -> DiffuserObjective:
    """One stage of the emoji model, from the runs in the folders beside `out`: `image-codec`, `text-codec`,
    `context-encoders`, and the stage before (`STAGE_FOLDERS`).

    Raises:
        ValueError: one of these has not been trained to its end.
    """
    runs = out.parent
    order = list(STAGES)
    before = order[: order.index(options.stage)][-1:]
    bank = emoji_bank(runs).to(device)
    start = None
    if before:
        start = MultiFlowUNet.from_pretrained(_finished(runs / STAGE_FOLDERS[before[0]]) / "unet")
    cache = runs / "encoded"
    pairs = {split: Pairs.encode(*_values(EmojiSet.load(data, split)), bank, cache) for split in ("train", "pair-val")}
    held_out = EmojiSet.load(data, "pair-val")
    return DiffuserObjective(options, pairs["train"], pairs["pair-val"], bank, _looks(held_out), start, device)


def emoji_bank(runs: Path) -> ModalityBank:
    """The trained codecs and context encoders."""
    encoders = _finished(runs / "context-encoders")
    codecs = {
        "image": LiteVAE.from_pretrained(_finished(runs / "image-codec")),
        "text": Optimus.from_pretrained(_finished(runs / "text-codec")),
    }
    return ModalityBank(
        codecs,
        {
            "image": DualImageEncoder.from_pretrained(encoders / "image"),
            "text": DualTextEncoder.from_pretrained(encoders / "text"),
        },
    ).eval()


def _finished(run: Path) -> Path:
    if not (run / "export").is_dir():
        raise ValueError(f"{run} holds no export; train it to its end first: versatile train {run.name} --out {run}")
    return run / "export"


def _values(items: EmojiSet) -> tuple[dict[str, Any], dict[str, Any]]:
    """All that guides, and all that is generated: a caption to be generated names its concept."""
    pictures = [[MODALITIES["image"].check(picture)] for picture in items.pictures]
    named = [
        [caption for caption in captions if label.lower() in caption.lower()] or [label]
        for label, captions in zip(items.labels, items.captions, strict=True)
    ]
    return {"image": pictures, "text": items.captions}, {"image": pictures, "text": named}


def _looks(items: EmojiSet, count: int = 12) -> dict[str, list[Any]]:
    """What the sample sheets start from."""
    rows = [round(i * len(items) / count) for i in range(count)]
    return {
        "image": [MODALITIES["image"].check(items.pictures[row]) for row in rows],
        "text": [f"{items.labels[row]}, {items.style_phrases[items.styles[row]][0]}" for row in rows],
    }
