"""`versatile train` from shards, with the paper's settings, and what these take; `versatile data encode` of shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from shards import write_shards

from tests.cli.conftest import Command
from versatile_diffusion import VersatileDiffusionPipeline

QUICK = ("--steps", "2", "--eval-minutes", "999", "--sample-minutes", "999", "--device", "cpu")


def settings_of(run: str) -> dict[str, Any]:
    return json.loads(Path(run, "settings.json").read_text())


def test_a_plan_builds_nothing(versatile: Command, tmp_path: Path) -> None:
    answer = versatile("train", "--settings", "dual-context", "--plan", "--gpus", 64, "--mfu", 0.4)
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0] == "dual-context: from basic, 35,547 updates of 1,024, AdamW 0.0001"
    assert any(line.split() == ["context.text", "267,239,360", "parameters,", "multiplier", "1"] for line in lines)
    assert any("on 64 GPUs of 989 TFLOP/s at an MFU of 0.4" in line for line in lines)
    told = json.loads(versatile("train", "--settings", "dual-context", "--plan", "--gpus", 64, "--json").out)
    assert told["memory"]["ddp"] > told["memory"]["hsdp"] > told["memory"]["fsdp"]
    assert {phase["side"] for phase in told["phases"]} == {256, 512}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--settings", "emoji", "--plan"), "unknown settings of the paper"),
        (("--gpus", "8"), "go with --plan"),
        (("--settings", "basic", "--plan", "--gpus", "8", "--mfu", "2"), "mfu at most 1"),
        (("--from", "emoji"), "give what to train"),
        (("--stream", "shards"), "--stream goes with --from or --distill"),
        (("--from", "emoji", "--stream", "no-shards"), "no such folder"),
        (("--from", "emoji", "--stream", "x", "--nodes", "2"), "--nodes goes with --ray"),
    ],
)
def test_mistakes_are_told_at_once(versatile: Command, words: tuple[str, ...], match: str) -> None:
    answer = versatile("train", *words)
    assert (answer.code, match in answer.err) == (2, True), answer.err


def test_the_papers_settings_follow_one_another_on_a_small_model(versatile: Command, model: str) -> None:
    """Each begins as the one before; the first phase trains on images of half the size."""
    write_shards(Path("shards"), 2, 6)
    start, streams = model, {}
    for name in ("basic", "dual-context", "official"):
        words = ("--from", start, "--settings", name, "--stream", "shards", "--out", name, "--batch", 2, "--window", 4)
        answer = versatile("train", *words, *QUICK)
        assert answer.code == 0, answer.err
        told = settings_of(name)
        streams[name] = set(told["multipliers"])
        assert (told["joint"], told["loop"]["schedule"], told["options"]["paper"]) == (True, "constant", name)
        start = f"{name}/export"
    assert streams["basic"] == {"global", "data.image", "context.image"}
    assert streams["official"] == {*streams["dual-context"], "data.text"}
    assert settings_of("official")["multipliers"] == {
        **dict.fromkeys(("global", "data.image", "context.image", "context.text"), 0.1),
        "data.text": 1.0,
    }
    unet = VersatileDiffusionPipeline.from_pretrained("official/export").unet
    assert set(unet.data) == set(unet.context) == {"image", "text"}
    second = ("--from", "basic/export", "--settings", "basic", "--phase", 2, "--stream", "shards", "--out", "basic-2")
    assert versatile("train", *second, "--batch", 2, "--window", 4, *QUICK).code == 0
    states = [torch.load(f"{run}/checkpoint.pt", weights_only=True)["reading"][0] for run in ("basic", "basic-2")]
    assert states[0] == states[1]  # of the same samples


def test_shards_are_encoded_one_by_one_and_streamed_together(versatile: Command, model: str) -> None:
    write_shards(Path("shards"), 3, 6, bad=7)
    answer = versatile("data", "encode", "shards", "--out", "encoded", "--model", model, "--side", 8, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert (told["items"], told["bad"], told["shards"]) == (17, {"bad images": 1}, 3)
    assert json.loads(Path("encoded/encoded.json").read_text())["sets"] == ["00000", "00001", "00002"]
    again = versatile("data", "encode", "shards", "--out", "encoded", "--model", model, "--side", 8)
    assert "17 items" in again.out
    words = ("--from", model, "--stream", "encoded@2", "--out", "run", "--batch", 2, "--window", 4)
    assert versatile("train", *words, "--lora", 2, *QUICK).code == 0
    assert settings_of("run")["options"]["stream"] == ["encoded@2"]
    assert "both" not in versatile("train", "--export", "run", "--to", "mine").err
    assert VersatileDiffusionPipeline.from_pretrained("mine").tasks()
    longer = versatile("train", *words, "--lora", 2, "--steps", 4, *QUICK[2:])
    assert "run: step 4, finished" in longer.out
    refused = versatile("data", "encode", "shards", "--out", "other", "--model", model, "--side", 8, "--aspect", 2)
    assert "give one of them" in refused.err
    one = versatile("data", "encode", "shards/00000.tar", "--out", "one", "--model", model, "--ray", "local")
    assert "--ray spreads several shards" in one.err
