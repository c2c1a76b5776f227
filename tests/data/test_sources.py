"""Pictures with captions from folders, shards and parquet: the same from any position, and what is bad counted."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from versatile_diffusion.data.report import Report
from versatile_diffusion.data.sources import Item, Position, open_source

COLOURS = ("red", "green", "blue", "orange", "purple")


def picture(colour: str, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 12), colour).save(buffer, kind)
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_shard(path: Path, keys: list[str]) -> None:
    with tarfile.open(path, "w") as archive:
        for key, colour in zip(keys, COLOURS, strict=False):
            add(archive, f"{key}.jpg", picture(colour, "JPEG"))
            if key.endswith("j"):
                add(archive, f"{key}.json", json.dumps({"captions": [f"a {colour}", f"{colour} thing"]}).encode())
            elif not key.endswith("n"):
                add(archive, f"{key}.txt", f"a {colour}\n".encode())


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number in range(3):
        write_shard(tmp_path / f"train-{number}.tar", [f"{number}/{letter}" for letter in "abjn"])
    write_shard(tmp_path / "test-0.tar", ["t/a"])
    return tmp_path


def keys(found: list[tuple[Item, Position]]) -> list[str]:
    return [item.key for item, _ in found]


def test_a_folder_with_text_files(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name, text in (("a.png", "one\n\n two \n"), ("more/b.png", "three"), ("c.png", None), ("d.png", "four")):
        (tmp_path / name).write_bytes(picture("red") if name != "d.png" else picture("red")[:50])
        if text is not None:
            (tmp_path / name).with_suffix(".txt").write_text(text)
    report = Report()
    items = [item for item, _ in open_source(tmp_path).read(report=report)]
    assert [item.key for item in items] == ["a.png", "more/b.png"]
    assert [item.values["text"] for item in items] == [["one", "two"], ["three"]]
    assert items[0].values["image"][0].size == (20, 12)
    assert (report.good, report.bad) == (2, Counter({"without a caption": 1, "bad images": 1}))
    assert str(report) == "2 read, 1 without a caption, 1 bad images"


def test_a_folder_with_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("red"))
    rows = [
        json.dumps({"file_name": "a.png", "text": "an apple"}),
        json.dumps({"file_name": "gone.png", "text": "nothing"}),
        json.dumps({"text": "no picture"}),
        "{not json",
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    report = Report()
    (item,) = [item for item, _ in open_source(tmp_path).read(report=report)]
    assert (item.key, item.values["text"]) == ("a.png", ["an apple"])
    assert report.bad == {"bad images": 1, "without an image": 2}


def test_shards_by_folder_and_by_pattern(shards: Path) -> None:
    assert len(open_source(shards).shards) == 4
    source = open_source(shards / "train-*.tar")
    report = Report()
    found = list(source.read(report=report))
    assert keys(found) == [f"{number}/{letter}" for number in range(3) for letter in "abj"]
    assert found[2][0].values["text"] == ["a blue", "blue thing"]
    assert report.bad == {"without a caption": 3}
    assert report.shards == 3
    assert keys(list(open_source(shards / "test-0.tar").read())) == ["t/a"]


@pytest.mark.parametrize("seed", [None, 5])
def test_reading_goes_on_exactly_from_every_position(shards: Path, seed: int | None) -> None:
    source = open_source(shards / "train-*.tar")
    whole = list(source.read(seed=seed, epochs=2))
    assert len(whole) == 18
    for count, (_, position) in enumerate(whole, 1):
        assert keys(list(source.read(position, seed=seed, epochs=2))) == keys(whole)[count:]
    if seed is not None:
        assert keys(whole[:9]) != keys(whole[9:]) or keys(whole[:9]) != keys(list(source.read()))
        assert sorted(keys(whole[:9])) == sorted(keys(whole[9:])) == keys(list(source.read()))


def test_each_process_has_shards_of_its_own(shards: Path) -> None:
    source = open_source(shards / "train-*.tar")
    parts = [keys(list(source.part(rank, 2).read())) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == keys(list(source.read()))
    assert (len(parts[0]), len(parts[1])) == (6, 3)


def test_what_a_broken_shard_still_holds_is_read_and_the_rest_counted(shards: Path) -> None:
    path = shards / "train-1.tar"
    path.write_bytes(path.read_bytes()[:3000])  # within the second sample
    report = Report()
    found = keys(list(open_source(shards / "train-*.tar").read(report=report)))
    assert found == ["0/a", "0/b", "0/j", "1/a", "2/a", "2/b", "2/j"]
    assert report.bad_shards.total() == 1
    (shards / "train-2.tar").write_bytes(b"this is no archive" * 100)
    with pytest.raises(ValueError, match=r"2 of 3 shards are bad; the last is .*train-2\.tar"):
        list(open_source(shards / "train-*.tar").read())


def test_too_many_bad_samples_stop_the_reading(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02d}.png").write_bytes(picture("red") if number % 2 else b"no picture")
        (tmp_path / f"{number:02d}.txt").write_text("a thing")
    with pytest.raises(ValueError, match=r"too many bad samples \(10% allowed\): .*5 bad images; the last is 08\.png"):
        list(open_source(tmp_path).read(report=Report(allowed=0.1, few=4)))
    assert len(list(open_source(tmp_path).read(report=Report(allowed=0.6)))) == 15
    with pytest.raises(ValueError, match="from 0 to 1"):
        Report(allowed=2)


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": picture(colour), "path": None} for colour in COLOURS]
    texts = [f"a {colour}" for colour in COLOURS[:4]] + [None]
    parquet.write_table(pyarrow.table({"image": images, "text": texts}), tmp_path / "a.parquet")
    report = Report()
    found = list(open_source(tmp_path).read(report=report))
    assert [item.values["text"] for item, _ in found] == [[text] for text in texts[:4]]
    assert report.bad == {"without a caption": 1}
    assert keys(list(open_source(tmp_path).read(found[1][1]))) == keys(found)[2:]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 broken PAR1")
    assert len(list(open_source(tmp_path).read(report=report))) == 4
    assert report.bad_shards.total() == 1


def test_parquet_without_the_columns(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"photo": [b""], "text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet has the columns photo, text; required: one of image"):
        list(open_source(tmp_path).read())
    parquet.write_table(pyarrow.table({"image": ["a.jpg"], "text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"column image holds str; required: the bytes"):
        list(open_source(tmp_path).read())


def test_parquet_says_what_it_needs(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        open_source(tmp_path)


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "*.tar"):
        with pytest.raises(ValueError, match="no images with captions; allowed: a folder"):
            open_source(path)
    with pytest.raises(ValueError, match="missing: no such folder or file"):
        open_source(tmp_path / "missing")


def test_what_lacks_is_told(tmp_path: Path) -> None:
    for number in range(11):
        (tmp_path / f"{number:02d}.png").write_bytes(picture("red"))
    with pytest.raises(ValueError, match=r"11 without a caption; the last is 10\.png.*lines of a \.txt"):
        list(open_source(tmp_path).read())
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "", "text": "red"}\n' * 11)
    with pytest.raises(ValueError, match=r"11 without an image.*the last is metadata.jsonl line 11.*file_name, "):
        list(open_source(tmp_path).read())


COLUMNS: dict[str, dict[str, Any]] = {
    "image and prompt": {"image": "a.png", "prompt": "a cat"},
    "filename and caption_0": {"filename": "a.png", "caption_0": "a cat", "caption_1": " "},
    "capitals": {"File_Name": "a.png", "TEXT": "a cat"},
    "a name before": {"id": 3, "left_file_name": "a.png", "description": "a cat"},
    "a list of one": {"file_names": ["a.png"], "text": "a cat"},
    "the plain name first": {"image": "not this", "file_name": "a.png", "caption": "a cat"},
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tar", "tar of csv"])
def test_tables_have_columns_of_many_names(tmp_path: Path, name: str, kind: str) -> None:
    row = COLUMNS[name]
    if kind.endswith("csv") and "file_names" in row:
        pytest.skip("a cell holds no list")
    lines = [",".join(map(str, part)) for part in (row, row.values())]
    text = "\n".join(lines) if kind.endswith("csv") else json.dumps(row)
    table = "metadata.csv" if kind.endswith("csv") else "metadata.jsonl"
    if "tar" in kind:
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for member, data in ((f"x/{table}", text.encode()), ("x/a.png", picture("red"))):
                add(archive, member, data)
    else:
        (tmp_path / "a.png").write_bytes(picture("red"))
        (tmp_path / table).write_text(text)
    report = Report()
    (item,) = [item for item, _ in open_source(tmp_path).read(report=report)]
    assert (item.values["text"], report.bad) == (["a cat"], {})


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_table_without_the_columns_says_which_it_has(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(picture("red"))
    rows = {"jsonl": '{"id": 1, "label": "cat"}', "csv": "id,label\n1,cat"}
    (tmp_path / f"metadata.{kind}").write_text(rows[kind])
    needed = "has the columns id, label; required: one of file_name.* and one of captions, caption"
    with pytest.raises(ValueError, match=rf"metadata\.{kind} {needed}"):
        list(open_source(tmp_path).read())
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "a.png", picture("red"))
        add(archive, f"metadata.{kind}", rows[kind].encode())
    report = Report()
    assert list(open_source(tmp_path / "a.tar").read(report=report)) == []
    assert "has the columns id, label; required:" in report.last


def test_a_list_of_names_is_refused_by_name(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(picture("red"))
    (tmp_path / "metadata.jsonl").write_text('{"file_names": ["a.png", "b.png"], "text": "two"}')
    report = Report()
    assert list(open_source(tmp_path).read(report=report)) == []
    assert "file_names has 2 names" in report.last


def test_a_table_of_something_else_hides_no_pairs(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("red"))
    (tmp_path / "a.txt").write_text("a cat")
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,3\n")
    source = open_source(tmp_path)
    assert [item.values["text"] for item, _ in source.read()] == [["a cat"]]
    assert "metadata.csv" in source.left_out["tables"]


def test_parquet_with_other_names(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = {"Image": [picture("red")], "caption_0": ["a cat"], "caption_1": ["a red cat"]}
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    assert [item.values["text"] for item, _ in open_source(tmp_path).read()] == [["a cat", "a red cat"]]
    (tmp_path / "a.parquet").unlink()
    (tmp_path / "a.png").write_bytes(picture("red"))
    parquet.write_table(pyarrow.table({"image": ["a.png"], "prompt": ["a cat"]}), tmp_path / "metadata.parquet")
    assert [item.values["text"] for item, _ in open_source(tmp_path).read()] == [["a cat"]]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tar", "tar with a table", "parquet"])
def test_the_encoding_of_captions_can_be_named(tmp_path: Path, kind: str) -> None:
    """Of one that cannot be told the guesses are in the message, and what to do; with its name, it is read."""
    word = "kočka".encode("cp1250")
    rows = {"jsonl": b'{"file_name": "a.png", "text": "%s"}' % word, "csv": b"file_name,text\na.png,%s\n" % word}
    if kind == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"image": [picture("red")], "text": [word]}), tmp_path / "a.parquet")
    elif kind.startswith("tar"):
        name, data = ("a.txt", word) if kind == "tar" else ("metadata.jsonl", rows["jsonl"])
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            add(archive, "a.png", picture("red"))
            add(archive, name, data)
    else:
        (tmp_path / "a.png").write_bytes(picture("red"))
        (tmp_path / ("a.txt" if kind == "txt" else f"metadata.{kind}")).write_bytes(rows.get(kind, word))
    with pytest.raises(ValueError, match=r"captions in an unknown encoding.*'kočka' in cp1250.*--encoding"):
        list(open_source(tmp_path).read(report=Report(few=0)))
    source = open_source(tmp_path, "windows-1250")
    assert [item.values["text"] for item, _ in source.read()] == [["kočka"]]
    assert len({open_source(tmp_path, name).content for name in (None, "cp1250", "cp1252")}) == 3
    with pytest.raises(ValueError, match="unknown encoding 'cp1259'"):
        open_source(tmp_path, "cp1259")


def test_another_set_in_the_same_place_is_known(shards: Path, tmp_path: Path, monkeypatch) -> None:
    content = open_source(shards / "train-*.tar").content
    monkeypatch.chdir(tmp_path)
    assert open_source("train-*.tar").content == content
    assert open_source("*.tar").content != content
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(picture("red"))
    seen = {open_source("folder").content}
    for text in ("red", "dog"):  # of one size
        (tmp_path / "folder" / "a.txt").write_text(text)
        seen.add(open_source("folder").content)
    (tmp_path / "folder" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "red"}')
    seen.add(open_source("folder").content)
    (tmp_path / "folder" / "a.png").write_bytes(picture("blue"))
    seen.add(open_source("folder").content)
    assert len(seen) == 5
