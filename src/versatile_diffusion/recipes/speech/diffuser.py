"""The emoji model with streams of audio: five flows more, promoted from the shipped diffuser (`official` to `official
+ audio`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.audio.encoder import DualAudioEncoder
from versatile_diffusion.modalities.audio.vae import AudioVAE
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.pipeline.models import find_model
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.recipes.emoji.data.manifest import Manifest
from versatile_diffusion.recipes.emoji.data.reader import EmojiSet
from versatile_diffusion.recipes.emoji.diffuser import DEFAULTS as OLD_DEFAULTS
from versatile_diffusion.recipes.emoji.diffuser import export_of
from versatile_diffusion.recipes.speech.card import PACKAGE
from versatile_diffusion.recipes.speech.data.build import SpeechManifest
from versatile_diffusion.recipes.speech.data.reader import SpeechSet
from versatile_diffusion.recipes.speech.data.voices import VOICES
from versatile_diffusion.shipped import CHECKOUT
from versatile_diffusion.tasks import Task
from versatile_diffusion.training.diffuser.mixture import STAGES
from versatile_diffusion.training.diffuser.objective import DiffuserObjective
from versatile_diffusion.training.diffuser.pairs import Choices, EncodedValues, Pairs, Side
from versatile_diffusion.training.diffuser.settings import DiffuserSettings

AUDIO = "audio"
NEW = ("text-to-audio", "audio-to-text", "image-to-audio", "audio-to-image", "audio-variation")
OLD = STAGES["official"]
CODEC, ENCODER = "audio-codec", "audio-context"
"""Folders of the runs that the diffuser's runs start from, beside their own."""

OLD_STREAMS = ("global", "data.image", "data.text", "context.image", "context.text")
FROZEN = dict.fromkeys(OLD_STREAMS, 0.0)
HELD = {"text": {"text-to-image": 10, "text-variation": 8}, "image": {"image-variation": 10, "image-to-text": 8}}
"""By context, the old flows that are held to what they are where its layers learn, with the items of a batch."""
HIGHEST = 900
"""Lowest timestep while words are learnt: there next to nothing of a recording is left in its latent."""


@dataclass(frozen=True)
class SpeechStage:
    """One run of the diffuser; `STAGES_OF_AUDIO` has them in their order.

    Args:
        run: its folder.
        after: folder of the run that it begins from; None: the emoji model.
        batches: by flow that is trained, items of a batch.
        lowest: lowest timestep of recordings.
    """

    run: str
    after: str | None
    batches: Mapping[str, int]
    lowest: int = 0


STAGES_OF_AUDIO: Mapping[str, SpeechStage] = {
    "speech-words": SpeechStage("diffuser-words", None, {"text-to-audio": 48, **HELD["text"]}, HIGHEST),
    "speech-means": SpeechStage(
        "diffuser-means",
        "diffuser-words",
        {"text-to-audio": 24, "image-to-audio": 32, "audio-variation": 16, "audio-to-image": 8, "audio-to-text": 16}
        | HELD["text"]
        | HELD["image"],
        HIGHEST,
    ),
    "speech": SpeechStage(
        "diffuser-speech",
        "diffuser-means",
        {"text-to-audio": 32, "image-to-audio": 16, "audio-variation": 8, "audio-to-image": 16, "audio-to-text": 24},
    ),
}
WEIGHTS = {"audio-variation": 0.4, "audio-to-image": 0.4, "audio-to-text": 0.3, "text-variation": 0.5}
"""By flow, its weight in a step; others have 1."""
AUDIO_DEFAULTS: dict[str, dict[str, Any]] = {
    "text-to-audio": {"guidance_scale": 5.0, "num_inference_steps": 8, "candidates": 4},
    "image-to-audio": {"guidance_scale": 5.0, "num_inference_steps": 8, "candidates": 4},
    "audio-variation": {"guidance_scale": 4.0, "num_inference_steps": 8},
    "audio-to-image": {"guidance_scale": 7.0, "num_inference_steps": 25},
    "audio-to-text": {"guidance_scale": 2.0, "num_inference_steps": 25, "candidates": 8},
}
"""Default generation options of the new flows, the best of a few on pair-val."""

LOOKS = 8
CAPTIONS = 3
"""Captions of a drawing that the old flows are held to."""


def with_audio(before: MultiFlowUNet, stage: SpeechStage) -> DiffuserSettings:
    """Return the settings of a diffuser with the streams of `before` and those of audio. Of what was there, those
    context layers learn whose flows a stage holds to what they are."""
    config, last = {k: v for k, v in before.config.items() if not k.startswith("_")}, len(before.plan) - 1
    data, contexts = dict(config.pop("data_streams")), dict(config.pop("context_streams"))
    flows, held = (*NEW, *OLD), tuple(name for name in OLD if name in stage.batches)
    learning = {f"context.{name}": 1.0 for name, old in HELD.items() if set(old) <= set(held)}
    return DiffuserSettings(
        stage="official",
        unet=config,
        data_streams=data | {AUDIO: {"channels": 16}},
        context_streams=contexts | {AUDIO: {"width": 192}},
        mixture={name: WEIGHTS.get(name, 1.0) * (name in stage.batches) for name in flows},
        batch=dict.fromkeys(flows, 1) | dict(stage.batches),
        prediction="v_prediction",
        muon_lr=0.015,
        not_muon=("time_embed", "data.text", *(f"data.{m}.{end}." for m in ("image", AUDIO) for end in (0, last))),
        flows=flows,
        joint=True,
        multipliers=FROZEN | learning,
        new_contexts="copied",
        new_data="copied",
        noises={"text": 4},
        high_noise={"image": 0.6} if stage.lowest else {"image": 0.6, AUDIO: 0.8},
        lowest_timestep={AUDIO: stage.lowest} if stage.lowest else {},
        retain=held,
    )


@dataclass(frozen=True)
class SpeechPairs(Pairs):
    """Recordings, each with drawings of its concept and with texts; flows without audio draw from `old`.

    Args:
        old: drawings and texts.
        means: of each recording, the sum of the means of its voice and of its word (see `means_of`).
    """

    old: Pairs
    means: Tensor

    def of(self, task: Task) -> Pairs:
        """See `Pairs.of`."""
        return self if AUDIO in (task.flow.data, *task.flow.contexts) else self.old

    def target(self, task: Task, items: Tensor, timesteps: Tensor, latents: Tensor) -> Tensor:
        """Of recordings, from `HIGHEST` up, means: a diffuser predicts them there, and learns them faster from these
        than from single recordings."""
        if task.flow.data != AUDIO:
            return latents
        return torch.where(timesteps.view(-1, 1, 1, 1) >= HIGHEST, self.means[items].to(latents), latents)


def trained_parts() -> Path | None:
    """Return the folder of the codec and the context encoder that are trained already, in a checkout."""
    return None if CHECKOUT is None else CHECKOUT / "emoji-speech" / "src" / PACKAGE / "weights" / "bank"


def speech_objective(name: str, data: Path, out: Path, device: torch.device) -> DiffuserObjective:
    """A stage of the model with audio (of `STAGES_OF_AUDIO`), from the installed emoji model and the runs `audio-codec`
    and `audio-context` beside `out`, or those of `trained_parts`; later stages from the run before. The emoji set
    is beside `data`.

    Raises:
        ValueError: the model or a set is missing, the sets do not belong together, or a run is not finished.
    """
    stage, folder, runs = STAGES_OF_AUDIO[name], Path(find_model("emoji")), out.parent
    before = (folder if stage.after is None else export_of(runs / stage.after)) / "unet"
    start = MultiFlowUNet.from_pretrained(before, dtype=torch.float32)
    bank = audio_bank(ModalityBank.from_pretrained(folder / "bank", dtype=torch.float32), runs).to(device)
    emoji, cache = emoji_beside(data), out / "encoded"
    drawings = EmojiSet.load(emoji, "train")
    pictures = drawing_pairs(drawings, bank, cache)
    old = {"train": pictures, "pair-val": drawing_pairs(EmojiSet.load(emoji, "pair-val"), bank, cache)}
    sets = {split: SpeechSet.load(data, split) for split in old}
    pairs = {split: speech_pairs(sets[split], drawings, pictures, old[split], bank, cache) for split in old}
    config = VersatileDiffusionPipeline.load_config(str(folder))
    model = {name: dict(config[name]) for name in ("styles", "defaults", "vocabulary")}
    model["styles"] |= {voice.id: voice.phrases[0] for voice in VOICES}
    model["defaults"] = OLD_DEFAULTS | model["defaults"] | AUDIO_DEFAULTS
    looks, options = looks_of(sets["pair-val"], drawings), with_audio(start, stage)
    return DiffuserObjective(options, pairs["train"], pairs["pair-val"], bank, looks, start, device, model)


def audio_bank(bank: ModalityBank, runs: Path) -> ModalityBank:
    """Return the bank with the trained audio codec and encoder."""
    codec = AudioVAE.from_pretrained(_part_of(runs / CODEC, f"codec-{AUDIO}"), dtype=torch.float32)
    encoder = DualAudioEncoder.from_pretrained(_part_of(runs / ENCODER, f"encoder-{AUDIO}"), dtype=torch.float32)
    codecs: dict[str, Any] = {**dict(bank.codecs.items()), AUDIO: codec}
    encoders: dict[str, Any] = {**dict(bank.encoders.items()), AUDIO: encoder}
    return ModalityBank(codecs, encoders).eval()


def _part_of(run: Path, name: str) -> Path:
    """Return the export of a run, or without the run a part that is trained already."""
    kept = trained_parts()
    return kept / name if kept is not None and not run.exists() and (kept / name).is_dir() else export_of(run)


def emoji_beside(data: Path) -> Path:
    """Return the emoji set that a speech set was built from: the folder `emoji` beside it.

    Raises:
        ValueError: no such set, or another one.
    """
    folder, wanted = data.parent / "emoji", SpeechManifest.read(data).emoji
    if (found := Manifest.read(folder).hash) != wanted:
        raise ValueError(f"{folder} is the emoji set {found}, but {data} speaks the words of {wanted}")
    return folder


def drawing_pairs(drawings: EmojiSet, bank: ModalityBank, cache: Path) -> Pairs:
    """Return all drawings, with `CAPTIONS` captions each to be conditioned on and their labels to be generated."""
    fit = bank.encoders["text"].fit
    pictures = [[MODALITIES["image"].check(picture)] for picture in drawings.pictures]
    captions = [[fit(text) for text in _some(drawings.typed_captions(row), row)] for row in range(len(drawings))]
    labels = [[fit(label)] for label in drawings.labels]
    return Pairs.encode({"image": pictures, "text": captions}, {"image": pictures, "text": labels}, bank, cache, True)


def _some(captions: Sequence[str], row: int) -> list[str]:
    """Some captions of a drawing, evenly spaced, of other kinds than those of the next."""
    return [captions[(row + place * len(captions) // CAPTIONS) % len(captions)] for place in range(CAPTIONS)]


def speech_pairs(
    data: SpeechSet, drawings: EmojiSet, pictures: Pairs, old: Pairs, bank: ModalityBank, cache: Path
) -> SpeechPairs:
    """Return recordings of words that are drawn, each with all training drawings of its concept, with captions to be
    conditioned on (also without the voice), and with its label to be generated; and the items of `old`."""
    rows, kept = _drawings_of(drawings), _drawn_words(data, drawings)
    waves = [[data.waves[row]] for row in kept]
    fit = bank.encoders["text"].fit
    said = [[fit(text) for text in (data.labels[row], *data.captions[row])] for row in kept]
    heard = Pairs.encode(
        {AUDIO: waves, "text": said}, {AUDIO: waves, "text": [[data.labels[row]] for row in kept]}, bank, cache, True
    )
    mine = [rows[data.concept_keys[data.concepts[row]]] for row in kept]
    latents, tokens = ({"image": _chosen(sides["image"], mine)} for sides in (pictures.latents, pictures.tokens))
    means = means_of(heard.latents[AUDIO], data.voices[kept], data.concepts[kept])
    return SpeechPairs(len(kept), {**heard.latents, **latents}, {**heard.tokens, **tokens}, old, means)


def means_of(recordings: Side, *groupings: np.ndarray) -> Tensor:
    """Return for each recording the sum of the means of its groups, such as its voice and its word, each of what the
    means before it leave."""
    assert isinstance(recordings, EncodedValues)
    rest, total = recordings.rows.float(), torch.zeros(recordings.rows.shape, device=recordings.rows.device)
    for grouping in groupings:
        group = torch.from_numpy(grouping).to(rest.device)
        sums = torch.zeros(int(group.max()) + 1, *rest.shape[1:], device=rest.device).index_add_(0, group, rest)
        mean = (sums / torch.bincount(group).clamp_min(1).view(-1, 1, 1, 1))[group]
        rest, total = rest - mean, total + mean
    return total


def _drawn_words(data: SpeechSet, drawings: EmojiSet) -> list[int]:
    """Return the recordings whose words are drawn."""
    rows = _drawings_of(drawings)
    return [row for row in range(len(data)) if data.concept_keys[data.concepts[row]] in rows]


def _drawings_of(drawings: EmojiSet) -> Mapping[str, list[int]]:
    """Return the rows of each concept's drawings, by its key."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, concept in enumerate(drawings.concepts.tolist()):
        rows[drawings.concept_keys[concept]].append(row)
    return rows


def _chosen(side: Side, rows: Sequence[Sequence[int]]) -> Choices:
    """Return some rows of a table for each item."""
    assert isinstance(side, EncodedValues)
    most, device = max(map(len, rows)), side.rows.device
    which = [[*one, *[0] * (most - len(one))] for one in rows]
    return Choices(side.rows, torch.tensor(which, device=device), torch.tensor([*map(len, rows)], device=device))


def looks_of(data: SpeechSet, drawings: EmojiSet, count: int = LOOKS) -> dict[str, list[Any]]:
    """Return the inputs of sample sheets: recordings, their captions, and a drawing of each."""
    rows, kept = _drawings_of(drawings), _drawn_words(data, drawings)
    kept = [kept[i * len(kept) // min(count, len(kept))] for i in range(min(count, len(kept)))]
    first = [rows[data.concept_keys[data.concepts[row]]][0] for row in kept]
    return {
        AUDIO: [data.waves[row] for row in kept],
        "text": [data.captions[row][0] for row in kept],
        "image": [MODALITIES["image"].check(drawings.pictures[row]) for row in first],
    }
