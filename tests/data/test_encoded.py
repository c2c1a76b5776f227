"""Latents and tokens computed once: the same numbers as from the encoders, written part by part, and gone on with."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from tiny import build_tiny_pipeline

from versatile_diffusion.data import encoded as module
from versatile_diffusion.data.encoded import LATENTS, TOKENS, EncodedSet, encode_set, rank
from versatile_diffusion.data.sources import open_source

COLOURS = ("red", "green", "blue", "orange", "purple", "black", "white")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bank():
    return build_tiny_pipeline().bank


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (16, 16), colour).save(tmp_path / "mine" / f"{number}.png")
        captions = [f"a {colour} house", f"{colour} house"] if number == 3 else [f"a {colour} dog"]
        (tmp_path / "mine" / f"{number}.txt").write_text("\n".join(captions))
    (tmp_path / "mine" / "9.png").write_bytes(b"broken")
    (tmp_path / "mine" / "9.txt").write_text("nothing")
    return tmp_path / "mine"


def test_what_is_drawn_is_what_the_encoders_give(bank, folder: Path, tmp_path: Path) -> None:
    made = encode_set(open_source(folder), bank, tmp_path / "out", part=3, batch=2)
    assert [part["file"] for part in made.index["parts"]] == [f"part-{n:05d}.safetensors" for n in range(3)]
    assert made.keys == [f"{number}.png" for number in range(7)]
    assert made.index["report"]["bad"] == {"bad pictures": 1}
    generator = torch.Generator().manual_seed(0)
    items = torch.tensor([5, 0, 6, 2])
    pictures = [Image.new("RGB", (16, 16), COLOURS[item]) for item in items]
    captions = [f"a {COLOURS[item]} dog" for item in items]
    for kind, parts in ((LATENTS, bank.codecs), (TOKENS, bank.encoders)):
        for modality, values in (("image", pictures), ("text", captions)):
            rows = made.rows(kind, modality, CPU).draw(items, generator)
            with torch.no_grad():
                assert torch.allclose(rows, parts[modality].encode(values), atol=5e-3), (kind, modality)


def test_one_of_several_captions_is_drawn(bank, folder: Path, tmp_path: Path) -> None:
    rows = encode_set(open_source(folder), bank, tmp_path / "out").rows(TOKENS, "text", CPU)
    drawn = rows.draw(torch.full((32,), 3), torch.Generator().manual_seed(0))
    with torch.no_grad():
        allowed = bank.encoders["text"].encode(["a orange house", "orange house"])
    distance = torch.cdist(drawn.flatten(1), allowed.flatten(1))
    assert float(distance.min(1).values.max()) < 0.1
    assert len(set(distance.argmin(1).tolist())) == 2


def test_an_interrupted_encoding_goes_on_to_the_same_files(bank, folder: Path, tmp_path: Path, monkeypatch) -> None:
    whole = encode_set(open_source(folder), bank, tmp_path / "whole", part=3)
    written = []

    def stop(items: int) -> None:
        written.append(items)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_set(open_source(folder), bank, tmp_path / "broken", part=3, progress=stop)
    with pytest.raises(ValueError, match=r"not complete \(3 items\)"):
        EncodedSet.open(tmp_path / "broken")
    again = encode_set(open_source(folder), bank, tmp_path / "broken", part=3, progress=written.append)
    assert written == [3, 6, 7]
    assert again.index == whole.index
    for part in whole.index["parts"]:
        assert (again.folder / part["file"]).read_bytes() == (whole.folder / part["file"]).read_bytes()
    monkeypatch.setattr(module, "_tensors", None)  # encoding again would fail now
    assert len(encode_set(open_source(folder), bank, tmp_path / "broken", part=3)) == 7


@pytest.mark.parametrize("part", [2, 4096])
def test_some_items_are_kept_as_they_were(bank, folder: Path, tmp_path: Path, part: int) -> None:
    """The first by a hash of their names, wherever they stand."""
    made = encode_set(open_source(folder), bank, tmp_path / "out", part=part, looks=4)
    first = sorted(made.keys, key=rank)
    numbers = [int(key.removesuffix(".png")) for key in first[:3]]
    looks = made.looks(first[:3])
    words = {3: ["a orange house", "orange house"]}
    assert [look.values["text"] for look in looks] == [words.get(n, [f"a {COLOURS[n]} dog"]) for n in numbers]
    expected = [Image.new("RGB", (1, 1), COLOURS[n]).getpixel((0, 0)) for n in numbers]
    assert [look.values["image"][0].getpixel((0, 0)) for look in looks] == expected
    assert len(made.looks(made.keys)) == 4
    for number, path in enumerate(sorted((made.folder / "looks").glob("*.png"))):  # as earlier versions named them
        path.with_suffix(".txt").rename(path.with_name(f"{number:02d}.txt"))
        path.rename(path.with_name(f"{number:02d}.png"))
    assert len(made.looks(first[:2])) == 4
    read = [item for item, _ in open_source(folder).read()]
    module._write_looks(read[:3], 4, made.folder / "looks")  # goes on with this version
    there = {path.name for path in (made.folder / "looks").iterdir()}
    assert there == {f"{rank(item.key)}.{kind}" for item in read[:3] for kind in ("png", "txt")}


def test_a_full_disk_is_told_with_what_stays(bank, folder: Path, tmp_path: Path, monkeypatch) -> None:
    def full(tensors, path: Path) -> None:
        path.write_bytes(b"half")
        if "00001" in path.name:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save(tensors, path)

    save = module.save_file
    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match=r"out could not be .*No space left.*; the first 3 items stay; make room"):
        encode_set(open_source(folder), bank, tmp_path / "out", part=3)
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    assert len(encode_set(open_source(folder), bank, tmp_path / "out", part=3)) == 7


@pytest.mark.parametrize(("stays", "full"), [(0, "mkdir"), (7, "finished")])
def test_a_full_disk_is_told_from_the_folder_to_the_end(
    bank, folder: Path, tmp_path: Path, monkeypatch, stays: int, full: str
) -> None:
    def write(out: Path, index: dict[str, object]) -> None:
        if index[full]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def mkdir(path: Path, **_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = open_source(folder)
    if full == "mkdir":
        monkeypatch.setattr(Path, "mkdir", mkdir)
    else:
        monkeypatch.setattr(module, "_write_index", write)
    with pytest.raises(OSError, match=rf"out could not be .*; the first {stays} items stay; make room"):
        encode_set(source, bank, tmp_path / "out", part=3)


def test_another_model_and_another_source_are_refused(bank, folder: Path, tmp_path: Path) -> None:
    made = encode_set(open_source(folder), bank, tmp_path / "out")
    made.check(bank)
    other = build_tiny_pipeline().bank
    with torch.no_grad():
        next(other.encoders["image"].parameters()).add_(1)
    with pytest.raises(ValueError, match=r"another model \(tokens\.image\)"):
        made.check(other)
    with pytest.raises(ValueError, match="with another model;"):
        encode_set(open_source(folder), other, tmp_path / "out")
    with pytest.raises(ValueError, match="another source"):
        encode_set(open_source(made.folder / "looks"), bank, tmp_path / "out")
    (folder / "new.png").write_bytes(next(folder.glob("*.png")).read_bytes())
    with pytest.raises(ValueError, match="with other files"):
        encode_set(open_source(folder), bank, tmp_path / "out")


def test_nothing_there(bank, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="versatile data encode"):
        EncodedSet.open(folder)
    for path in folder.glob("*.txt"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no good picture with a caption: 0 read, 8 without a caption"):
        encode_set(open_source(folder), bank, tmp_path / "out")
    made = EncodedSet(tmp_path, {"made_by": {"latents.image": "x"}, "parts": []})
    with pytest.raises(ValueError, match=r"no tokens\.audio; it has latents\.image"):
        made.rows(TOKENS, "audio", CPU)
