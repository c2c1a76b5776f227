"""Each thing that people get wrong has one line for an answer: what was given, and what is meant or allowed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Command
from tests.cli.mistakes import MISTAKES
from versatile_diffusion.cli.io.model import find_device


@pytest.fixture
def files(tmp_path: Path, picture: Image.Image, model: str) -> Path:
    """What lies in the folder of somebody who gets things wrong."""
    picture.save(tmp_path / "whale.png")
    for folder in ("pictures", "emptydir", "my-model"):
        (tmp_path / folder).mkdir()
    picture.save(tmp_path / "pictures" / "one.png")
    picture.save(tmp_path / "pictures" / "two.png")
    (tmp_path / "pictures" / "one.txt").write_text("a whale\n")
    (tmp_path / "notes.txt").write_text("a red apple\na car\n")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "bad.txt").write_bytes(b"\x81\x8d\xff\xfe\x00")
    (tmp_path / "broken.png").write_text("no picture")
    (tmp_path / "my-model" / "model_index.json").write_text("{}")
    return tmp_path


def test_there_are_enough() -> None:
    assert len({line for line, *_ in MISTAKES}) == len(MISTAKES) >= 120


@pytest.mark.parametrize(("line", "code", "words"), MISTAKES, ids=[line for line, *_ in MISTAKES])
def test_the_remark_is_right(versatile: Command, files: Path, line: str, code: int, words: tuple[str, ...]) -> None:
    if line.startswith("ui"):
        pytest.importorskip("gradio")
    answer = versatile(*shlex.split(line))
    assert answer.code == code, answer
    missing = [word for word in words if word not in answer.err]
    assert not missing, answer.err
    if code:
        assert answer.out == ""
        assert answer.err.splitlines()[-1].startswith("error: ")
        assert len(answer.err) < 600
    else:  # the remark comes before the file
        assert answer.err.index(words[0]) < answer.err.index("reproduce with")


@pytest.mark.parametrize("wrong", [("--model", "nothere"), ("--style", "anime"), ("--sampler", "euler")], ids=" ".join)
def test_wrong_names_cost_no_import_of_torch(wrong: tuple[str, str], tmp_path: Path) -> None:
    code = (
        "import sys; from versatile_diffusion.cli import main;"
        f"code = main(['text-to-image', 'a', *{wrong!r}]);"
        "print(code, {'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "2 set()\n"
    assert wrong[1] in done.stderr


def test_devices_that_torch_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("versatile_diffusion.cli.io.model.devices", lambda: {"cpu": "2 threads"})
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr("torch.version.hip", None)
    monkeypatch.setattr("torch.backends.mps.is_built", lambda: False)
    for name, words in (("cuda", "this build of torch has no CUDA"), ("mps", "has no MPS"), ("gpu", "no CUDA")):
        with pytest.raises(ValueError, match=words):
            find_device(name)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    with pytest.raises(ValueError, match="finds no CUDA device"):
        find_device("cuda:1")
    monkeypatch.setattr("versatile_diffusion.cli.io.model.devices", lambda: {"cuda:0": "a GPU", "cpu": "2 threads"})
    assert find_device("gpu") == find_device("cuda") == find_device(None) == "cuda:0"
    with pytest.raises(ValueError, match=r"unknown device 'cuda:3'"):
        find_device("cuda:3")


def test_other_names_of_options_are_the_same_options(versatile: Command, model: str) -> None:
    ours = ("--count", 2, "--steps", 2, "--guidance-scale", 3, "--scheduler", "unipc")
    theirs = ("-n", 2, "--num-inference-steps", 2, "--cfg", 3, "--sampler", "unipc")
    for place, options in (("ours", ours), ("theirs", theirs)):
        answer = versatile("text-to-image", "a cat", "--model", model, "--seed", 0, "--out", place, *options)
        assert answer.code == 0, answer.err
    for number in (1, 2):
        left, right = (Path(place, f"text-to-image-{number:04d}.png").read_bytes() for place in ("ours", "theirs"))
        assert left == right


def test_captions_are_written_beside_images(versatile: Command, model: str, picture: Image.Image) -> None:
    Path("photos").mkdir()
    for name in ("one", "two"):
        picture.save(f"photos/{name}.png")
    Path("photos/two.txt").write_text("mine\n")
    picture.save("photos/grid.png")  # of the user: no record of ours is in it
    made = versatile("text-to-image", "a cat", "--count", 2, "--steps", 1, "--model", model, "--out", "photos/made")
    assert made.code == 0
    call = ("image-to-text", "photos", "--captions", "--model", model, "--steps", 1, "--seed", 0)
    answer = versatile(*call)
    assert answer.code == 0
    assert "two.txt exists and is kept" in answer.err
    assert "sheets and replays" in answer.err
    assert Path("photos/two.txt").read_text() == "mine\n"
    told = dict(line.split("\t") for line in answer.out.splitlines())
    names = ["grid", "made/text-to-image-0001", "made/text-to-image-0002", "one", "two"]
    assert sorted(told) == [f"photos/{name}.png" for name in names]
    assert Path("photos/one.txt").read_text("utf-8").rstrip("\n") == told["photos/one.png"]
    assert versatile(*call, "--overwrite").code == 0
    assert Path("photos/two.txt").read_text("utf-8") != "mine\n"
    assert versatile("text-to-image", "a", "--captions").code == 2
