"""Numbers and free names."""

from __future__ import annotations

from pathlib import Path

from versatile_diffusion.cli.files import free_path, next_number


def test_numbers_go_on_after_the_largest(tmp_path: Path) -> None:
    assert next_number(tmp_path, "a") == 1
    for name in ("a-0002.png", "a-0007-replay.png", "b-0009.png", "a-notes.png", "a-b-0011.png"):
        (tmp_path / name).touch()
    assert (next_number(tmp_path, "a"), next_number(tmp_path, "b")) == (8, 10)


def test_a_free_name(tmp_path: Path) -> None:
    file = tmp_path / "grid.png"
    assert free_path(file) == file
    file.touch()
    (tmp_path / "grid-2.png").touch()
    assert free_path(file) == tmp_path / "grid-3.png"
