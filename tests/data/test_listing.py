"""One walk for all: what systems leave behind is nobody's, links are followed once, and the rest is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from versatile_diffusion.data.listing import expand, in_words, inside, list_folder, printable, summarise


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def names(folder: Path) -> list[str]:
    listing = list_folder(folder)
    return [listing.name(file) for file in listing.files]


def test_what_systems_leave_behind_is_passed_over(tmp_path: Path) -> None:
    left = ["._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._a.png", ".ipynb_checkpoints/a.png"]
    left += ["@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "sub/._b.txt", "#recycle/old.png", "$RECYCLE.BIN/x.png", ".git/HEAD"]
    put(tmp_path, "a.png", "sub/b.png", *left)
    assert names(tmp_path) == ["a.png", "sub/b.png"]
    assert list_folder(tmp_path).left_out == {}


def test_links_are_followed_once_and_never_round(tmp_path: Path) -> None:
    far, here = put(tmp_path / "far", "x.png"), put(tmp_path / "here", "a.png", "real/b.png")
    for name, target in (("far", far), ("again", far), ("round", here), ("up", tmp_path), ("inner", here / "real")):
        (here / name).symlink_to(target)
    (here / "gone.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(here / "pipe.png")
    (here / "link.png").symlink_to(far / "x.png")
    assert names(here) == ["a.png", "again/x.png", "link.png", "real/b.png"]
    assert list_folder(here).left_out == {
        "broken links and special files": ["gone.png", "pipe.png"],
        "folders already visited": ["far", "inner", "round", "up"],
    }


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    put(tmp_path, ".a.png", ".b.png", ".hidden/c.png", ".d", "e.png")
    told = in_words(summarise(list_folder(tmp_path).left_out))
    assert told == "hidden 4 (.a.png, .b.png, .d, ...)"


def test_names_that_are_no_text_are_read_and_can_be_printed(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "w"):
        pass
    assert names(tmp_path) == [r"caf\xe9.png"]
    assert list_folder(tmp_path).files[0].exists()
    assert printable("a\ud800") == r"a\ud800"


def test_patterns(tmp_path: Path) -> None:
    put(tmp_path, "s-000.tar", "s-001.tar", "s-010.tar", "._s-002.tar", "b/t.tar", "literal-[1].tar")

    def found(pattern: str) -> tuple[list[str], list[str]]:
        files, missing = expand(tmp_path / pattern)
        return [file.name for file in files], [Path(name).name for name in missing]

    assert found("s-{000..002}.tar") == (["s-000.tar", "s-001.tar"], ["s-002.tar"])
    assert found("s-*.tar") == (["s-000.tar", "s-001.tar", "s-010.tar"], [])
    assert found("{s-000,b/t}.tar") == (["s-000.tar", "t.tar"], [])
    assert found("**/t.tar") == (["t.tar"], [])
    assert found("literal-[1].tar") == (["literal-[1].tar"], [])
    with pytest.raises(ValueError, match="braces"):
        expand(Path("s-{000..1.tar"))
    with pytest.raises(ValueError, match="more than 1,000,000 names"):
        expand(Path("s-{0..999999999}.tar"))


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.png", "a/../../b.png", "", "a\0b", "..\\a.png"])
def test_names_in_tables_stay_inside(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is outside"):
        inside(tmp_path, name)


def test_names_of_windows_are_understood(tmp_path: Path) -> None:
    put(tmp_path, "a/b.png")
    assert inside(tmp_path, "a\\b.png") == tmp_path / "a/b.png"
