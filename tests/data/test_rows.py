"""Rows read as they are drawn: the same as were written, or an error in words with the file's name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from versatile_diffusion.data.rows import SUMS, DamagedError, Rows, checksums, open_part

CPU = torch.device("cpu")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = torch.arange(60, dtype=torch.float16).reshape(5, 3, 4)
    save_file({"a": rows, SUMS + "a": checksums(list(rows)), "none": torch.empty(0, 2)}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_rows_are_those_that_were_written(file: Path) -> None:
    stored = open_part(file)
    assert torch.equal(stored["a"][3], torch.arange(36, 48).reshape(3, 4).half())
    assert torch.equal(stored["a"].whole()[3], stored["a"][3])
    assert (len(stored["a"]), stored["a"].shape, stored["none"].whole().shape) == (5, (5, 3, 4), (0, 2))


@pytest.mark.parametrize("left", [0, 7, 60, 200, -1])
def test_a_file_that_is_cut_is_named(file: Path, left: int) -> None:
    os.truncate(file, left if left >= 0 else file.stat().st_size - 1)
    with pytest.raises(DamagedError, match=r"a\.safetensors is damaged"):
        open_part(file)


def test_what_happens_to_a_file_while_it_is_drawn_from(file: Path) -> None:
    rows = Rows([(open_part(file)["a"], torch.arange(6))], CPU)
    draw, generator = torch.tensor([4, 1]), torch.Generator()
    assert rows.draw(draw, generator)[0, 2, 3] == 59
    data = bytearray(file.read_bytes())
    start = data.index(torch.arange(60, dtype=torch.float16).numpy().tobytes())
    data[-1] ^= 1
    data[start + 100] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged \(wrong checksum of row 4\); delete"):
        rows.draw(draw, generator)
    os.truncate(file, 100)
    with pytest.raises(ValueError, match=r"a\.safetensors is damaged \(truncated within row"):
        rows.draw(draw, generator)
    file.unlink()
    with pytest.raises(ValueError, match=r"No such file.*a\.safetensors"):
        rows.draw(draw, generator)


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8,
        {"a": {"dtype": "F16", "shape": [1 << 60], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F16", "shape": [-1, -4], "data_offsets": [0, 8]}},
        {"a": {"dtype": "X", "shape": [4], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F16", "shape": [4], "data_offsets": [-8, 0]}},
        {"a": {"dtype": "F16", "shape": "4", "data_offsets": [0]}},
        {"a": 5},
        [1],
        "[" * 10_000,
    ],
)
def test_headers_that_make_no_sense(tmp_path: Path, header: object) -> None:
    data = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    length = b"" if isinstance(header, bytes) else len(data).to_bytes(8, "little")
    (tmp_path / "a.safetensors").write_bytes(length + data + bytes(16))
    with pytest.raises(DamagedError, match=r"a\.safetensors is damaged"):
        open_part(tmp_path / "a.safetensors")
