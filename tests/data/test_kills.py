"""Commands of data sets that are killed at any of their files: nothing is lost, and they end as if nobody had touched
them."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import OPERATIONS, forked, killed_at
from shards import write_shards
from tiny import build_tiny_pipeline

from versatile_diffusion.data.encoded_sets import EncodeShard, encode_shards
from versatile_diffusion.data.sources import open_source

KILLS = 25
JOURNAL = "at."
pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has loaded torch"),
]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def again_and_again(out: Path, work: Callable[[Path], Any]) -> None:
    """Killed at random files until it ends by itself."""
    draw = random.Random(0)
    codes = []
    while len(codes) < KILLS or codes[-1]:
        most = 60 if len(codes) < KILLS else 10**9
        operation = draw.randint(1, most)
        codes.append(forked(lambda n=operation: killed_at(n, out, lambda: work(out), but=JOURNAL)))
        assert codes[-1] in (0, -signal.SIGKILL)
    assert codes.count(-signal.SIGKILL) > KILLS // 2 or 0 in codes[:KILLS]


def test_an_encoding_that_is_killed_again_and_again(tmp_path: Path) -> None:
    """At every file but the journal of samples, which is written so often that the same sample would be struck again
    and again, as if it ended the process itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    shards = write_shards(tmp_path / "shards", 3, 8, bad=9)
    bank = build_tiny_pipeline().bank

    def work(out: Path) -> None:
        encode_shards(EncodeShard(open_source(shards), lambda: bank, out, {"part": 3}, threads=1))

    assert forked(lambda: work(tmp_path / "whole")) == 0
    again_and_again(tmp_path / "broken", lambda out: work(out))
    torch.set_num_threads(before)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_a_selection_that_is_killed_again_and_again(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    import laion

    from versatile_diffusion.data.rules import Selection
    from versatile_diffusion.data.select import SelectPlan, select, tables

    laion.write(tmp_path / "laion", 4, 300)

    def work(out: Path) -> None:
        select(tables([str(tmp_path / "laion")]), SelectPlan(Selection(), out))

    work(tmp_path / "whole")  # below, polars' threads do not outlive a fork, so each process is a fresh one
    spawned_until_done(tmp_path / "broken", tmp_path / "laion")
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def spawned_until_done(out: Path, laion: Path) -> None:
    import subprocess

    here = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]
    code = (
        "import os, signal, sys\n"
        "from versatile_diffusion.data.rules import Selection\n"
        "from versatile_diffusion.data.select import SelectPlan, select, tables\n"
        "laion, out, left = sys.argv[1], sys.argv[2], [int(sys.argv[3])]\n"
        "def count(event, words):\n"
        f"    if event in {OPERATIONS} and any(isinstance(w, (str, os.PathLike)) and out in str(w) for w in words):\n"
        "        left[0] -= 1\n"
        "        left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(count)\n"
        "from pathlib import Path\n"
        "select(tables([laion]), SelectPlan(Selection(), Path(out)))\n"
    )
    draw, codes = random.Random(1), []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(here)}
    while not codes or codes[-1]:
        operation = draw.randint(1, 20) if len(codes) < 8 else 10**9
        done = subprocess.run([sys.executable, "-c", code, str(laion), str(out), str(operation)], env=environment)
        codes.append(done.returncode)
        assert codes[-1] in (0, -signal.SIGKILL)
    assert codes.count(-signal.SIGKILL) >= 1
