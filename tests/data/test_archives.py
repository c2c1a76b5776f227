"""Shards that lie about their sizes, or are damaged: bounded, and what is whole in them is read."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from versatile_diffusion.data import archives, tables
from versatile_diffusion.data.report import Report
from versatile_diffusion.data.sources import open_source


def picture(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read(path: Path, report: Report | None = None) -> dict[str, list[str]]:
    return {item.key: item.values["text"] for item, _ in open_source(path).read(report=report)}


def samples(count: int) -> list[tuple[str, bytes]]:
    return [(f"{k}.{kind}", data) for k in range(count) for kind, data in (("png", picture()), ("txt", b"a cat"))]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_packed_shards_are_read_whatever_they_are_called(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "a.tar", samples(3), f"w:{kind}")
    assert list(read(tmp_path / "a.tar")) == ["0", "1", "2"]


def test_what_stands_in_a_sample(tmp_path: Path) -> None:
    members = [("a.txt", b" "), ("a.json", b'{"caption": "from json"}'), ("a.png", picture())]
    members += [("./b.v2.png", picture()), ("./b.v2.caption", b"dotted"), ("c.PNG", picture()), ("c.TXT", b"upper")]
    members += [("d.cond.png", b"not this"), ("d.png", picture()), ("d.txt", b"plain first"), (".e.png", b"")]
    members += [("__MACOSX/._a.png", b""), ("f.png", picture()), ("f.txt", "h\u00e9".encode("utf-16"))]
    assert read(write(tmp_path / "a.tar", members)) == {
        "a": ["from json"], "./b": ["dotted"], "c": ["upper"], "d": ["plain first"], "f": ["hé"],
    }  # fmt: skip


def test_a_damaged_header_ends_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", samples(4))
    data = bytearray(path.read_bytes())
    data[data.index(b"1.png") + 150] ^= 1  # its checksum
    path.write_bytes(data)
    report = Report()
    assert list(read(path, report)) == ["0", "2", "3"]
    assert (report.bad, report.bad_shards.total()) == ({"without an image": 1}, 0)
    assert report.captions == {}


@pytest.mark.parametrize("size", [1 << 33, 1 << 62])
@pytest.mark.parametrize("kind", [b"S", b"x", b"L", b"0"])
def test_sizes_are_not_believed(tmp_path: Path, kind: bytes, size: int) -> None:
    """A sparse member, two kinds of headers and a plain one that say they have gigabytes."""
    header = bytearray(512)
    header[:5], header[100:108], header[156:157] = b"a.png", b"0000644\0", kind
    header[124:136] = header[483:495] = b"\x80\0\0\0" + struct.pack(">Q", size)
    if kind == b"S":
        header[124:136], header[386:398] = b"00000000000\0", bytes(12)
    header[257:265], header[148:156] = b"ustar  \0", b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    os.truncate(tmp_path / "a.tar", 1 << 34)  # so that there is something to read
    report = Report()
    assert read(tmp_path / "a.tar", report) == {}
    assert report.bad_shards.total() + report.bad.total() >= 1


def test_members_are_bounded_packed_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_IMAGE", 10_000)
    large = [("b.png", bytes(20_000)), ("b.txt", b"large")]
    report = Report()
    assert list(
        read(write(tmp_path / "a.tar", [*samples(1), *large, ("c.png", picture()), ("c.txt", b"c")]), report)
    ) == [
        "0",
        "c",
    ]
    assert report.bad == {"images too large": 1}
    assert "b.png" not in report.last
    assert report.last.startswith("b: png has 20,000 bytes")
    report = Report()
    assert list(read(write(tmp_path / "a.tar.gz", [*samples(1), *large], "w:gz"), report)) == ["0"]
    assert report.bad_shards.total() == 1


def test_garbage_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no archive" * 1000)
    (tmp_path / "b.tar").write_bytes(gzip.compress(b"no archive either" * 1000))
    (tmp_path / "c.tar").write_bytes(bytes(10240))  # an empty one
    write(tmp_path / "d.tar", samples(1))
    report = Report(allowed=1)
    assert list(read(tmp_path, report)) == ["0"]
    assert report.bad_shards.total() == 2
    assert "a.tar" in report.examples[0]


def test_parquet_that_says_it_is_huge_and_one_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(tables, "FREE_RATIO", 1 << 20)
    bomb = pyarrow.table({"image": [bytes(4 << 20)], "text": ["a"]})
    parquet.write_table(bomb, tmp_path / "bomb.parquet", compression="zstd", use_dictionary=False)
    parquet.write_table(pyarrow.table({"url": ["a"]}), tmp_path / "other.parquet")
    good = {"image": [picture()] * 3, "text": ["a cat", None, "a dog"]}
    parquet.write_table(pyarrow.table(good), tmp_path / "good.parquet")
    report = Report(allowed=0.8)
    assert list(read(tmp_path, report)) == ["good.parquet#0", "good.parquet#2"]
    assert report.bad_shards == {"shards cut short or damaged": 1, "files without the columns needed": 1}


def test_deep_and_broken_descriptions_are_bad_samples(tmp_path: Path) -> None:
    rows = [json.dumps({"caption": value}).encode() for value in ("fine", 5, {"en": "x"})] + [b"[" * 50_000, b"{"]
    members = [m for k, row in enumerate(rows) for m in ((f"{k}.png", picture()), (f"{k}.json", row))]
    report = Report()
    assert list(read(write(tmp_path / "a.tar", members), report)) == ["0"]
    assert report.bad == {"captions that are not text": 2, "descriptions that are not JSON": 2}
