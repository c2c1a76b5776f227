"""Latents and tokens computed once: the same numbers as from the encoders, written part by part, and gone on with."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from tiny import build_tiny_pipeline

from versatile_diffusion.data import encoded as module
from versatile_diffusion.data.encoded import LATENTS, TOKENS, EncodedSet, encode_set, rank
from versatile_diffusion.data.encoder import seed_of
from versatile_diffusion.data.looks import Looks
from versatile_diffusion.data.report import Report
from versatile_diffusion.data.sources import open_source
from versatile_diffusion.modalities.image.crops import crops

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
    assert made.index["report"]["bad"] == {"bad images": 1}
    generator = torch.Generator().manual_seed(0)
    items = torch.tensor([5, 0, 6, 2])
    pictures = [Image.new("RGB", (16, 16), COLOURS[item]) for item in items]
    captions = [f"a {COLOURS[item]} dog" for item in items]
    for kind, parts in ((LATENTS, bank.codecs), (TOKENS, bank.encoders)):
        for modality, values in (("image", pictures), ("text", captions)):
            rows = made.rows(kind, modality, CPU).draw(items, generator)
            with torch.no_grad():
                assert torch.allclose(rows, parts[modality].encode(values), atol=5e-3), (kind, modality)


def test_one_of_several_crops_is_drawn(bank, folder: Path, tmp_path: Path) -> None:
    """The whole image comes first; the crops are the same each time, and each has a latent and tokens of its own."""
    ramp = Image.linear_gradient("L").convert("RGB").resize((32, 48))
    ramp.save(folder / "0.png")
    made, again = (encode_set(open_source(folder), bank, tmp_path / name, crops=3) for name in ("one", "two"))
    whole = encode_set(open_source(folder), bank, tmp_path / "whole")
    for kind, part in ((LATENTS, bank.codecs["image"]), (TOKENS, bank.encoders["image"])):
        rows = made.parts[0].item(0)[f"{kind}.image"]
        assert len(rows) == 3
        assert len(made.parts[0].item(0)[f"{kind}.text"]) == 1
        assert all(torch.equal(*pair) for pair in zip(rows, again.parts[0].item(0)[f"{kind}.image"], strict=True))
        assert torch.allclose(rows[0], whole.parts[0].item(0)[f"{kind}.image"][0], atol=5e-3)
        with torch.no_grad():
            expected = part.encode([part.fit(crop) for crop in crops(ramp, 3, seed_of("0.png"))])
        assert torch.allclose(torch.stack(rows).float(), expected, atol=5e-3)
        drawn = made.rows(kind, "image", CPU).draw(torch.zeros(48, dtype=torch.long), torch.Generator().manual_seed(0))
        assert len({tuple(row.flatten().tolist()) for row in drawn}) == 3, kind


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
    monkeypatch.setattr(bank.codecs["image"], "encode", None)  # encoding again would fail now
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
    kept = Looks(made.folder / "looks", 4)
    for item in read[:3]:  # goes on with this version
        kept.keep(item)
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
    with pytest.raises(
        OSError, match=r"out could not be .*No space left.*; the first 3 items are kept; free some space"
    ):
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
    with pytest.raises(OSError, match=rf"out could not be .*; the first {stays} items are kept; free some space"):
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
    with pytest.raises(ValueError, match="another --crops"):
        encode_set(open_source(folder), bank, tmp_path / "out", crops=2)
    with pytest.raises(ValueError, match="another --long"):
        encode_set(open_source(folder), bank, tmp_path / "out", long="skip")


def test_nothing_there(bank, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="versatile data encode"):
        EncodedSet.open(folder)
    for path in folder.glob("*.txt"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no usable image with a caption: 0 read, 8 without a caption"):
        encode_set(open_source(folder), bank, tmp_path / "out")
    made = EncodedSet(tmp_path, {"made_by": {"latents.image": "x"}, "parts": []})
    with pytest.raises(ValueError, match=r"no tokens\.audio; it has latents\.image"):
        made.rows(TOKENS, "audio", CPU)


def drawn(encoded: EncodedSet, kind: str, modality: str) -> dict[str, torch.Tensor]:
    """The first row of each item, by its name."""
    rows = encoded.rows(kind, modality, CPU).draw(torch.arange(len(encoded)), torch.Generator().manual_seed(0))
    return dict(zip(encoded.keys, rows, strict=True))


class Counted:
    """Counts what an encoder is asked for."""

    def __init__(self, encode):
        self.encode, self.values = encode, 0

    def __call__(self, values, **options):
        self.values += len(values)
        return self.encode(values, **options)


@pytest.fixture
def counted(bank, monkeypatch) -> Counted:
    counter = Counted(bank.encoders["image"].encode)
    monkeypatch.setattr(bank.encoders["image"], "encode", counter)
    return counter


def test_a_set_is_renewed_by_the_difference(bank, folder: Path, tmp_path: Path, counted: Counted) -> None:
    made = encode_set(open_source(folder), bank, tmp_path / "out", part=3)
    before, files = drawn(made, TOKENS, "text"), {file.name for file in made.folder.glob("part-*")}
    assert made.outdated == ""
    counted.values = 0
    (folder / "1.txt").write_text("a blue  dog")  # as long as before
    os.utime(folder / "2.txt", (1, 1))
    (folder / "6.png").unlink()
    Image.new("RGB", (16, 16), "pink").save(folder / "8.png")
    (folder / "8.txt").write_text("a pink dog")
    assert "has changed since" in made.outdated
    with pytest.warns(UserWarning, match="mine has changed"):
        again = encode_set(open_source(folder), bank, tmp_path / "out", part=3)
    assert counted.values <= 3 + 4  # and those that are looked at anew, the first by a hash of their names
    after = drawn(again, TOKENS, "text")
    assert set(after) == {*before} - {"6.png"} | {"8.png"}
    assert all(torch.equal(after[key], before[key]) for key in ("0.png", "2.png", "4.png", "5.png"))
    assert not torch.equal(after["1.png"], before["1.png"])
    fresh = drawn(encode_set(open_source(folder), bank, tmp_path / "fresh", part=3), TOKENS, "text")
    assert all(torch.allclose(after[key], fresh[key], atol=2e-3) for key in fresh)
    looks = {text.read_text() for text in (again.folder / "looks").glob("*.txt")}
    assert {"a blue  dog\n", "a pink dog\n"} <= looks
    assert "a white dog\n" not in looks
    assert {file.name for file in again.folder.glob("part-*")} == {part["file"] for part in again.index["parts"]}
    assert files - {file.name for file in again.folder.glob("part-*")}


def test_a_renewal_that_is_interrupted_goes_on(bank, folder: Path, tmp_path: Path, counted: Counted) -> None:
    made = encode_set(open_source(folder), bank, tmp_path / "out", part=2, looks=0)
    (folder / "0.txt").write_text("another dog")
    (folder / "6.txt").write_text("another house")

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    counted.values = 0
    with pytest.warns(UserWarning, match="has changed"), pytest.raises(KeyboardInterrupt):
        encode_set(open_source(folder), bank, tmp_path / "out", part=2, looks=0, progress=stop)
    again = encode_set(open_source(folder), bank, tmp_path / "out", part=2, looks=0)
    assert counted.values == 2
    assert again.keys == made.keys
    kept = [part["file"] for part in again.index["parts"] if part in made.index["parts"]]
    assert len(kept) == 2, "files of which nothing has changed stay"


@pytest.mark.parametrize("how", ["cut", "gone", "index"])
def test_what_is_damaged_is_named_and_encoded_anew(
    bank, folder: Path, tmp_path: Path, counted: Counted, how: str
) -> None:
    made = encode_set(open_source(folder), bank, tmp_path / "out", part=3, looks=0)
    before = drawn(made, LATENTS, "image")
    file = made.folder / ("encoded.json" if how == "index" else "part-00001.safetensors")
    file.unlink() if how == "gone" else os.truncate(file, 1000)
    with pytest.raises(ValueError, match=rf"{file.name} is damaged"):
        EncodedSet.open(made.folder)
    counted.values = 0
    with pytest.warns(UserWarning, match=rf"{file.name} is damaged"):
        again = encode_set(open_source(folder), bank, tmp_path / "out", part=3, looks=0)
    assert counted.values == (7 if how == "index" else 3)
    after = drawn(again, LATENTS, "image")
    assert all(torch.allclose(after[key], before[key], atol=2e-3) for key in before)


@pytest.mark.parametrize("file", ["../part-00000.safetensors", "/etc/passwd", 5])
def test_an_index_names_no_files_elsewhere(bank, folder: Path, tmp_path: Path, file: object) -> None:
    made = encode_set(open_source(folder), bank, tmp_path / "out", looks=0)
    index = json.loads((made.folder / "encoded.json").read_text())
    index["parts"][0]["file"] = file
    (made.folder / "encoded.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"encoded\.json is damaged"):
        EncodedSet.open(made.folder)


LONG = "a big red house and a small green cat " * 3


def test_captions_that_are_too_long(bank, folder: Path, tmp_path: Path) -> None:
    (folder / "3.txt").write_text(f"a house\n{LONG}")
    (folder / "4.txt").write_text(LONG)
    (folder / "5.txt").write_text("x" * 500)  # one word
    made = encode_set(open_source(folder), bank, tmp_path / "cut")
    assert len(made) == 7
    assert made.index["report"]["captions"] == {"captions cut to what the encoder reads": 3}
    cut = {item.values["text"][-1] for item in made.looks(made.keys)}
    assert any(LONG.startswith(text) and len(text) > 20 for text in cut)
    assert any(set(text) == {"x"} for text in cut)
    skipped = encode_set(open_source(folder), bank, tmp_path / "skip", long="skip")
    assert {"4.png", "5.png"}.isdisjoint(skipped.keys)
    report = skipped.index["report"]
    assert (report["bad"], report["captions"]) == (
        {"bad images": 1, "captions too long": 2},
        {"captions too long": 1},
    )
    assert any(example.startswith("captions too long: 4.png: the caption 'a big red") for example in report["examples"])
    with pytest.raises(ValueError, match=r"3\.png: the caption .* is longer than the encoder reads; use --long cut"):
        encode_set(open_source(folder), bank, tmp_path / "refuse", long="refuse")
    with pytest.raises(ValueError, match="unknown --long 'chop'"):
        encode_set(open_source(folder), bank, tmp_path / "other", long="chop")


def test_an_item_that_cannot_be_encoded_is_a_bad_one(bank, folder: Path, tmp_path: Path, monkeypatch) -> None:
    """Whatever a codec or an encoder raises, and what is not finite."""
    codec, encoder = bank.codecs["image"].encode, bank.encoders["text"].encode

    def encode(values, *rest, **size):
        if any(value.getpixel((0, 0)) == (0, 128, 0) for value in values):
            raise RuntimeError("no green")
        rows = codec(values, *rest, **size)
        rows[[value.getpixel((0, 0)) == (255, 0, 0) for value in values]] = 1e6
        return rows

    def read(values, *rest):
        if any("orange house" in value and "a" not in value.split() for value in values):
            raise TypeError("not this one")
        return encoder(values, *rest)

    monkeypatch.setattr(bank.codecs["image"], "encode", encode)
    monkeypatch.setattr(bank.encoders["text"], "encode", read)
    report = Report()
    made = encode_set(open_source(folder), bank, tmp_path / "out", report=report)
    assert made.keys == [f"{number}.png" for number in range(2, 7)]
    told = made.index["report"]
    assert told["bad"] == {"bad images": 1, "samples that cannot be encoded": 2}
    assert told["captions"] == {"values of text that cannot be encoded": 1}
    assert told["good"] == 5
    assert {"1.png: no green", "0.png: the result is not finite in half precision"} == {
        example.partition(": ")[2] for example in told["examples"] if "encoded" in example
    }
