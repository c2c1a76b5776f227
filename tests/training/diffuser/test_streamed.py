"""Training from shards, raw and encoded: the same batches from both, and a run goes on in the middle of an epoch."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shards import write_shards
from tiny import build_tiny_pipeline

from versatile_diffusion.data.encoded import encode_set
from versatile_diffusion.data.remote import CACHE
from versatile_diffusion.data.sources import open_source
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.recipes.export import export
from versatile_diffusion.recipes.run import run
from versatile_diffusion.training.diffuser.own_data import own_data
from versatile_diffusion.training.diffuser.streamed import StreamSettings
from versatile_diffusion.training.engine.checkpoints import Checkpoints
from versatile_diffusion.training.engine.sharded import average_at

CPU = torch.device("cpu")
KILLS = int(os.environ.get("VERSATILE_KILLS", "2"))
"""Of the campaign; the variable asks for more, VERSATILE_KILLS=40."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards") / "raw", 4, 12, bad=17)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, model: Path, shards: Path) -> Path:
    folder = tmp_path_factory.mktemp("encoded")
    bank = VersatileDiffusionPipeline.from_pretrained(model).bank.eval()
    encode_set(open_source(shards), bank, folder, part=10)
    return folder


def trained(model: Path, out: Path, stream: list[str], steps: int, **changes: Any) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    options = {"stream": stream, "batch": 3, "window": 8, "lr": 1e-3}
    fixed = {"eval_minutes": 999, "sample_minutes": 999, "warmup": 1, "log_every": 1, **changes}
    run("own-data", str(model), None, out, steps=12, device="cpu", changes=fixed, options=options, minutes=None)
    newest = Checkpoints(out).newest()
    assert newest is not None
    return torch.load(newest, weights_only=True)


@pytest.mark.parametrize("kind", ["raw", "encoded"])
def test_a_run_goes_on_in_the_middle_of_an_epoch(
    model: Path, shards: Path, encoded: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same weights, with the samples read once more that waited, and no others."""
    stream = [str(shards if kind == "raw" else encoded)]
    whole = trained(model, tmp_path / "whole", stream, 12)
    from versatile_diffusion.training.engine import loop

    stop = {"at": 5}
    due = loop._Run._due

    def stopping(self: Any, stopped: Any) -> list[str]:
        return ["stop"] if self.state.step == stop["at"] else due(self, stopped)

    monkeypatch.setattr(loop._Run, "_due", stopping)
    broken = trained(model, tmp_path / "broken", stream, 12)
    assert (broken["step"], broken["reading"][0]["step"]) == (5, 5)
    stop["at"] = -1
    again = trained(model, tmp_path / "broken", stream, 12)
    assert again["step"] == 12
    for name, value in whole["module"].items():
        assert torch.equal(value, again["module"][name]), name
    assert again["reading"] == whole["reading"]
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "broken")]
    losses = [[(line["step"], line["loss"]) for line in map(json.loads, log) if "loss" in line] for log in logs]
    assert losses[0] == losses[1]
    assert VersatileDiffusionPipeline.from_pretrained(tmp_path / "broken" / "export").tasks()
    assert (export(tmp_path / "broken", tmp_path / "exported") / "model_index.json").is_file()


def test_raw_and_encoded_shards_give_the_same_batches(model: Path, shards: Path, encoded: Path, tmp_path: Path) -> None:
    """But for the half precision of what is encoded ahead; the held-out samples are in neither."""
    made = [own_data(str(model), None, tmp_path, CPU, stream=[str(s)], batch=40)[0] for s in (shards, encoded)]
    keys = [what.train_pairs.reader.held_out for what in made]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 1
    for what in made:
        what.start_reading(0, {})
    latents = []
    for what in made:  # nearly a whole round of 46 samples
        (batch,) = what.numbered_batch(0, 0, 1, torch.Generator().manual_seed(0))
        latents.append(batch.latent.flatten(1))
        assert what.held_out.count == 1
        with torch.no_grad():
            measured = what.evaluate(what.build().eval())
        assert measured["read/good"] >= 40  # or more, since it reads ahead
        assert (measured["read/bad"] > 0, measured["read/bad_shards"]) == (what is made[0], 0)
    nearest = torch.cdist(*latents).min(1).values
    assert (nearest < 0.05).sum() >= 34  # those that are in both
    assert len(latents[0].unique(dim=0)) == 40


def test_each_batch_of_raw_shards_has_one_shape(model: Path, shards: Path, tmp_path: Path) -> None:
    what, _ = own_data(
        str(model), None, tmp_path, CPU, stream=[str(shards)], aspect=4, batch=4, flows=["text-to-image"]
    )
    what.start_reading(0, {})
    shapes = {tuple(what.batch(step, torch.Generator().manual_seed(0))[0].latent.shape[1:]) for step in range(12)}
    assert shapes == {(4, 2, 8), (4, 4, 4)}


def test_lanes_have_shards_of_their_own(model: Path, shards: Path, tmp_path: Path) -> None:
    what, _ = own_data(str(model), None, tmp_path, CPU, stream=[str(shards)], batch=4, flows=["text-variation"])
    what.start_reading(0, {})
    for lane in range(2):
        what.numbered_batch(0, lane, 2, torch.Generator())
    paths = [{shard.path for shard in lane.parts[0].shards} for lane in what.train_pairs.stream.lanes.values()]
    assert paths[0].isdisjoint(paths[1])
    assert len(paths[0] | paths[1]) == 4


def test_shards_of_another_machine_are_fetched_into_a_bounded_cache(
    model: Path, shards: Path, encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    far = fsspec.filesystem("memory")
    far.put(str(shards), "/far", recursive=True)
    far.put(str(encoded), "/made", recursive=True)
    monkeypatch.setattr(CACHE, "folder", tmp_path / "cache")
    monkeypatch.setattr(CACHE, "most", 2 * (shards / "00000.tar").stat().st_size)
    size = (shards / "00000.tar").stat().st_size
    for name, here in (("memory://far", shards), ("memory://far/0000{0..3}.tar", shards), ("memory://made", encoded)):
        latents = []
        for place in (name, str(here)):
            what, _ = own_data(str(model), None, tmp_path, CPU, stream=[place], batch=4, flows=["text-to-image"])
            what.start_reading(0, {})
            latents.append([what.batch(step, torch.Generator().manual_seed(0))[0].latent for step in range(24)])
        if here == shards:
            assert all(torch.equal(a, b) for a, b in zip(*latents, strict=True))
        else:
            assert len(latents[0]) == 24
        assert sum(f.stat().st_size for f in (tmp_path / "cache").rglob("*.tar")) <= CACHE.most + size
    assert list((tmp_path / "cache").iterdir())


def test_what_cannot_be_streamed_is_refused(model: Path, shards: Path, encoded: Path, tmp_path: Path) -> None:
    def refused(match: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            own_data(str(model), options.pop("data", None), tmp_path, CPU, **options)

    refused("either data or sets")
    refused("either data or sets", data=shards, stream=[str(shards)])
    refused("with weights above 0", stream=[f"{shards}@0"])
    refused("use sets of one kind", stream=[str(shards), str(encoded)])
    refused("already encoded with fixed shapes", stream=[str(encoded)], aspect=2)
    refused("no such folder", stream=[str(tmp_path / "none")])
    refused("has no shards", stream=["memory://nothing-here"])
    refused("at least two are needed", stream=[str(write_shards(tmp_path / "one", 1, 1))])
    other = build_tiny_pipeline()
    with torch.no_grad():
        next(iter(other.bank.codecs.values())).requires_grad_(False)
        for p in other.bank.parameters():
            p.add_(0.1)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="encoded with another model"):
        own_data(str(tmp_path / "other"), None, tmp_path, CPU, stream=[str(encoded)])


def test_weights_are_behind_the_names() -> None:
    found = StreamSettings.parsed(["a/b@3", "s3://me@here/x", "c@0.5", "d@e"])
    assert found.sets == (("a/b", 3.0), ("s3://me@here/x", 1.0), ("c", 0.5), ("d@e", 1.0))
    assert replace(found, window=2).window == 2


@pytest.mark.campaign
@pytest.mark.timeout(600 * KILLS)
@pytest.mark.parametrize("sharded", [False, True])
def test_a_trainer_that_is_killed_again_and_again_ends_as_an_unbroken_run(
    model: Path, shards: Path, tmp_path: Path, sharded: bool
) -> None:
    """By SIGKILL at any moment; it goes on in the middle of an epoch of raw shards."""

    def command(name: str) -> list[str]:
        words = ["--from", model, "--stream", shards, "--out", tmp_path / name, "--steps", 20 * KILLS, "--batch", 2]
        words += ["--window", 6, "--device", "cpu", "--flows", "text-to-image", "--warmup", 1, "--lr", 0.001]
        words += ["--eval-minutes", 999, "--sample-minutes", 999, "--checkpoint-minutes", 0.0001]
        words += ["--checkpoints", tmp_path / f"{name}-c"] if sharded else []
        return [sys.executable, "-m", "versatile_diffusion", "train", *map(str, words)]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("WORLD_SIZE", None)
    subprocess.run(command("whole"), env=environment, check=True, capture_output=True)
    draw, kills = random.Random(0), 0
    while True:
        process = subprocess.Popen(command("broken"), env=environment, stdout=subprocess.DEVNULL)
        log = tmp_path / "broken" / "log.jsonl"
        began = _marks(tmp_path, sharded)
        until = began + draw.randint(2, 12)
        while process.poll() is None and (kills == KILLS or _marks(tmp_path, sharded) < until):
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    assert (process.returncode, kills) == (0, KILLS)
    states = []
    for name in ("whole", "broken"):
        if sharded:
            states.append(average_at(f"{tmp_path}/{name}-c")[0])
        else:
            states.append(torch.load(Checkpoints(tmp_path / name).newest(), weights_only=True)["average"])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert log.is_file()


def _marks(folder: Path, sharded: bool) -> int:
    """The step of the newest checkpoint."""
    names = folder.glob("broken-c/*/.metadata") if sharded else folder.glob("broken/checkpoints/*.pt")
    return max([int(name.parent.name if sharded else name.stem) for name in names], default=0)
