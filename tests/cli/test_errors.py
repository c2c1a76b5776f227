"""Bad input: one line that says what is allowed, exit code 2, no traceback."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.cli.conftest import Command


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims this size and holds nothing."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(b"")}
    body = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.fixture
def bad(apple: Path, tmp_path: Path) -> Path:
    """A folder of files that are no good pictures."""
    (tmp_path / "words.png").write_text("no picture", encoding="utf-8")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(apple.read_bytes()[:-600])
    (tmp_path / "huge.png").write_bytes(png_header(100_000, 100_000))
    (tmp_path / "large.png").write_bytes(png_header(9_000, 9_000))
    return tmp_path


def is_one_line(answer: object, *words: str) -> bool:
    """Whether the answer is an error as promised; every word must stand in it."""
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert len(answer.err) < 500
    missing = [word for word in words if word not in answer.err]
    assert not missing, answer.err
    return True


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("missing.png", ("missing.png", "no such")),
        ("words.png", ("words.png", "not an image")),
        ("empty.png", ("empty.png", "not an image")),
        ("cut.png", ("cut.png",)),
        ("huge.png", ("huge.png", "too large", "64,000,000")),
        ("large.png", ("large.png", "too large", "64,000,000")),
    ],
)
@pytest.mark.parametrize("command", ["image-variation", "image-to-text", "replay"])
def test_bad_pictures(versatile: Command, bad: Path, command: str, file: str, words: tuple[str, ...]) -> None:
    assert is_one_line(versatile(command, bad / file), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--steps", 0), ("--steps", "1")),
        (("--steps", "many"), ("--steps", "it must be a whole number")),
        (("--steps", 1001), ("--steps", "1000")),
        (("--count", 0), ("--count", "1")),
        (("--seed", -1), ("--seed", "0")),
        (("--guidance-scale", -1), ("guidance_scale", "from 0")),
        (("--scheduler", "euler"), ("euler", "ddim", "dpm++", "unipc")),
        (("--style", "cubist"), ("cubist", "noto", "fluent")),
        (("--out", "apple.png"), ("--out", "folder")),
        (("--out", "new.png"), ("--out", "folder")),
        (("--out", "apple.png/new"), ("apple.png is a file", "folder")),
        (("--height", 100_000), ("height is 100000", "to 4096")),
        (("--model", "nothing"), ("nothing", "folder", "hub id")),
        (("--model", "."), ("no checkpoint of a diffuser", "our layout")),
        (("--colour", "red"), ("--colour", "--help")),
        (("--stile", "noto"), ("mean '--style'?", "versatile text-to-image --help")),
        (("--style", "Notto"), ("mean 'noto'?",)),
        (("--scheduler", "unpic"), ("mean 'unipc'?",)),
        (("--model", "emojis"), ("mean 'emoji'?",)),
        (("--device", "abacus"), ("abacus", "cpu")),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_bad_options(
    versatile: Command, model: str, apple: Path, options: tuple[object, ...], words: tuple[str, ...]
) -> None:
    assert is_one_line(versatile("text-to-image", "a", "--model", model, *options), *words)
    assert not Path("out").exists()


def test_a_prompt_that_is_too_long(versatile: Command, model: str) -> None:
    answer = versatile("text-to-image", "apple " * 400, "--model", model, "--steps", 1)
    assert is_one_line(answer, "tokens", "at most 24")


def test_damaged_weights(versatile: Command, model: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    weights = next((copy / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    assert is_one_line(versatile("text-to-image", "a", "--model", copy), "damaged")


def test_a_command_that_is_none(versatile: Command) -> None:
    assert is_one_line(versatile("text-to-music", "a"), "text-to-music", "--help")
    assert is_one_line(versatile("text-to-imag", "a"), "mean 'text-to-image'?")
    assert is_one_line(versatile("data", "emojy"), "mean 'emoji'?", "versatile data --help")
    assert is_one_line(versatile("text-to-image"), "TEXT", "--help")


def test_a_verb_with_others_below_it_shows_them(versatile: Command) -> None:
    answer = versatile("data")
    assert (answer.code, answer.err) == (0, "")
    assert "emoji" in answer.out


def test_a_folder_that_cannot_be_written_to(versatile: Command, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda place, mode: False)
    assert is_one_line(versatile("text-to-image", "a", "--model", model, "--out", "new/one"), "is not writable")


def test_errors_of_the_system_are_told_in_words(versatile: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device", "out/picture.png")

    monkeypatch.setattr("versatile_diffusion.cli.verbs.doctor.software", full)
    assert is_one_line(versatile("doctor"), "out/picture.png: No space left on device")


def test_an_interruption_is_told(versatile: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("versatile_diffusion.cli.verbs.doctor.software", interrupted)
    answer = versatile("doctor")
    assert (answer.code, answer.out, answer.err) == (130, "", "interrupted\n")


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["at the end", "at the first word"])
def test_a_reader_that_stops_is_no_error(unbuffered: str) -> None:
    """As in `versatile --help | head -1`, where the reader is certain to have gone before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "versatile_diffusion", "--help"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_training_without_data(versatile: Command) -> None:
    assert is_one_line(versatile("train", "diffuser", "--data", "nowhere", "--out", "run"), "nowhere", "data emoji")


def test_training_of_nothing_known(versatile: Command, tmp_path: Path) -> None:
    answer = versatile("train", "optimism", "--data", tmp_path, "--out", "run")
    assert is_one_line(answer, "optimism", "image-codec", "context-encoders")
    assert is_one_line(versatile("train", "diffuser", "--data", tmp_path, "--out", "run", "--minutes", 0), "--minutes")


def test_the_traceback_is_there_on_request(versatile: Command, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setenv("VERSATILE_DEBUG", "1")
    with pytest.raises(ValueError, match="euler"):
        versatile("text-to-image", "a", "--model", model, "--scheduler", "euler")
