"""A judge of random weights, and the small set of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from versatile_diffusion.data.emoji.reader import EmojiSet
from versatile_diffusion.evaluation.networks import Networks, load_networks
from versatile_diffusion.evaluation.protocol import Protocol
from versatile_diffusion.evaluation.subjects import OwnModel
from versatile_diffusion.training.judge import PictureJudge

FIXTURE = Path(__file__).parents[1] / "data" / "emoji"


@pytest.fixture(scope="session")
def data() -> EmojiSet:
    return EmojiSet.load(FIXTURE, "pair-test")


@pytest.fixture(scope="session")
def judge_folder(data: EmojiSet, tmp_path_factory: pytest.TempPathFactory) -> str:
    known = [key for key, part in zip(data.concept_keys, data.concept_parts, strict=True) if part == "train"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = PictureJudge(known, data.style_names, widths=(8, 8, 16))
    folder = tmp_path_factory.mktemp("judge")
    judge.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def protocol(judge_folder: str) -> Protocol:
    return Protocol("tiny", splits=("pair-test",), count=3, steps=2, side=32, judge=judge_folder, resamples=20)


@pytest.fixture(scope="session")
def subject(tiny_pipeline) -> OwnModel:
    return OwnModel(tiny_pipeline)


@pytest.fixture(scope="session")
def networks(protocol: Protocol, subject: OwnModel) -> Networks:
    return load_networks(protocol, subject.encoders, torch.device("cpu"))
