"""Two real processes on gloo: what they train, where they go on, and what becomes of the run when one is lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_objectives import SHORT, Flows
from torch.utils._pytree import tree_leaves

from versatile_diffusion.training.engine.distributed import World, joined, place
from versatile_diffusion.training.engine.launch import launch
from versatile_diffusion.training.engine.loop import train
from versatile_diffusion.training.engine.posthoc_ema import reconstruct
from versatile_diffusion.training.engine.sharded import average_at, steps_at
from versatile_diffusion.training.engine.state import RunState

SCRIPT = Path(__file__).with_name("two_processes.py")
CPU = torch.device("cpu")
pytestmark = pytest.mark.timeout(1200)  # two processes wait for each other at every step, long on a busy machine


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of `two_processes.py`; its own assertions have held."""
    out = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WORLD_SIZE", raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        killed = launch([sys.executable, str(SCRIPT), "first", str(out)], 2)
        assert killed == 128 + 9, "one process is killed at the end"
        shutil.copytree(out / "killed", out / "fewer", symlinks=True)
        assert launch([sys.executable, str(SCRIPT), "second", str(out)], 2) == 0
    return out


def lines(out: Path) -> list[dict[str, float]]:
    """The log without what differs between equal runs."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in e.items() if k not in ("seconds", "items_per_second", "memory_gib")} for e in entries]


def weights(out: Path) -> dict[str, Any]:
    return torch.load(out / "checkpoint.pt", weights_only=True)


def same(left: Path, right: Path) -> bool:
    """Whether both runs have the same weights, averages and states of optimizers, bit for bit."""
    mine, theirs = weights(left), weights(right)
    leaves = [
        tree_leaves([content[part] for part in ("module", "average", "optimizers")]) for content in (mine, theirs)
    ]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(*leaves, strict=True))


@pytest.mark.parametrize("name", ["ddp", "flows", "fsdp"])
def test_a_broken_run_of_two_equals_an_unbroken_one(runs: Path, name: str) -> None:
    assert lines(runs / f"{name}-broken") == lines(runs / f"{name}-whole")
    assert same(runs / f"{name}-broken", runs / f"{name}-whole")


def test_a_run_goes_on_exactly_after_a_process_was_killed(runs: Path) -> None:
    assert lines(runs / "killed") == lines(runs / "flows-whole")
    assert same(runs / "killed", runs / "flows-whole")


def test_shards_train_as_replicas_do(runs: Path) -> None:
    replicas, shards = lines(runs / "flows-whole"), lines(runs / "fsdp-whole")
    for left, right in zip(replicas, shards, strict=True):
        assert right == pytest.approx(left, rel=1e-4)
    average = torch.load(runs / "fsdp-whole" / "export" / "model.pt", weights_only=True)
    for name, value in weights(runs / "flows-whole")["average"].items():
        torch.testing.assert_close(average[name], value, rtol=1e-4, atol=1e-6)
    stored = [reconstruct(runs / name / "posthoc", 0.1) for name in ("fsdp-whole", "flows-whole")]
    for name, value in stored[0].items():
        torch.testing.assert_close(value, stored[1][name], rtol=1e-4, atol=1e-6)


def test_shards_within_nodes_train_as_replicas_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert launch([sys.executable, str(SCRIPT), "nodes", str(tmp_path)], 4) == 0
    assert lines(tmp_path / "hsdp-broken") == lines(tmp_path / "hsdp-whole")
    assert same(tmp_path / "hsdp-broken", tmp_path / "hsdp-whole")
    for left, right in zip(lines(tmp_path / "ddp-whole"), lines(tmp_path / "hsdp-whole"), strict=True):
        assert right == pytest.approx(left, rel=1e-4)


def test_each_process_writes_its_part_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on from them as from whole ones, past one that is damaged; with one process, too."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert launch([sys.executable, str(SCRIPT), "sharded", str(tmp_path)], 2) == 0
    for name in ("ddp", "fsdp"):
        assert lines(tmp_path / f"{name}-broken") == lines(tmp_path / f"{name}-whole")
        exported = [torch.load(tmp_path / f"{name}-{run}" / "export" / "model.pt") for run in ("whole", "broken")]
        assert all(torch.equal(value, exported[1][key]) for key, value in exported[0].items())
        assert steps_at(f"{tmp_path}/{name}-c") == [11, 12]
        average, step = average_at(f"{tmp_path}/{name}-d")
        assert step == 12
        assert all(torch.equal(value, average[key]) for key, value in exported[0].items())
        assert not list(tmp_path.glob(f"{name}-*/checkpoints/*"))
        alone = replace(SHORT, posthoc=(0.1,), checkpoints=f"{tmp_path}/{name}-e")
        assert train(Flows(), alone, tmp_path / f"{name}-alone").finished
        for left, right in zip(lines(tmp_path / f"{name}-alone"), lines(tmp_path / f"{name}-whole")[2:], strict=True):
            assert left == pytest.approx(right, rel=1e-4)


def test_shards_in_bfloat16_train_nearly_so(runs: Path) -> None:
    half, full = lines(runs / "fsdp-bf16")[-1], lines(runs / "fsdp-whole")[-1]
    assert half != full
    assert half == pytest.approx(full, rel=0.2)
    assert {value.dtype for value in weights(runs / "fsdp-bf16")["module"].values()} == {torch.float32}


def test_one_process_with_twice_the_batches_trains_as_two(runs: Path, tmp_path: Path) -> None:
    train(Flows(), replace(SHORT, accumulate=2), tmp_path)
    for left, right in zip(lines(tmp_path), lines(runs / "flows-whole"), strict=True):
        assert left == pytest.approx(right, rel=1e-4)


def test_one_process_takes_over_all_batches_of_two(runs: Path) -> None:
    """The difference is that of sums in another order (here), and of the chance inside the module (dropout)."""
    begun = lines(runs / "fewer")
    train(Flows(), SHORT, runs / "fewer")
    ended = lines(runs / "fewer")
    assert 0 < len(begun) < len(ended)
    assert weights(runs / "fewer")["batches"] == 2
    for left, right in zip(ended, lines(runs / "flows-whole"), strict=True):
        assert left == pytest.approx(right, rel=1e-4)


def test_what_no_flow_used_was_not_touched(runs: Path) -> None:
    """No weight decay either: parameters without a gradient stay as they began, in both ways."""
    torch.manual_seed(SHORT.seed)
    fresh = Flows().build().state_dict()
    for run in ("flows-whole", "fsdp-whole"):
        trained = weights(runs / run)["module"]
        unchanged = {name for name, value in fresh.items() if torch.equal(trained[name], value)}
        assert unchanged == {name for name in fresh if name.startswith("idle")}


def test_a_silent_process_ends_the_run_with_its_checkpoint_intact(runs: Path) -> None:
    message = (runs / "hung" / "message").read_text()
    assert "process 0 of 2 lost another one" in message
    assert str(runs / "hung") in message
    assert weights(runs / "hung")["step"] == 4


def test_a_loss_that_is_not_a_number_in_one_process_stops_both(runs: Path) -> None:
    kept = weights(runs / "nan")
    assert kept["step"] == 6
    assert all(value.isfinite().all() for value in kept["module"].values())


def test_the_diffuser_trains_alike_in_all_ways(runs: Path) -> None:
    replicas = lines(runs / "unet-ddp")
    assert replicas[-1]["loss"] < replicas[0]["loss"]
    for name, tolerance in (("unet-fsdp", 1e-3), ("unet-bf16", 0.05)):
        for left, right in zip(lines(runs / name), replicas, strict=True):
            assert left == pytest.approx(right, rel=tolerance), name


def test_what_was_measured_since_the_last_line_is_taken_over(tmp_path: Path) -> None:
    """Of four processes two are left: each goes on with the sums of those whose batches it takes over."""
    flows = Flows()
    state = RunState.fresh(flows.build(), flows.optimizers, batches=4)
    own = state.content({}, World())
    windows = [{"window": {"loss": torch.tensor(float(n))}, "counts": {"loss": n + 1}} for n in range(4)]
    others = [{**window, "random": own["random"], "random_cuda": []} for window in windows[1:]]
    torch.save({**own, **windows[0], "others": others}, tmp_path / "it.pt")
    for rank, loss, count in ((0, 0 + 2, 1 + 3), (1, 1 + 3, 2 + 4)):
        state.load(tmp_path / "it.pt", {}, World(rank, 2))
        assert (float(state.window["loss"]), state.counts["loss"]) == (loss, count)


def test_batches_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    train(Flows(), replace(SHORT, accumulate=3, minutes=0), tmp_path)
    kept = weights(tmp_path)
    assert kept["batches"] == 3
    flows = Flows()
    state = RunState.fresh(flows.build(), flows.optimizers)
    with pytest.raises(ValueError, match="3 batches per step, which cannot be divided among 2"):
        state.load(tmp_path / "checkpoint.pt", json.loads(kept["identity"]), World(0, 2))


def test_a_process_of_many_does_not_train_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE in the environment is 2, but the process group has 1 members"):
        train(Flows(), SHORT, tmp_path)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ValueError, match="MASTER_PORT"), joined(CPU):
        pass
    with pytest.raises(ValueError, match="omit --nproc"):
        launch([sys.executable, "--version"], 2)


@pytest.mark.parametrize(("rank", "port"), [("1", "1"), ("0", None)])
def test_a_process_that_finds_no_other_says_so(monkeypatch: pytest.MonkeyPatch, rank: str, port: str | None) -> None:
    """One that nobody answers, and the one that answers, to whom nobody comes."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        free = str(one.getsockname()[1])
    told = {
        "WORLD_SIZE": "2",
        "RANK": rank,
        "LOCAL_RANK": rank,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port or free,
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ConnectionError, match=f"process {rank} of 2 could not reach all others at 127.0.0.1:"),
        joined(CPU, timedelta(seconds=2)),
    ):
        pass
    assert not torch.distributed.is_initialized()


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place("cpu") == CPU
    with pytest.raises(ValueError, match="meta"):
        place("meta")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="needs GPU 1, but there are 1 GPUs"):
        place("cuda")


def test_the_first_failure_is_what_a_launch_returns() -> None:
    code = "import os, sys; sys.exit(3 if os.environ['RANK'] == '1' else 0)"
    assert launch([sys.executable, "-S", "-c", code], 2) == 3


def test_a_launch_passes_sigterm_on(tmp_path: Path) -> None:
    """Processes that end well after it make the launch end well."""
    code = (
        "import os, signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); "
        "open(os.environ['RANK'], 'x').close(); time.sleep(600); sys.exit(1)"
    )

    def tell() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    with contextlib.chdir(tmp_path):
        assert launch([sys.executable, "-S", "-c", code], 2) == 0
    teller.join()
