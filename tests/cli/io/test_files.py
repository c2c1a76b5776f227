"""Numbered files, and never over one that is there, however many write at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from versatile_diffusion.cli.io.files import next_number, numbered_names, save_at_once, save_new, variants

WRITERS = 8


def test_numbers_go_on_after_the_largest(tmp_path: Path) -> None:
    assert next_number(tmp_path, "a") == 1
    for name in ("a-0002.png", "a-0007-replay.png", "b-0009.png", "a-notes.png", "a-b-0011.png"):
        (tmp_path / name).touch()
    assert (next_number(tmp_path, "a"), next_number(tmp_path, "b")) == (8, 10)


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    for expected in ("grid.png", "grid-2.png", "grid-3.png"):
        (file,) = save_new(variants(tmp_path / "grid.png"), lambda stream: stream.write(b"new"))
        assert file == tmp_path / expected


def test_files_that_belong_together_take_names_that_are_all_free(tmp_path: Path) -> None:
    (tmp_path / "x-0001.json").write_text("another's")
    names = numbered_names(tmp_path, "x", 1, ".txt", ".json")
    files = save_new(names, lambda stream: stream.write(b"text"), lambda stream: stream.write(b"{}"))
    assert [file.name for file in files] == ["x-0002.txt", "x-0002.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x-0001.json", "x-0002.json", "x-0002.txt"]
    assert (tmp_path / "x-0001.json").read_text() == "another's"


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    def fail(stream) -> None:
        stream.write(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        save_new(numbered_names(tmp_path, "x", 1, ".txt", ".json"), lambda stream: stream.write(b"text"), fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_an_error_not_a_search_without_end(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError, match="out"):
        save_new(variants(tmp_path / "out" / "grid.png"), lambda stream: None)


@pytest.mark.parametrize("suffixes", [(".png",), (".txt", ".json")])
def test_of_writers_who_start_from_one_number_each_keeps_its_own(tmp_path: Path, suffixes: tuple[str, ...]) -> None:
    start, files = threading.Barrier(WRITERS), {}

    def write(who: int) -> None:
        names = numbered_names(tmp_path, "x", 1, *suffixes)
        start.wait(600)
        mine = [save_new(names, *[lambda stream: stream.write(b"%d" % who)] * len(suffixes)) for _ in range(5)]
        files[who] = [file for group in mine for file in group]

    threads = [threading.Thread(target=write, args=(who,)) for who in range(WRITERS)]
    [thread.start() for thread in threads]
    [thread.join(600) for thread in threads]
    assert len({file for group in files.values() for file in group}) == WRITERS * 5 * len(suffixes)
    assert all(file.read_text() == str(who) for who, group in files.items() for file in group)
    assert len(list(tmp_path.iterdir())) == WRITERS * 5 * len(suffixes)


def test_of_several_writers_of_one_file_one_is_whole(tmp_path: Path) -> None:
    start, errors = threading.Barrier(WRITERS), []

    def write(who: int) -> None:
        start.wait(600)
        try:
            for _ in range(20):
                save_at_once(tmp_path / "a.txt", lambda stream: stream.write(b"%d" % who * 10_000))
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(WRITERS)]
    [thread.start() for thread in threads]
    [thread.join(600) for thread in threads]
    assert errors == []
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert len(set((tmp_path / "a.txt").read_text())) == 1
