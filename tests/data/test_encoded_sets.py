"""Shards encoded one by one, here or on a cluster: the same bytes, resumed, without what ends a process."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from shards import write_shards
from tiny import build_tiny_pipeline

from versatile_diffusion.data.encoded import EncodedSet, encode_set
from versatile_diffusion.data.encoded_sets import EncodeShard, encode_shards, is_sharded, load_bank
from versatile_diffusion.data.journal import POISONOUS, Journal
from versatile_diffusion.data.places import spread_over
from versatile_diffusion.data.sources import open_source
from versatile_diffusion.training.diffuser.own_data import buckets_of, encoded_set


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards") / "raw", 3, 8, bad=9)


def work_of(model: Path, shards: Path, out: Path, **options: Any) -> EncodeShard:
    return EncodeShard(open_source(shards), partial(load_bank, str(model), "cpu"), out, {"part": 5, **options})


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_the_sets_of_all_shards_are_one(model: Path, shards: Path, tmp_path: Path) -> None:
    """What is in them is what the whole source gives as one set."""
    assert is_sharded(open_source(shards), tmp_path / "out")
    made = encode_shards(work_of(model, shards, tmp_path / "out"))
    bank = load_bank(str(model), "cpu")
    flat = encode_set(open_source(shards), bank, tmp_path / "flat")
    assert not is_sharded(open_source(shards), tmp_path / "flat")
    assert made.keys == flat.keys
    assert len(made) == 23
    assert made.index["report"]["bad"] == {"bad images": 1}
    numbers, generator = torch.arange(23), torch.Generator()
    for name in ("latents", "tokens"):
        rows = [one.rows(name, "text", torch.device("cpu")).draw(numbers, generator) for one in (made, flat)]
        assert torch.allclose(*rows, atol=2e-3)
    assert len(list((tmp_path / "out" / "looks").glob("*.png"))) == 12
    assert {look.key for look in made.looks(made.keys)} == {look.key for look in flat.looks(flat.keys)}
    assert len(encoded_set(tmp_path / "out", bank, tmp_path / "none")) == 23


def test_a_finished_encoding_is_not_taken_for_another(model: Path, shards: Path, tmp_path: Path) -> None:
    encode_shards(work_of(model, shards, tmp_path / "out", crops=2))
    assert len(encode_shards(work_of(model, shards, tmp_path / "out", crops=2))) == 23
    for options, other in (({"crops": 3}, "--crops"), ({"crops": 2, "long": "skip"}, "--long")):
        with pytest.raises(ValueError, match=f"another {other}"):
            encode_shards(work_of(model, shards, tmp_path / "out", **options))


def test_an_encoding_goes_on_with_the_shards_that_are_left(model: Path, shards: Path, tmp_path: Path) -> None:
    encode_shards(work_of(model, shards, tmp_path / "whole"))

    def two(work: Any, pieces: Any) -> Any:
        for piece in pieces[:2]:
            work(piece)
            yield piece
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_shards(work_of(model, shards, tmp_path / "broken"), spread=two)
    with pytest.raises(ValueError, match="has no"):
        EncodedSet.open(tmp_path / "broken")
    done: list[int] = []
    encode_shards(work_of(model, shards, tmp_path / "broken"), progress=lambda n, of: done.append(n))
    assert done == [3]
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_shapes_are_kept(model: Path, shards: Path, tmp_path: Path) -> None:
    buckets = buckets_of(build_tiny_pipeline(), 4)
    made = encode_shards(work_of(model, shards, tmp_path, buckets=buckets))
    shapes = {tuple(part["shape"]) for part in made.index["parts"]}
    assert shapes == {(16, 16), (8, 32)}


def fatal(work: EncodeShard, key: str, stage: str) -> None:
    """A process in which a sample is fatal, as a decoder with a fault would be."""
    from versatile_diffusion.data import encoder as module

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if stage == "read":
        read = module.item_of
        module.item_of = lambda raw, *more: die() if raw.key == key else read(raw, *more)
    else:
        rows = module.ItemEncoder.rows
        module.ItemEncoder.rows = lambda self, items, shape: (
            die() if key in [item.key for item in items] else rows(self, items, shape)
        )
    for number in range(3):
        work(number)


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has loaded torch")
@pytest.mark.parametrize("stage", ["read", "encode"])
def test_a_sample_that_ends_the_process_is_passed_over_and_listed(
    model: Path, shards: Path, tmp_path: Path, stage: str
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    work, codes = work_of(model, shards, tmp_path, batch=4), []
    while not codes or codes[-1]:
        process = multiprocessing.get_context("fork").Process(target=fatal, args=(work, "0000100003", stage))
        process.start()
        process.join(300)
        codes.append(process.exitcode)
        assert len(codes) < 6
    torch.set_num_threads(before)
    assert codes.count(-signal.SIGKILL) == (3 if stage == "read" else 4)
    made = encode_shards(work)
    assert "0000100003" not in made.keys
    assert len(made) == 22
    report = made.index["report"]
    assert report["bad"] == {"bad images": 1, POISONOUS: 1}
    assert any("0000100003" in line for line in report["examples"])
    assert not list(tmp_path.rglob("at.json"))


def test_a_strike_or_two_are_chance(tmp_path: Path) -> None:
    file = tmp_path / "at.json"
    with Journal(file).at(["a"]):
        again = Journal(file)
        assert not again.poisonous("a")
        with again.at(["b"]):
            assert not Journal(file).poisonous("b")
        with again.at(["a"]):
            last = Journal(file)
            assert not last.poisonous("a")
            with last.at(["a"]):
                assert Journal(file).poisonous("a")
                assert not Journal(file).poisonous("b")
    file.write_text("{half")
    assert not Journal(file).poisonous("a")


@pytest.mark.campaign
@pytest.mark.timeout(1800)
def test_a_cluster_writes_the_same_bytes_though_a_process_is_killed(
    model: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by 15 else, which on a busy machine is for ever
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    encode_shards(work_of(model, shards, tmp_path / "here"))
    killed = tmp_path / "killed"
    work = work_of(model, shards, tmp_path / "there")
    try:
        made = encode_shards(
            EncodeKilled(work.source, work.load, work.out, work.options, threads=work.threads, killed=killed),
            spread=spread_over("local", actors=True),
        )
    finally:
        ray.shutdown()
    assert killed.exists()
    assert len(made) == 23
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert json.loads((tmp_path / "there" / "encoded.json").read_text())["sets"] == ["00000", "00001", "00002"]


class EncodeKilled(EncodeShard):
    """Its process is killed once, in the middle of a shard."""

    def __init__(self, *given: Any, killed: Path, **named: Any):
        super().__init__(*given, **named)
        self.killed = killed

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"killed": self.killed}

    def __call__(self, number: int) -> None:
        if number == 1 and not self.killed.exists():
            self.killed.touch()
            (self.folder(number)).mkdir(parents=True)
            (self.folder(number) / "part-00000.safetensors.tmp").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        super().__call__(number)
