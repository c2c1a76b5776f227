"""`scripts/train_speech.sh`: its order, its limits, that it goes on where it stopped, and (as a campaign) all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.recipes.speech.card import PACKAGE

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "train_speech.sh"
RUNS = ("audio-codec", "audio-context", "speech-judge", "diffuser-words", "diffuser-means", "diffuser-speech")

RECORDER = """#!/bin/sh
# Notes how it is called; a run is finished in its second call.
echo "$@" >> {log}
while [ $# -gt 0 ]; do
    [ "$1" = --out ] && out=$2
    shift
done
[ -n "$out" ] || exit 0
mkdir -p "$out"
case $out in
*figures/*) touch "$out/figures.md" ;;
*/sets/speech) touch "$out/speech.json" ;;
*/sets/emoji) touch "$out/manifest.json" ;;
esac
[ -e "$out/begun" ] && mkdir -p "$out/export"
touch "$out/begun"
"""


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Programs in place of `versatile` and Python that note how they are called; and espeak-ng."""
    for name in ("versatile", "python", "espeak-ng"):
        (tmp_path / name).write_text(RECORDER.format(log=tmp_path / "called"))
        (tmp_path / name).chmod(0o755)
    return tmp_path


def call(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    places = {"VERSATILE": str(folder / "versatile"), "PYTHON": str(folder / "python"), "RUNS": str(folder / "runs")}
    places |= {"DATA": str(folder / "sets" / "speech"), "OUT": str(folder / "emoji-speech")}
    places |= {"PARTS": "", "JUDGE": ""}
    path = f"{folder}:{os.environ['PATH']}"
    given = {**os.environ, "PATH": path, **places, **more}
    return subprocess.run(["bash", str(SCRIPT)], env=given, capture_output=True, text=True)


def test_every_call_goes_on_where_the_last_one_stopped(recorded: Path) -> None:
    limits = {"MINUTES": "9", "MINUTES_JUDGE": "3", "CLOCK_DIFFUSER": "240", "CLOCK_CODEC": "14"}
    for name in RUNS:
        done = call(recorded, **limits)
        assert (done.returncode, done.stdout) == (0, f"{name} goes on with the next call\n"), done.stderr
    done = call(recorded, **limits)
    assert done.returncode == 0, done.stderr
    assert "can be installed" in done.stdout
    lines = (recorded / "called").read_text().splitlines()
    verbs = [line.split(" --")[0] for line in lines]
    assert [line for line in verbs if line.startswith("data")] == ["data emoji", "data speech"]
    twice = [line for line in verbs if line.startswith("train ")]
    assert twice == [
        name
        for part in ("audio-codec", "audio-context", "speech-judge", *["diffuser"] * 3)
        for name in [f"train {part}"] * 2
    ]
    assert sum("speech.figures" in line for line in lines) == 1
    assert f"--run {recorded}/runs/diffuser-speech --data" in next(line for line in lines if "speech.ship" in line)
    of = {name: [line for line in lines if f"--out {recorded}/runs/{name} " in f"{line} "] for name in RUNS}
    assert all("--minutes 9" in line for name in RUNS if name != "speech-judge" for line in of[name])
    assert all("--minutes 3" in line for line in of["speech-judge"])
    assert ["--by-clock 240" in line for line in of["diffuser-speech"]] == [True, True]
    assert ["--by-clock 14" in line for line in of["audio-codec"]] == [True, True]
    assert not any("--by-clock" in line for line in of["diffuser-words"])


def test_parts_that_are_trained_already_are_not_trained_again(recorded: Path) -> None:
    for part in ("bank/codec-audio", "bank/encoder-audio", "judge"):
        (recorded / part).mkdir(parents=True)
    given = {"PARTS": str(recorded / "bank"), "JUDGE": str(recorded / "judge")}
    for name in RUNS[-3:]:
        assert call(recorded, **given).stdout == f"{name} goes on with the next call\n"
    assert call(recorded, **given).returncode == 0
    lines = (recorded / "called").read_text().splitlines()
    assert {line.split()[1] for line in lines if line.startswith("train ")} == {"diffuser"}
    assert all(f"--judge {recorded}/judge " in line for line in lines if "speech.figures" in line)


def test_without_the_program_that_speaks_nothing_is_begun(recorded: Path) -> None:
    (recorded / "espeak-ng").unlink()
    bare = recorded / "bin"
    bare.mkdir()
    for name in ("bash", "dirname", "mkdir", "sh"):
        found = next(place for place in map(Path, ("/bin", "/usr/bin")) if (place / name).exists())
        (bare / name).symlink_to(found / name)
    done = call(recorded, PATH=str(bare))
    assert done.returncode == 2
    assert "espeak-ng, which speaks the words, is not installed" in done.stderr
    assert not (recorded / "called").exists()


@pytest.mark.campaign
def test_all_of_it_on_a_small_set(sets: Path, tmp_path: Path) -> None:
    """Two steps of every part, figures, and a distribution that can be loaded; a second call only ships."""
    versatile = tmp_path / "versatile"
    versatile.write_text(f'#!/bin/sh\nexec {sys.executable} -m versatile_diffusion "$@"\n')
    versatile.chmod(0o755)
    given = {
        "VERSATILE": str(versatile),
        "PYTHON": sys.executable,
        "STEPS": "2",
        "EMOJI": str(sets / "emoji"),
        "DATA": str(sets / "speech"),
    }
    for _ in range(2):
        done = call(tmp_path, **given)
        assert done.returncode == 0, done.stdout + done.stderr
    pipe = VersatileDiffusionPipeline.from_pretrained(tmp_path / "emoji-speech" / "src" / PACKAGE / "weights")
    assert len(pipe.tasks()) == 10  # nine flows, and dual-guided
    assert "## Evaluation" in (tmp_path / "emoji-speech" / "README.md").read_text()
