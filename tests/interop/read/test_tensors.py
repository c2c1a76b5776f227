"""Weights in files, by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from versatile_diffusion.interop.read.tensors import Tensors, open_tensors

STATE = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "a.ids": torch.arange(5),
    "b.weight": torch.linspace(-1, 1, 6).half(),
    "b.brain": torch.linspace(-1, 1, 6).bfloat16().reshape(2, 3),
    "b.none": torch.zeros(0, 3),
    "b.scalar": torch.tensor(2.5),
}
FILES = ("x.safetensors", "x.pth", "nested.ckpt", "old.bin")


def write(folder: Path, name: str) -> Path:
    file = folder / name
    match name:
        case "x.safetensors":
            save_file(STATE, file)
        case "nested.ckpt":
            torch.save({"epoch": 3, "state_dict": STATE, "ema": [torch.ones(2)]}, file)
        case _:
            torch.save(STATE, file, _use_new_zipfile_serialization=not name.startswith("old"))
    return file


@pytest.mark.parametrize("name", FILES)
def test_every_form_gives_the_same(tmp_path, name):
    file = write(tmp_path, name)
    tensors = open_tensors(file)
    assert set(tensors) == set(STATE)
    for key, value in STATE.items():
        entry = tensors.entries[key]
        assert (entry.shape, entry.dtype, entry.file) == (tuple(value.shape), value.dtype, file)
        assert torch.equal(tensors[key], value)
    assert (tensors.read("a.weight", torch.float16).dtype, tensors.read("a.ids", torch.float16).dtype) == (
        torch.float16,
        torch.int64,
    )


@pytest.mark.parametrize("name", FILES[:3])
def test_tensors_are_mapped_and_the_file_stays_as_it_is(tmp_path, name):
    file = write(tmp_path, name)
    tensors = open_tensors(file)
    mapped, entry = tensors["a.weight"], tensors.entries["a.weight"]
    with file.open("r+b") as opened:
        opened.seek(entry.offset)
        opened.write(np.float32(99).tobytes())
    assert mapped[0, 0] == 99  # its page was read now, not when the file was opened
    mapped[0, 1] = 77
    assert tensors["a.weight"][0, 1] == STATE["a.weight"][0, 1]


def test_tensors_that_share_or_skip_numbers(tmp_path):
    whole = torch.arange(20.0)
    state = {"whole": whole, "part": whole[3:7], "rows": whole.reshape(4, 5)[:, 1], "turned": whole.reshape(4, 5).T}
    torch.save(state, tmp_path / "x.pth")
    tensors = open_tensors(tmp_path / "x.pth")
    assert all(torch.equal(tensors[name], value) for name, value in state.items())


def test_names(tmp_path):
    tensors = open_tensors(write(tmp_path, "x.safetensors"))
    assert set(tensors.select("a.")) == {"weight", "ids"}
    assert set(tensors.select("a.", strip=False)) == {"a.weight", "a.ids"}
    renamed = tensors.renamed(lambda name: name.upper() if name.startswith("a") else None)
    assert set(renamed) == {"A.WEIGHT", "A.IDS"}
    assert renamed.entries["A.IDS"].name == "a.ids"
    assert torch.equal(renamed["A.IDS"], STATE["a.ids"])
    with pytest.raises(ValueError, match=r"'a.ids' and 'b.brain' are both 'same'|are both 'same'"):
        tensors.renamed(lambda name: "same")
    both = Tensors.merged([tensors.select("a."), tensors.select("b.").renamed(lambda name: f"b {name}")])
    assert len(both) == len(STATE)
    with pytest.raises(ValueError, match=r"both contain"):
        Tensors.merged([tensors, renamed, tensors])


def shards(folder: Path, **changes: str) -> Path:
    names = list(STATE)
    parts = {"one.safetensors": names[:3], "two.safetensors": names[3:]}
    for file, inside in parts.items():
        save_file({name: STATE[name] for name in inside}, folder / file)
    places = {name: file for file, inside in parts.items() for name in inside} | changes
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    return index


def test_shards_and_folders(tmp_path):
    index = shards(tmp_path)
    for path in (index, tmp_path):
        assert set(open_tensors(path)) == set(STATE)
    index.unlink()
    with pytest.raises(ValueError, match=r"several weight files; give one of: one.safetensors, two.safetensors"):
        open_tensors(tmp_path)
    shards(tmp_path, lost="two.safetensors")
    with pytest.raises(ValueError, match="its files lack lost"):
        open_tensors(index)
    shards(tmp_path, far="../../three.safetensors")
    with pytest.raises(
        ValueError, match=r"refers to '\.\./\.\./three\.safetensors'; only weight files in its own folder"
    ):
        open_tensors(index)
    index.write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="not a JSON object"):
        open_tensors(index)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_files_cut_short(tmp_path, name, share):
    file = write(tmp_path, name)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(ValueError, match=rf"{name} cannot be read as weights: "):
        open_tensors(file)


def test_a_cut_safetensors_file_names_what_is_lost(tmp_path):
    file = write(tmp_path, "x.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"cut short by 1 bytes; incomplete are \w"):
        open_tensors(file)
    file.write_bytes(file.read_bytes() + b"...")
    with pytest.raises(ValueError, match=r"2 bytes beyond its entries"):
        open_tensors(file)


def test_a_cut_zip_names_what_is_lost(tmp_path):
    state = {"first": torch.ones(50), "second": torch.ones(4000), "part": None, "third": torch.ones(9000)}
    state["part"] = state["second"][:7]
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    for kept, lost in ((4000, "second, part, third"), (30000, "third")):
        (tmp_path / "x.pth").write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=rf"cut short by more than [\d,]+ bytes; incomplete are {lost}$"):
            open_tensors(tmp_path / "x.pth")


def test_texts_in_place_of_weights_are_shown(tmp_path):
    (tmp_path / "x.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    with pytest.raises(
        ValueError, match=r"a text file that starts with .version https://git-lfs\.github\.com/spec/v1."
    ):
        open_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 cut short", b"\x02\0\0\0\0\0\0\0{}"])
def test_what_is_no_file_of_weights(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"x.*(cannot be read as weights|contains no state dict)"):
        open_tensors(tmp_path / name)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "a size that does not match its shape"),
        ({"x": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}}, "is damaged or unsupported"),
        ({"x": {"dtype": "F32", "shape": [1]}}, "is damaged"),
        ({"x": 3}, "is damaged"),
        ({"x": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 4]}}, "does not match its shape"),
        ({"x": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, "does not match its shape"),
        ({"x": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "does not match its shape"),
        ({"x": {"dtype": "F32", "shape": [2**70, 0], "data_offsets": [0, 0]}}, "does not match its shape"),
        ({"x": {"dtype": "F32", "shape": [1] * 99, "data_offsets": [0, 4]}}, "does not match its shape"),
        ({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "xy"}, "overlap, or leave gaps"),
        ({"__metadata__": {"a": 1}}, "__metadata__ is damaged"),
    ],
)
def test_damaged_headers(tmp_path, header, said):
    table = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(table).to_bytes(8, "little") + table + b"\0" * 4)
    with pytest.raises(ValueError, match=said):
        open_tensors(tmp_path / "x.safetensors")


def test_other_things(tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        open_tensors(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="contains no weights"):
        open_tensors(tmp_path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="contains no state dict"):
        open_tensors(tmp_path / "list.pth")
