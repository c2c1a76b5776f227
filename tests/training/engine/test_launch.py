"""A launcher that is killed takes its processes along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes have no parents that can be asked for here")

CHILD = """
import os, sys, time
from versatile_diffusion.training.engine.launch import end_with_launcher
sys.platform = {platform!r}
end_with_launcher()
open(os.path.join({folder!r}, str(os.getpid())), "x").close()
while True:
    time.sleep(1)
"""
LAUNCH = """
import sys
from versatile_diffusion.training.engine.launch import launch
launch([sys.executable, "-c", open(sys.argv[1]).read()], 2)
"""
PLAIN = """
import subprocess, sys
for _ in range(2):
    process = subprocess.Popen([sys.executable, "-c", open(sys.argv[1]).read()])
process.wait()
"""


def wait_for(what, seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not what():
        time.sleep(0.1)
    return what()


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # one that nobody has waited for yet


def started(tmp_path: Path, launcher: list[str], child: str, environment: dict[str, str]) -> tuple[int, list[int]]:
    """The launcher's number, and its two processes'."""
    (tmp_path / "child.py").write_text(child)
    there = tmp_path / "there"
    there.mkdir()
    clean = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "VERSATILE_LAUNCHER")} | environment
    process = subprocess.Popen([sys.executable, *launcher], env=clean, stderr=subprocess.DEVNULL)
    assert wait_for(lambda: len(list(there.iterdir())) == 2)
    return process.pid, [int(path.name) for path in there.iterdir()]


def end_all(launcher: int, processes: list[int]) -> bool:
    """Kill what started the processes; whether they end, too. None of them is left in any case."""
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    ended = wait_for(lambda: not any(map(alive, processes)), 60)
    for process in processes if not ended else []:
        os.kill(process, signal.SIGKILL)
    return ended


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc who is alive")
@pytest.mark.parametrize(("started_by", "platform"), [("launch", "linux"), ("launch", "darwin"), ("torchrun", "linux")])
def test_they_end_with_it(tmp_path: Path, started_by: str, platform: str) -> None:
    """By the kernel on Linux; elsewhere they look who their parent is."""
    child = CHILD.format(platform=platform, folder=str(tmp_path / "there"))
    environment = {} if started_by == "launch" else {"TORCHELASTIC_RUN_ID": "none"}
    code = LAUNCH if started_by == "launch" else PLAIN
    launcher, processes = started(tmp_path, ["-c", code, str(tmp_path / "child.py")], child, environment)
    assert all(map(alive, processes))
    assert end_all(launcher, processes)


POOL = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from versatile_diffusion.data.workers import end_with

def work(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(2)

if __name__ == "__main__":
    context = get_context(sys.argv[1])
    with ProcessPoolExecutor(2, context, initializer=end_with) as pool:
        list(pool.map(work, [sys.argv[2]] * 1000))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc who is alive")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_so_do_the_workers_of_a_pool(tmp_path: Path, method: str) -> None:
    words = [str(tmp_path / "child.py"), method, str(tmp_path / "there")]
    launcher, processes = started(tmp_path, words, POOL, {})
    assert end_all(launcher, processes)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc who is alive")
def test_what_a_scheduler_started_outlives_what_started_it(tmp_path: Path) -> None:
    child = CHILD.format(platform=sys.platform, folder=str(tmp_path / "there"))
    launcher, processes = started(tmp_path, ["-c", PLAIN, str(tmp_path / "child.py")], child, {"WORLD_SIZE": "2"})
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    time.sleep(2)
    try:
        assert all(map(alive, processes))
    finally:
        for process in processes:
            os.kill(process, signal.SIGKILL)


def test_one_whose_launcher_is_gone_already_ends_at_once() -> None:
    code = "from versatile_diffusion.training.engine.launch import end_with_launcher as end; end(); print('on')"
    for launcher, output in ((os.getpid(), "on\n"), (2**22 + 1, "")):
        environment = {**os.environ, "VERSATILE_LAUNCHER": str(launcher)}
        ended = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert (ended.stdout, ended.returncode) == (output, 0 if output else 143)


@pytest.mark.campaign
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc who is alive")
def test_those_of_torchrun_end_with_it(tmp_path: Path) -> None:
    child = (
        "import os, time, torch\n"
        "from versatile_diffusion.training.engine.distributed import joined\n"
        "with joined(torch.device('cpu')):\n"
        f"    open(os.path.join({str(tmp_path / 'there')!r}, str(os.getpid())), 'x').close()\n"
        "    time.sleep(600)\n"
    )
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "child.py")]
    launcher, processes = started(tmp_path, words, child, {"OMP_NUM_THREADS": "1"})
    assert end_all(launcher, processes)
