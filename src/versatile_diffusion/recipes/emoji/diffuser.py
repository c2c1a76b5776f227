"""The emoji model's diffuser: architecture, training stages and data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.base import Codec, ContextEncoder
from versatile_diffusion.modalities.encoders.dual import DualImageEncoder, DualTextEncoder
from versatile_diffusion.modalities.image.lite_vae import LiteVAE
from versatile_diffusion.modalities.text.optimus import Optimus
from versatile_diffusion.pipeline.models import find_model
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.recipes.emoji.data.reader import EmojiSet
from versatile_diffusion.recipes.emoji.views import views
from versatile_diffusion.training.diffuser.mixture import STAGES
from versatile_diffusion.training.diffuser.objective import DiffuserObjective
from versatile_diffusion.training.diffuser.pairs import Pairs
from versatile_diffusion.training.diffuser.promotion import deepen
from versatile_diffusion.training.diffuser.settings import DiffuserSettings

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
that was trained alone, on context layers that images had shaped, stood still at a loss of 0.61 for texts from texts
(highest quarter of noise levels); with context layers that learn it came to 0.36 in 2000 steps (docs/log.md)."""

SECOND = DiffuserSettings(
    stage="official",
    unet={**SMALL.unet, "depth": 2},
    data_streams={"image": {"channels": 4}, "text": {"gain": 30.0, "positions": 2}},
    context_streams=SMALL.context_streams,
    mixture=JOINT.mixture,
    batch={"text-to-image": 96, "image-variation": 32, "image-to-text": 24, "text-variation": 12},
    prediction="v_prediction",
    muon_lr=0.015,
    not_muon=SMALL.not_muon,
    joint=True,
    noises={"text": 4},
    high_noise={"image": 0.6},
)
"""For the second edition of the set, all flows from the first step on: twice as deep as `SMALL` (a third more work),
with a text stream of less than half its parameters."""

VIEWS, MEASURED_AGAIN = 4, 155
"""Number of views per drawing; number of training items to measure losses on, besides as many held-out ones."""

STAGE_FOLDERS = {stage: f"diffuser-{stage.replace('_', '-')}" for stage in STAGES}
"""Folder of each stage's run, beside the runs of codecs and encoders."""


DEFAULTS: dict[str, dict[str, Any]] = {
    "text-to-image": {"guidance_scale": 5.0, "num_inference_steps": 25},
    "image-variation": {"guidance_scale": 3.0, "num_inference_steps": 25},
    "image-to-text": {"guidance_scale": 2.0, "num_inference_steps": 25, "candidates": 8},
    "text-variation": {"guidance_scale": 1.5, "num_inference_steps": 25},
    "dual-guided": {"guidance_scale": 3.0, "num_inference_steps": 25},
}
"""Default generation options of the model."""


def emoji_objective(
    options: DiffuserSettings, data: Path, out: Path, device: torch.device, fresh: bool = False
) -> DiffuserObjective:
    """One stage of the emoji model, from the runs in the folders beside `out`: `image-codec`, `text-codec` (if texts
    are generated), `context-encoders`, `image-context`, and the stage before (`STAGE_FOLDERS`) if not `fresh`.

    Raises:
        ValueError: one of these is not fully trained.
    """
    runs = out.parent
    order = list(STAGES)
    before = order[: order.index(options.stage)][-1:]
    start = None
    if before and not fresh:
        start = MultiFlowUNet.from_pretrained(export_of(runs / STAGE_FOLDERS[before[0]]) / "unet")
    bank = emoji_bank(runs, options.data, options.contexts).to(device)
    options = _fit_width(options, bank)
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


BIG = replace(
    SECOND,
    batch={"text-to-image": 768, "image-variation": 256, "image-to-text": 512, "text-variation": 256},
    muon_lr=0.02,
    lr=2e-3,
)
"""The same for a GPU with larger batches, from scratch."""


def second_objective(
    options: DiffuserSettings, data: Path, out: Path, device: torch.device, fresh: bool = False
) -> DiffuserObjective:
    """The diffuser for the second edition, with the codecs and context encoders of the installed emoji model, which
    know all concepts. Every drawing is seen in several views, and every value is encoded before the first step, into
    `out/encoded`. It begins as that model's diffuser, made deeper where it is shallower; data streams of other settings
    begin fresh. Or all begins `fresh`, which needs no more of the installed model than its codecs and encoders.

    Raises:
        ValueError: the model is not installed, or `data` holds no set.
    """
    bank, model, start = _load_installed(fresh)
    bank = bank.to(device).eval()
    options = _fit_width(options, bank)
    items = {split: EmojiSet.load(data, split) for split in ("train", "pair-val")}
    train, held_out = (
        several_views(items[split], count, bank, out) for split, count in (("train", VIEWS), ("pair-val", 1))
    )
    again = [VIEWS * (row * len(items["train"]) // MEASURED_AGAIN) for row in range(MEASURED_AGAIN)]
    model["vocabulary"] = items["train"].vocabulary()
    looks = _looks(items["pair-val"])
    begin = None if start is None else _continue(start, options)
    return DiffuserObjective(options, train, held_out, bank, looks, begin, device, model, seen=train.only(again))


def _continue(start: MultiFlowUNet, options: DiffuserSettings) -> MultiFlowUNet:
    """The diffuser with the depth of the options, and those of its data streams that have their settings."""
    had = start.config["data_streams"]
    kept = [modality for modality in options.data if had.get(modality) == options.data_streams[modality]]
    return deepen(start, options.unet["depth"], kept)


def _load_installed(fresh: bool) -> tuple[ModalityBank, dict[str, Any], MultiFlowUNet | None]:
    """Load the installed model: codecs, encoders, styles and defaults, and its diffuser if requested."""
    folder = Path(find_model("emoji"))
    config = VersatileDiffusionPipeline.load_config(str(folder))
    unet = None if fresh else MultiFlowUNet.from_pretrained(folder / "unet", dtype=torch.float32)
    bank = ModalityBank.from_pretrained(folder / "bank", dtype=torch.float32)
    return bank, {name: dict(config[name]) for name in ("styles", "defaults")}, unet


def several_views(items: EmojiSet, count: int, bank: ModalityBank, out: Path) -> Pairs:
    """Return the items with `count` views each, adjacent."""
    rows = [row for row in range(len(items)) for _ in range(count)]
    pictures = [
        [MODALITIES["image"].check(view)]
        for row in range(len(items))
        for view in views(items.pictures[row], count, items.may_mirror(row), items.keys[row])
    ]
    fit = bank.encoders["text"].fit
    named, plain = _named_captions(items), [[fit(text) for text in texts] for texts in _plain_captions(items)]
    guiding = [
        list(dict.fromkeys(fit(text) for text in (*items.typed_captions(row), *named[row])))
        for row in range(len(items))
    ]
    return Pairs.encode(
        {"image": pictures, "text": [guiding[row] for row in rows]},
        {"image": pictures, "text": [plain[row] for row in rows]},
        bank,
        out / "encoded",
        ahead=True,
    )


def _fit_width(options: DiffuserSettings, bank: ModalityBank) -> DiffuserSettings:
    """Set the text stream's width to that of the codec's latents, which is known after its export."""
    if "text" not in options.data:
        return options
    (width,) = bank.codecs["text"].latent_shape()
    return replace(
        options, data_streams={**options.data_streams, "text": {**options.data_streams["text"], "width": width}}
    )


def emoji_bank(runs: Path, data: Sequence[str], contexts: Sequence[str]) -> ModalityBank:
    """Load the trained codecs of the modalities in `data`, and the context encoders of those in `contexts`."""
    codecs: dict[str, type[Codec]] = {"image": LiteVAE, "text": Optimus}
    encoders: dict[str, type[ContextEncoder]] = {"image": DualImageEncoder, "text": DualTextEncoder}
    return ModalityBank(
        {m: codecs[m].from_pretrained(export_of(runs / f"{m}-codec")) for m in data},
        {m: encoders[m].from_pretrained(_encoder(runs, m)) for m in contexts},
    ).eval()


def _encoder(runs: Path, modality: str) -> Path:
    """Return the run of an encoder; the image encoder has its own run after that of both encoders."""
    return export_of(runs / "image-context") if modality == "image" else export_of(runs / "context-encoders") / modality


def export_of(run: Path) -> Path:
    """Return the export of a run.

    Raises:
        ValueError: it is not fully trained.
    """
    if not (run / "export").is_dir():
        raise ValueError(f"{run} contains no export; finish its training first (see scripts/train_emoji.sh)")
    return run / "export"


def _pictures(items: EmojiSet) -> list[list[Any]]:
    return [[MODALITIES["image"].check(picture)] for picture in items.pictures]


def _named_captions(items: EmojiSet) -> list[list[str]]:
    """Return captions that contain the label. Captions of keywords alone fit many images and would be too vague."""
    return [
        [caption for caption in captions if label.lower() in caption.lower()] or [label]
        for label, captions in zip(items.labels, items.captions, strict=True)
    ]


def _plain_captions(items: EmojiSet) -> list[list[str]]:
    """Return captions "label, style": with all captions, sentence form makes up half of the latents' variance."""
    return [items.plain_captions(row) for row in range(len(items))]


GUIDING = {"image": _pictures, "text": _named_captions}
GENERATED = {"image": _pictures, "text": _plain_captions}


def _looks(items: EmojiSet, count: int = 12) -> dict[str, list[Any]]:
    """Return the inputs of sample sheets."""
    count = min(count, len(items))
    rows = [i * len(items) // count for i in range(count)]
    return {
        "image": [MODALITIES["image"].check(items.pictures[row]) for row in rows],
        "text": [items.plain_captions(row)[0] for row in rows],
    }
