"""A run on two Ray nodes, of which one is lost and replaced: it goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from shards import write_shards
from tiny import build_tiny_pipeline

from versatile_diffusion.recipes.cluster import Group, run_on_ray
from versatile_diffusion.training.engine.checkpoints import Checkpoints

STEPS, KILLED_AFTER = 120, 12
LOOP = {"steps": STEPS, "warmup": 1, "log_every": 1, "checkpoint_minutes": 0.001}
LOOP |= {"eval_minutes": 999, "sample_minutes": 999}
OPTIONS = {"batch": 2, "window": 8, "lr": 1e-3, "flows": ["text-to-image"]}
PATIENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600", "RAY_worker_niceness": "0"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that trains nothing, and two nodes of one processor each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    for name, value in {**PATIENT, "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def step_of(run: Path) -> int:
    return max([int(file.stem) for file in run.glob("checkpoints/*.pt")], default=-1)


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.flaky(reruns=1)  # Ray's own processes, on a busy machine
def test_a_lost_node_is_replaced_and_the_losses_are_those_of_an_unbroken_run(cluster: Any, tmp_path: Path) -> None:
    build_tiny_pipeline().save_pretrained(tmp_path / "model")
    write_shards(tmp_path / "shards", 4, 12)
    options = {**OPTIONS, "stream": [str(tmp_path / "shards")]}
    arguments = {"objective": "own-data", "settings": str(tmp_path / "model"), "data": None, "out": tmp_path / "ray"}
    arguments |= {"device": "cpu", "changes": LOOP, "options": options, "timeout": 2}
    ended: list[Any] = []
    runner = threading.Thread(target=lambda: ended.append(run_on_ray(arguments, Group("", nodes=2))), daemon=True)
    runner.start()
    while step_of(tmp_path / "ray") < KILLED_AFTER and runner.is_alive():
        time.sleep(0.05)
    cluster.remove_node(cluster.nodes[1], allow_graceful=False)
    killed_at = step_of(tmp_path / "ray")
    cluster.add_node(num_cpus=1)
    runner.join(900)
    assert KILLED_AFTER <= killed_at < STEPS
    assert ended, f"the run did not end; it was killed at step {killed_at} and is at {step_of(tmp_path / 'ray')}"
    assert (ended[0].step, ended[0].finished) == (STEPS, True)
    assert json.loads((tmp_path / "ray" / "settings.json").read_text())["started"]["processes"] == 2

    words = ["--from", tmp_path / "model", "--stream", tmp_path / "shards", "--out", tmp_path / "whole", "--nproc", 2]
    words += ["--device", "cpu", "--batch", 2, "--window", 8, "--lr", 0.001, "--flows", "text-to-image"]
    words += [word for name, value in LOOP.items() if name != "log_every" for word in (_option(name), value)]
    (tmp_path / "loop.json").write_text(json.dumps({"log_every": 1}))
    words += ["--config", tmp_path / "loop.json"]
    command = [sys.executable, "-m", "versatile_diffusion", "train", *map(str, words)]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    assert losses(tmp_path / "ray") == losses(tmp_path / "whole")
    ray, whole = (torch.load(Checkpoints(tmp_path / name).newest(), weights_only=True) for name in ("ray", "whole"))
    assert all(torch.equal(ray["module"][name], value) for name, value in whole["module"].items())


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
