"""A judge and a CLIP of random weights, and the small set of the tests."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from versatile_diffusion.evaluation.judge_network import PictureJudge
from versatile_diffusion.evaluation.networks import Networks, load_networks
from versatile_diffusion.evaluation.protocol import Protocol
from versatile_diffusion.evaluation.subjects import OwnModel
from versatile_diffusion.recipes.emoji.data.reader import EmojiSet

FIXTURE = Path(__file__).parents[1] / "data" / "emoji"


@pytest.fixture(scope="session")
def data() -> EmojiSet:
    return EmojiSet.load(FIXTURE, "pair-test")


@pytest.fixture(scope="session")
def judge_folder(data: EmojiSet, tmp_path_factory: pytest.TempPathFactory) -> str:
    known = [key for key, part in zip(data.concept_keys, data.concept_parts, strict=True) if part == "train"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = PictureJudge(known, data.style_names, stages=((8, 1, 3, 2, 1), (16, 1, 3, 2, 2)), width=16, side=32)
    folder = tmp_path_factory.mktemp("judge")
    judge.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with both towers, and a tokenizer that spells."""
    folder = tmp_path_factory.mktemp("clip")
    names = [*ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({name: place for place, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(str(folder)).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    begin, end = len(names) - 2, len(names) - 1
    ids = {"vocab_size": len(names), "bos_token_id": begin, "eos_token_id": end, "pad_token_id": end}
    config = CLIPConfig(
        text_config=small | ids | {"max_position_embeddings": 16},
        vision_config=small | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def protocol(judge_folder: str) -> Protocol:
    return Protocol("tiny", splits=("pair-test",), count=3, steps=2, side=32, judge=judge_folder, resamples=20)


@pytest.fixture(scope="session")
def subject(tiny_pipeline) -> OwnModel:
    return OwnModel(tiny_pipeline)


@pytest.fixture(scope="session")
def networks(protocol: Protocol, subject: OwnModel) -> Networks:
    return load_networks(protocol, subject.encoders, torch.device("cpu"))
