"""A model is measured on anybody's images and captions, in any layout."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from versatile_diffusion.evaluation.evaluate import evaluate
from versatile_diffusion.evaluation.items import ALL
from versatile_diffusion.evaluation.own_data import OwnHeldOut
from versatile_diffusion.recipes.held_out import open_held_out

CAPTIONS = {"apple": ["a red apple", "an apple"], "sea": ["a blue sea", "the sea"], "leaf": ["a green leaf", "a leaf"]}
COLOURS = {"apple": "red", "sea": "blue", "leaf": "green"}


def images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (40, 32), colour).save(folder / f"{name}.png")
    return folder


def beside(folder: Path) -> Path:
    images(folder)
    for name, lines in CAPTIONS.items():
        (folder / f"{name}.txt").write_text("\n".join(lines))
    return folder


def shard(folder: Path) -> Path:
    with tarfile.open(folder.parent / "set.tar", "w") as file:
        for path in sorted(beside(folder).iterdir()):
            file.add(path, path.name)
    return folder.parent / "set.tar"


def parquet(folder: Path) -> Path:
    polars = pytest.importorskip("polars")
    images(folder)
    rows = {"image": [(folder / f"{name}.png").read_bytes() for name in CAPTIONS], "text": list(CAPTIONS.values())}
    polars.DataFrame(rows).write_parquet(folder.parent / "set.parquet")
    return folder.parent / "set.parquet"


def coco(folder: Path) -> Path:
    images(folder.parent / "val2017")
    annotations = folder.parent / "annotations"
    annotations.mkdir()
    table = {
        "images": [{"id": k, "file_name": f"{name}.png"} for k, name in enumerate(CAPTIONS)],
        "annotations": [
            {"id": 9 * k + j, "image_id": k, "caption": text}
            for k, texts in enumerate(CAPTIONS.values())
            for j, text in enumerate(texts)
        ],
    }
    (annotations / "captions_val2017.json").write_text(json.dumps(table))
    return annotations / "captions_val2017.json"


@pytest.mark.parametrize("layout", [beside, shard, parquet, coco], ids=lambda layout: layout.__name__)
def test_items_have_every_caption_and_the_image(tmp_path: Path, layout) -> None:
    data = open_held_out(layout(tmp_path / "set"))
    items = data.items(ALL, 10)
    assert len(items) == len(data.images(ALL)) == 3
    assert sorted(items.references) == sorted(CAPTIONS.values())
    assert items.given["text"] == [row[0] for row in items.references]
    for name, row in zip(COLOURS, CAPTIONS.values(), strict=True):
        image = items.given["image"][list(items.references).index(row)]
        assert image.getpixel((3, 3)) == Image.new("RGB", (1, 1), COLOURS[name]).getpixel((0, 0))
    assert len(data.items(ALL, 2)) == 2
    assert items.classes is None
    assert data.vocabulary(ALL) is None


def test_a_model_is_measured_by_what_needs_no_labels(tmp_path: Path, subject, protocol) -> None:
    data = OwnHeldOut(beside(tmp_path / "set"))
    result, samples = evaluate(subject, data, replace(protocol, splits=()))
    table = result.tables[ALL]
    assert result.protocol.splits == (ALL,)
    assert result.protocol.hashes["data"] == data.hash
    assert {"text-to-image", "image-variation", "image-to-text", "text-variation"} <= set(table)
    assert {"psnr", "ssim"} <= set(table["image codec"])
    assert {"agreement/text", "judge/fid"} <= set(table["text-to-image"])
    assert {"text/CIDEr-D", "text/BLEU-4", "text/is a caption"} <= set(table["image-to-text"])
    assert not any("concept" in name or "label" in name or "style" in name for row in table.values() for name in row)
    assert result.judge == {}
    assert table["given text"]["text/is a caption"].value == 1
    assert {sample.split for sample in samples} == {ALL}


def test_the_hash_follows_the_captions(tmp_path: Path) -> None:
    folder = beside(tmp_path / "set")
    before = OwnHeldOut(folder).hash
    assert OwnHeldOut(folder).hash == before
    (folder / "sea.txt").write_text("another caption, longer")
    assert OwnHeldOut(folder).hash != before


def test_a_split_that_it_does_not_have_is_refused(tmp_path: Path, subject, protocol) -> None:
    with pytest.raises(ValueError, match=r"the data set has no split 'pair-test'; it has: all"):
        evaluate(subject, OwnHeldOut(beside(tmp_path / "set")), protocol)


def test_one_item_is_too_few(tmp_path: Path) -> None:
    folder = beside(tmp_path / "set")
    for name in ("sea", "leaf"):
        (folder / f"{name}.png").unlink()
    with pytest.raises(ValueError, match="has 1 usable items; evaluation needs at least 2"):
        OwnHeldOut(folder)


def test_a_json_file_without_captions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps({"categories": [], "licenses": []}))
    with pytest.raises(ValueError, match=r"boxes.json is not a COCO caption file: .* it has 'categories', 'licenses'"):
        OwnHeldOut(tmp_path / "boxes.json")


def test_images_that_a_caption_file_names_and_that_are_not_there_are_counted(tmp_path: Path) -> None:
    file = coco(tmp_path / "set")
    (tmp_path / "val2017" / "sea.png").unlink()
    data = OwnHeldOut(file)
    assert len(data.samples) == 2
    assert data.report.bad == {"without an image": 1}
    assert "sea.png" in data.report.last
