"""The emoji model's diffuser: what it is, and what its stages are trained on and from."""

from __future__ import annotations

from collections.abc import Sequence
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
    data_streams={"image": {"channels": 4}, "text": {"gain": 30.0}},
    context_streams={"image": {"width": 192}, "text": {"width": 192}},
    mixture={"text-to-image": 3, "image-variation": 1, "image-to-text": 2, "text-variation": 1},
    batch={"image": 32, "text": 64},
    prediction="v_prediction",
    muon_lr=0.02,
    not_muon=("data.image.0.", "data.image.16.", "data.text", "time_embed"),
)
"""Trains on a CPU: 18.0 M parameters. The text stream is as wide as the codec's latents, see `emoji_objective`."""

JOINT = replace(
    SMALL,
    joint=True,
    mixture={"text-to-image": 0.75, "image-variation": 0.25, "image-to-text": 0.27, "text-variation": 0.13},
    batch={"text-to-image": 48, "image-variation": 16, "image-to-text": 96, "text-variation": 48},
    noises={"text": 4},
    muon_lr=0.014,
)
"""The last stage: every step trains all flows, so that context layers learn what texts need of them too. A text stream
that was trained alone, on context layers that pictures had shaped, stood still at a loss of 0.61 for texts from texts
(highest quarter of noise levels); with context layers that learn it came to 0.36 in 2000 steps (docs/log.md)."""

STAGE_FOLDERS = {stage: f"diffuser-{stage.replace('_', '-')}" for stage in STAGES}
"""Where each stage's run lies, beside the runs of the codecs and encoders."""


DEFAULTS: dict[str, dict[str, Any]] = {
    "text-to-image": {"guidance_scale": 7.5, "num_inference_steps": 25},
    "image-variation": {"guidance_scale": 3.0, "num_inference_steps": 25},
    "image-to-text": {"guidance_scale": 2.0, "num_inference_steps": 25},
    "text-variation": {"guidance_scale": 1.5, "num_inference_steps": 25},
    "dual-guided": {"guidance_scale": 3.0, "num_inference_steps": 25},
}
"""What suits the model where the user says nothing."""


def emoji_objective(
    options: DiffuserSettings, data: Path, out: Path, device: torch.device, fresh: bool = False
) -> DiffuserObjective:
    """One stage of the emoji model, from the runs in the folders beside `out`: `image-codec`, `text-codec` (if texts
    are generated), `context-encoders`, `image-context`, and the stage before (`STAGE_FOLDERS`) if not `fresh`.

    Raises:
        ValueError: one of these has not been trained to its end.
    """
    runs = out.parent
    order = list(STAGES)
    before = order[: order.index(options.stage)][-1:]
    start = None
    if before and not fresh:
        start = MultiFlowUNet.from_pretrained(finished(runs / STAGE_FOLDERS[before[0]]) / "unet")
    bank = emoji_bank(runs, options.data, options.contexts).to(device)
    options = _fitted(options, bank)
    items = {split: EmojiSet.load(data, split) for split in ("train", "pair-val")}
    pairs = {
        split: Pairs.encode(
            {m: GUIDING[m](items[split]) for m in options.contexts},
            {m: GENERATED[m](items[split]) for m in options.data},
            bank,
            runs / "encoded",
        )
        for split in items
    }
    looks = _looks(items["pair-val"])
    return DiffuserObjective(options, pairs["train"], pairs["pair-val"], bank, looks, start, device)


def _fitted(options: DiffuserSettings, bank: ModalityBank) -> DiffuserSettings:
    """The options with a text stream as wide as the codec's latents, whose directions are counted at its export."""
    if "text" not in options.data:
        return options
    (width,) = bank.codecs["text"].latent_shape()
    return replace(
        options, data_streams={**options.data_streams, "text": {**options.data_streams["text"], "width": width}}
    )


def emoji_bank(runs: Path, data: Sequence[str], contexts: Sequence[str]) -> ModalityBank:
    """The trained codecs of the modalities in `data`, and the context encoders of those in `contexts`."""
    codecs = {"image": LiteVAE, "text": Optimus}
    encoders = {"image": DualImageEncoder, "text": DualTextEncoder}
    return ModalityBank(
        {m: codecs[m].from_pretrained(finished(runs / f"{m}-codec")) for m in data},
        {m: encoders[m].from_pretrained(_encoder(runs, m)) for m in contexts},
    ).eval()


def _encoder(runs: Path, modality: str) -> Path:
    """Pictures have a run of their own after that of both encoders."""
    return finished(runs / "image-context") if modality == "image" else finished(runs / "context-encoders") / modality


def finished(run: Path) -> Path:
    """What the run exported.

    Raises:
        ValueError: it has not been trained to its end.
    """
    if not (run / "export").is_dir():
        raise ValueError(f"{run} holds no export; train it to its end first (scripts/train_emoji.sh tells how)")
    return run / "export"


def _pictures(items: EmojiSet) -> list[list[Any]]:
    return [[MODALITIES["image"].check(picture)] for picture in items.pictures]


def _named_captions(items: EmojiSet) -> list[list[str]]:
    """The captions that hold the label. Those of keywords alone fit many pictures: they would teach vagueness."""
    return [
        [caption for caption in captions if label.lower() in caption.lower()] or [label]
        for label, captions in zip(items.labels, items.captions, strict=True)
    ]


def _plain_captions(items: EmojiSet) -> list[list[str]]:
    """The captions "label, style": with all of them half of the latents' variance is the form of the sentence."""
    return [items.plain_captions(row) for row in range(len(items))]


GUIDING = {"image": _pictures, "text": _named_captions}
GENERATED = {"image": _pictures, "text": _plain_captions}


def _looks(items: EmojiSet, count: int = 12) -> dict[str, list[Any]]:
    """What the sample sheets start from."""
    count = min(count, len(items))
    rows = [i * len(items) // count for i in range(count)]
    return {
        "image": [MODALITIES["image"].check(items.pictures[row]) for row in rows],
        "text": [items.plain_captions(row)[0] for row in rows],
    }
