"""The emoji model's run settings as functions: each returns the objective and the loop's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.modalities.encoders.dual import DualImageEncoder, DualTextEncoder
from versatile_diffusion.recipes.emoji.diffuser import (
    BIG,
    JOINT,
    SECOND,
    SMALL,
    emoji_objective,
    export_of,
    second_objective,
)
from versatile_diffusion.recipes.emoji.judge import JudgeObjective, JudgeSettings
from versatile_diffusion.recipes.emoji.parts import captions, context_data, images
from versatile_diffusion.training.diffuser.mixture import STAGES
from versatile_diffusion.training.diffuser.settings import DiffuserSettings
from versatile_diffusion.training.engine.autocast import saves_time
from versatile_diffusion.training.engine.loop import LoopSettings, Objective, Settings
from versatile_diffusion.training.parts.codecs import ImageCodecObjective
from versatile_diffusion.training.parts.context_encoders import ContextEncodersObjective, ContextEncodersSettings
from versatile_diffusion.training.parts.gaussian_codec import GaussianCodecSettings
from versatile_diffusion.training.parts.image_context import ImageContextObjective, ImageContextSettings
from versatile_diffusion.training.parts.teacher import teacher_folder
from versatile_diffusion.training.parts.text_codec import TextCodecObjective, TextCodecSettings


def image_codec_emoji(data: Path, out: Path, device: torch.device) -> tuple[Objective[Any], LoopSettings]:
    """The emoji model's image codec (1.9 M parameters): about 30 dB on concepts never seen.

    Measured on one shared CPU core, 1900 steps of 8 images (the first 600 on a schedule of 2600 steps, the next
    1100 on one of 2200), 39 minutes: 30.2 dB on concept-val, 31.3 dB on concept-test. AdamW alone, at 24 images a
    step, was 3 dB behind Muon after equal short time.
    """
    loop = LoopSettings(steps=1900, warmup=50, schedule="cosine", ema=0.998, eval_minutes=15, sample_minutes=5)
    pictures = images(data, "train", "concept-val", "concept-test")
    return ImageCodecObjective(pictures.pop("train"), pictures, GaussianCodecSettings(), device), loop


def context_encoders_emoji(data: Path, out: Path, device: torch.device) -> tuple[Objective[Any], LoopSettings]:
    """The emoji model's context encoders (4 M parameters): the label of an image among the first five for about half.

    Measured on one shared CPU core, 780 steps of 96 images (the first 400 on a schedule of 1000), 32 minutes, in per
    cent, pair-test: image to its label among 1,500, first 21.8, first five 45.9; label to an image 33.0 and 60.4;
    style 69.6. Without sibling drawings 23.1, 47.9, 42.9, 71.2. By the table of concepts in place of the label's text
    28.9. The recall was still rising (17.2 after 635 steps): more steps would help.
    """
    teacher_folder()  # said before anything is read
    loop = LoopSettings(steps=780, warmup=40, ema=0.99, clip=None, eval_minutes=8, sample_minutes=15)
    recipe = ContextEncodersSettings(image={}, text={})
    return ContextEncodersObjective(context_data(data, out / "teacher", 24, device), recipe, device), loop


def image_context_emoji(data: Path, out: Path, device: torch.device) -> tuple[Objective[Any], LoopSettings]:
    """Goes on with the image encoder of the run `context-encoders` beside `out`; its texts stay.

    Measured on one shared CPU core, 1500 steps of 96 images, 73 minutes, in per cent, pair-test: image to its label
    among 1,500, first 46.3, first five 72.7 (before: 21.8 and 45.9); label to an image 52.4 and 79.9; style 74.3.
    Without sibling drawings 45.8, 71.2, 58.3, 84.0. On concept-test 20.1 and 42.1, no better than before.
    """
    before = export_of(out.parent / "context-encoders")
    image = DualImageEncoder.from_pretrained(before / DualImageEncoder.modality)
    text = DualTextEncoder.from_pretrained(before / DualTextEncoder.modality)
    known = context_data(data, before.parent / "teacher", text.config.limit, device)
    loop = LoopSettings(steps=1500, warmup=50, ema=0.995, clip=None, eval_minutes=10, sample_minutes=20)
    return ImageContextObjective(image.to(device), text.to(device), known, ImageContextSettings(), device), loop


def text_codec_emoji(data: Path, out: Path, device: torch.device) -> tuple[Objective[Any], LoopSettings]:
    """The emoji model's text codec (3.5 M parameters), whose latents follow the text encoder of the run
    `context-encoders` beside `out`.

    Measured on one CPU core, 1400 steps of 128 captions, 17 minutes: of held-out captions of known concepts 54 % come
    back word for word, 51 % with noise of 0.5 standard deviations on the latents; of unknown concepts 10 %; of those of
    the form "label, style" all. Of its 224 channels 129 directions are kept at the end. Without a guide (128 channels,
    26 kept) it was 65 and 13 %, but a linear map from the text encoder's vectors then tells 57 % of the latents'
    variance; with one 84 %, and 87 % of the labels are decoded right.
    """
    loop = LoopSettings(steps=1400, warmup=20, ema=0.99, eval_minutes=10, sample_minutes=10)
    guide = DualTextEncoder.from_pretrained(export_of(out.parent / "context-encoders") / "text")
    return TextCodecObjective(captions(data), TextCodecSettings(), device, guide), loop


def judge_emoji(data: Path, out: Path, device: torch.device) -> tuple[Objective[Any], LoopSettings]:
    """The judge of generated images (4.0 M parameters); its seed is not that of the model's parts.

    Measured after one unbroken run of 700 steps, in per cent of the real images of pair-test: concept among 474 first
    82.4, among the first five 94.4 (without sibling drawings 83.8 and 94.8), style 55.7, refused 2.0. Refused of spoilt
    ones: blurred, dragged and scrambled 100, noisy 97, silhouettes 96, smeared 95, blended 82. `tests/data/judge` has
    these weights.
    """
    loop = LoopSettings(
        steps=700,
        seed=20,
        warmup=100,
        schedule="cosine",
        ema=0.99,
        clip=None,
        checkpoint_minutes=6,
        eval_minutes=None,
        sample_minutes=None,
    )
    return JudgeObjective(data, JudgeSettings(), device), loop


def diffuser_emoji(
    stage: str, steps: int, data: Path, out: Path, device: torch.device
) -> tuple[Objective[Any], LoopSettings]:
    """A stage of the emoji model's diffuser (18.0 M parameters); the last one ends with the learning rate at zero.

    The shipped weights came of shorter stages (350, 650 and 1500 steps) and of ten further runs by hand (see the
    model's card), of which the last is like the last stage here: 2000 steps, 5.4 seconds of a CPU core each. Validation
    losses (velocity) of image-variation 0.453, 0.437, 0.409 after the stages, then 0.321; of text-to-image -, 0.508,
    0.475, then 0.410. Three unbroken runs of these lengths were not made.
    """
    last = stage == list(STAGES)[-1]
    loop = _diffuser_loop(steps, "linear" if last else "constant")
    return emoji_objective(replace(JOINT if last else SMALL, stage=stage), data, out, device), loop


def diffuser_emoji_2(data: Path, out: Path, device: torch.device) -> tuple[Objective[Any], LoopSettings]:
    """The emoji model's diffuser for the second edition of the set, in one unbroken run that can end early (`end`)."""
    loop = LoopSettings(
        steps=24_000,
        warmup=100,
        schedule="trapezoid",
        ema=0.996,
        posthoc=(0.05, 0.1),
        log_every=50,
        checkpoint_minutes=8,
        eval_minutes=30,
        sample_minutes=30,
        bf16=saves_time(device),
    )
    return second_objective(SECOND, data, out, device), loop


def diffuser_emoji_2_gpu(data: Path, out: Path, device: torch.device) -> tuple[Objective[Any], LoopSettings]:
    """The same from nothing on a GPU that is held for minutes: give `by_clock`, at which it ends, or `steps`."""
    loop = LoopSettings(
        steps=20_000,
        warmup=200,
        schedule="trapezoid",
        ema=0.999,
        log_every=50,
        checkpoint_minutes=4,
        eval_minutes=2,
        sample_minutes=None,
    )
    return second_objective(BIG, data, out, device, fresh=True), loop


FOUR_FLOWS = 7000
"""Steps of the model of four flows that is compared with single-flow ones."""

TINY = replace(SMALL, unet={**SMALL.unet, "width": 32}, batch={"image": 16, "text": 32})
"""To compare flows in an hour of a core: about half the work per step, with half the items."""


def four_flows_emoji(
    options: DiffuserSettings, data: Path, out: Path, device: torch.device
) -> tuple[Objective[Any], LoopSettings]:
    """All four flows from the first step on, to be compared with `single_flow_emoji`. Not run at this length."""
    return emoji_objective(options, data, out, device, fresh=True), _diffuser_loop(FOUR_FLOWS)


def single_flow_emoji(
    options: DiffuserSettings, flow: str, data: Path, out: Path, device: torch.device
) -> tuple[Objective[Any], LoopSettings]:
    """A model of one flow, which sees as many items as that flow does in `four_flows_emoji` (paper section 4.2: does
    one model of four flows match four specialists?). Not run at this length."""
    options = replace(options, flows=(flow,))
    return emoji_objective(options, data, out, device, fresh=True), _diffuser_loop(steps_of(flow, FOUR_FLOWS))


def steps_of(flow: str, steps: int) -> int:
    """How many of the steps of `four_flows_emoji` train a flow."""
    return sum(SMALL.flow_mixture.at(step)[0][0].name == flow for step in range(steps))


def _diffuser_loop(steps: int, schedule: str = "linear") -> LoopSettings:
    return LoopSettings(steps=steps, warmup=30, schedule=schedule, ema=0.995, eval_minutes=8, sample_minutes=8)


COMPARED: dict[str, dict[str, Settings]] = {
    size: {
        "four-flows": partial(four_flows_emoji, options),
        **{flow: partial(single_flow_emoji, options, flow) for flow in STAGES["official"]},
    }
    for size, options in (("", SMALL), ("tiny-", TINY))
}
"""Runs that are compared, by the size of their diffusers."""

EMOJI: Mapping[str, Mapping[str, Settings]] = {
    "image-codec": {"emoji": image_codec_emoji},
    "context-encoders": {"emoji": context_encoders_emoji},
    "image-context": {"emoji": image_context_emoji},
    "diffuser": {
        "emoji-basic": partial(diffuser_emoji, "basic", 600),
        "emoji-dual-context": partial(diffuser_emoji, "dual_context", 3600),
        "emoji": partial(diffuser_emoji, "official", 4500),
        "emoji-2": diffuser_emoji_2,
        "emoji-2-gpu": diffuser_emoji_2_gpu,
        **{f"emoji-{size}{name}": build for size, runs in COMPARED.items() for name, build in runs.items()},
    },
    "text-codec": {"emoji": text_codec_emoji},
    "judge": {"emoji": judge_emoji, "emoji-2": judge_emoji},
}
"""By objective and by name."""
