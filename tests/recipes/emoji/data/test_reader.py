"""Reading the fixture: a small set in just the layout of the whole one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from versatile_diffusion.recipes.emoji.data import SPLITS, EmojiSet, Manifest

FIXTURE = Path(__file__).parents[3] / "data" / "emoji"


@pytest.fixture(scope="module")
def sets() -> dict[str, EmojiSet]:
    return {split: EmojiSet.load(FIXTURE, split) for split in SPLITS}


def test_the_fixture_is_whole_and_small():
    manifest = Manifest.read(FIXTURE)
    assert manifest.damaged(FIXTURE) == []
    assert manifest.total > 150
    assert sum(path.stat().st_size for path in FIXTURE.iterdir()) < 1_000_000


def test_everything_has_its_shape(sets):
    for part in sets.values():
        count = len(part)
        assert count > 0
        assert part.pictures.shape == (count, 64, 64, 3)
        assert part.pictures.dtype == np.uint8
        assert part.concepts.dtype == part.styles.dtype == np.int64
        assert part.no_sibling.dtype == bool
        assert [len(column) for column in (part.captions, part.labels, part.colours, part.concepts, part.styles)] == [
            count
        ] * 5
        assert part.concepts.max() < len(part.concept_names)
        assert part.styles.max() < len(part.style_names)


def test_rows_point_into_the_tables(sets):
    for part in sets.values():
        for key, label, concept, style in zip(part.keys, part.labels, part.concepts, part.styles, strict=True):
            assert part.concept_names[concept] == label
            assert key.split("_")[:2] == [part.concept_keys[concept], part.style_names[style]]
    tables = [(p.concept_names, p.style_names, p.keywords, p.subgroups, p.groups) for p in sets.values()]
    assert all(table == tables[0] for table in tables)


def test_splits_keep_their_promises(sets):
    train = sets["train"]
    seen = set(train.concepts.tolist())
    pairs = set(zip(train.concepts.tolist(), train.styles.tolist(), strict=True))
    for name in ("concept-val", "concept-test"):
        assert seen.isdisjoint(sets[name].concepts.tolist())
        assert {train.concept_parts[concept] for concept in sets[name].concepts} == {name}
    for name in ("pair-val", "pair-test"):
        assert seen.issuperset(sets[name].concepts.tolist())
        assert pairs.isdisjoint(zip(sets[name].concepts.tolist(), sets[name].styles.tolist(), strict=True))
    assert 0 < sets["pair-test"].no_sibling.sum() < len(sets["pair-test"])
    assert not train.no_sibling.any()


def test_captions_are_clean(sets):
    for part in sets.values():
        for label, captions in zip(part.labels, part.captions, strict=True):
            assert captions[0] == label
            assert len(captions) == len(set(captions)) > 9
            text = " ".join(captions)
            assert not set(text) & set("“”‘’_{}")
            assert "a ballet shoes" not in text


def test_the_tokenizer_reads_the_captions(sets):
    tokenizer = Tokenizer.from_file(str(FIXTURE / "tokenizer.json"))
    assert [tokenizer.id_to_token(index) for index in range(4)] == ["<pad>", "<unk>", "<s>", "</s>"]
    for caption in sets["train"].captions[0]:
        ids = tokenizer.encode(caption).ids
        assert min(ids) > 3
        assert tokenizer.decode(ids).strip() == caption.lower()


def test_pictures_are_pictures_on_white(sets):
    pictures = sets["train"].pictures
    corners = pictures[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners > 200).all(axis=(1, 2)).mean() > 0.8
    assert pictures.std(axis=(1, 2, 3)).min() >= 8


def test_mistakes_name_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"no emoji set in .*versatile data emoji --out"):
        EmojiSet.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="split 'test'; allowed: train, pair-val"):
        EmojiSet.load(FIXTURE, "test")
    shutil.copytree(FIXTURE, tmp_path / "copy")
    (tmp_path / "copy" / "train-00000.tar").unlink()
    with pytest.raises(ValueError, match=r"lacks train-00000\.tar; build it again with: versatile data emoji"):
        EmojiSet.load(tmp_path / "copy")
    (tmp_path / "copy" / "manifest.json").write_text('{"schema": 99}')
    with pytest.raises(ValueError, match=r"has schema 99; this version reads 1"):
        EmojiSet.load(tmp_path / "copy")
