"""Building: the same bytes twice, going on after an interruption, and errors of the caller."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from emoji_source import STYLE_IDS, tiny_source

from versatile_diffusion.recipes.emoji.data import EmojiSet, build, build_emoji
from versatile_diffusion.recipes.emoji.data.build import BuildRequest, render_source, write_set
from versatile_diffusion.recipes.emoji.data.manifest import Manifest

pytest.importorskip("resvg_py")


@pytest.fixture
def offline(monkeypatch):
    """`build_emoji` on the tiny source; counts how often the packages are asked for."""
    calls = []

    def gather(folder, styles, progress=True):
        calls.append(folder)
        return tiny_source()

    monkeypatch.setattr(build, "gather", gather)
    return calls


def tiny_build(out: Path, workers: int = 1, edition: int = 1) -> Manifest:
    return build_emoji(out, size=32, workers=workers, styles=STYLE_IDS, progress=False, edition=edition)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_two_builds_are_byte_identical_whatever_the_workers(offline, tmp_path):
    tiny_build(tmp_path / "one", workers=1)
    tiny_build(tmp_path / "two", workers=2)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
    assert {"manifest.json", "tokenizer.json", "contact_sheet.png", "train-00000.tar"} <= set(one)


def test_shards_carry_no_trace_of_the_machine(offline, tmp_path):
    tiny_build(tmp_path)
    with tarfile.open(tmp_path / "train-00000.tar") as archive:
        members = archive.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    keys = [m.name.partition(".")[0] for m in members]
    assert keys == sorted(keys)


def test_a_finished_set_returns_at_once_and_a_damaged_one_is_mended(offline, tmp_path):
    first = tiny_build(tmp_path)
    assert tiny_build(tmp_path) == first
    assert len(offline) == 1
    before = contents(tmp_path)
    (tmp_path / "train-00000.tar").write_bytes(b"cut")
    assert tiny_build(tmp_path) == first
    assert len(offline) == 2
    assert contents(tmp_path) == before


def test_an_interrupted_build_goes_on(offline, tmp_path, monkeypatch):
    source, real, rendered = tiny_source(), build._render_one, []

    def render_until(limit):
        def render(drawing, size):
            if len(rendered) == limit:
                raise KeyboardInterrupt
            rendered.append(drawing.concept)
            return real(drawing, size)

        return render

    monkeypatch.setattr(build, "_render_one", render_until(30))
    with pytest.raises(KeyboardInterrupt):
        tiny_build(tmp_path / "cut")
    assert not (tmp_path / "cut" / "manifest.json").exists()
    monkeypatch.setattr(build, "_render_one", render_until(-1))
    tiny_build(tmp_path / "cut")
    total = sum(len(row) for row in source.drawings.values())
    assert len(rendered) == total + 30 - len(source.drawings["noto"])  # the finished style was not drawn again
    monkeypatch.undo()
    pictures = render_source(source, 32, 1, tmp_path / "cache", progress=False)
    (tmp_path / "whole").mkdir()
    write_set(source, pictures, BuildRequest.of(32, STYLE_IDS, None, 1), tmp_path / "whole")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_blank_pictures_are_dropped_and_variants_kept(offline, tmp_path):
    manifest = tiny_build(tmp_path)
    keys = [key for split in manifest.shards for key in EmojiSet.load(tmp_path, split).keys]
    assert manifest.total == len(keys) == len(set(keys)) == 6 * 20 - 1 + 1
    assert "1f000_fxemoji" not in keys
    assert {"1f001_noto", "1f001_noto_2"} <= set(keys)


def test_concepts_choose_a_part(offline, tmp_path):
    chosen = ["1f003", "1f005"]
    manifest = build_emoji(tmp_path, size=32, workers=1, styles=STYLE_IDS, progress=False, concepts=chosen)
    assert [row["key"] for row in manifest.concepts] == chosen
    assert [row["index"] for row in manifest.concepts] == [0, 1]


def test_the_second_edition_counts_what_it_leaves_out_and_moves_nothing_between_splits(offline, tmp_path):
    first, second = tiny_build(tmp_path / "1", edition=1), tiny_build(tmp_path / "2", edition=2)
    assert (first.left_out, "left_out" in (tmp_path / "1" / "manifest.json").read_text()) == ({}, False)
    keys = {row["key"] for row in second.concepts}
    assert keys == {row["key"] for row in first.concepts if row["group"] == "objects"}
    assert second.left_out == {"letters, signs, symbols and flags": 10}
    for split in second.shards:
        before = set(EmojiSet.load(tmp_path / "1", split).keys)
        assert set(EmojiSet.load(tmp_path / "2", split).keys) <= before
    assert tiny_build(tmp_path / "2", edition=1) == first  # another edition is another set


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"size": 8}, r"size is 8; it must be 16 to 256"),
        ({"workers": 0}, r"workers is 0; it must be 1 or more"),
        ({"styles": ["comic"]}, r"unknown \['comic'\]; choose from"),
        ({"edition": 3}, r"edition is 3; it must be 1 .* or 2"),
        ({"concepts": ["dog"]}, r"concepts \['dog'\]: unknown; give code points"),
    ],
)
def test_mistakes_say_what_is_allowed(offline, tmp_path, wishes, message):
    with pytest.raises(ValueError, match=message):
        build_emoji(tmp_path, progress=False, **wishes)


def test_a_file_in_the_way_is_named(offline, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"is a file; --out must be a folder"):
        build_emoji(tmp_path / "file", progress=False)


def test_a_missing_renderer_names_the_extra(offline, tmp_path, monkeypatch):
    def version(name):
        raise build.PackageNotFoundError(name)

    monkeypatch.setattr(build, "version", version)
    with pytest.raises(ValueError, match=r"pip install 'versatile-diffusion\[data\]'"):
        tiny_build(tmp_path / "new")
