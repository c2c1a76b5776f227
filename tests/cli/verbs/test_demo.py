"""The demo runs every flow, and its page shows files that are there."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.cli.conftest import Command


@pytest.mark.parametrize("own_pictures", [True, False])
def test_demo(versatile: Command, model: str, apple: Path, tmp_path: Path, own_pictures: bool) -> None:
    given = ("--images", apple.parent) if own_pictures else ()
    answer = versatile("demo", "--model", model, "--steps", 1, "--out", "shown", *given)
    assert answer.code == 0
    titles = ("Text to image", "Image variations", "Image captions", "Text variations")
    assert [title for title in titles if title not in answer.out] == []
    page = (tmp_path / "shown" / "index.html").read_text(encoding="utf-8")
    files = [unquote(name) for name in re.findall(r'src="([^"]+)"', page)]
    assert len(files) > 10
    assert [name for name in files if not (tmp_path / "shown" / name).is_file()] == []
    assert ("input-apple.png" in files) is own_pictures


def test_pictures_of_the_demo_can_be_replayed(versatile: Command, model: str) -> None:
    versatile("demo", "--model", model, "--steps", 1, "--out", "shown")
    assert versatile("replay", "shown/a-cat-face-noto.png").code == 0


def test_a_folder_without_pictures_is_an_error(versatile: Command, model: str, tmp_path: Path) -> None:
    answer = versatile("demo", "--model", model, "--images", tmp_path)
    assert (answer.code, ".png" in answer.err) == (2, True)
