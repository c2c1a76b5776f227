"""A model beside others: which numbers stand beside each other, and what their share is; the page for documents."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from versatile_diffusion.evaluation.comparison import pairs
from versatile_diffusion.evaluation.evaluate import evaluate
from versatile_diffusion.evaluation.intervals import Measured
from versatile_diffusion.evaluation.markdown import write_page
from versatile_diffusion.evaluation.networks import short_name
from versatile_diffusion.evaluation.report import looks, write_report
from versatile_diffusion.evaluation.results import Result
from versatile_diffusion.recipes.emoji.held_out import EmojiHeldOut

FIXTURE = Path(__file__).parents[1] / "data" / "emoji"
HELD_OUT = EmojiHeldOut(FIXTURE)


@pytest.fixture(scope="module")
def found(subject, protocol):
    return evaluate(subject, HELD_OUT, protocol, ["text-to-image", "text-variation"])


@pytest.fixture(scope="module")
def other(found) -> Result:
    """A model of one flow: half of our style rate, and half of our distance."""
    result = found[0]
    row = dict(result.tables["pair-test"]["text-to-image"])
    row |= {"judge/style": Measured(0.2, 0.1, 0.3, 3), "judge/fid": Measured(2.0, 1.0, 3.0, 3)}
    return replace(result, model={"name": "alone"}, tables={"pair-test": {"text-to-image": row}})


@pytest.fixture(scope="module")
def ours(found) -> Result:
    result = found[0]
    table = dict(result.tables["pair-test"])
    table["text-to-image"] = {
        **table["text-to-image"],
        "judge/style": Measured(0.4, 0.3, 0.5, 3),
        "judge/fid": Measured(4.0, 3.0, 5.0, 3),
    }
    return replace(result, tables={**result.tables, "pair-test": table})


def test_flows_that_both_have_are_compared(ours, other) -> None:
    found = {pair.metric: pair for pair in pairs(ours, [other])}
    assert {(pair.split, pair.task, pair.other) for pair in found.values()} == {("pair-test", "text-to-image", "alone")}
    assert found["judge/style"].share == pytest.approx(2.0)
    assert found["judge/fid"].share == pytest.approx(0.5)  # a larger distance is worse
    assert found["judge/style"].cells() == (
        "text-to-image",
        "judge/style",
        "0.4 [0.3, 0.5]",
        "0.2 [0.1, 0.3]",
        "200 %",
        "alone",
    )


def test_the_fid_of_every_network_is_compared(ours, other) -> None:
    fid = {"inception/fid": Measured(4.0, 3.0, 5.0, 3), "inception/kid": Measured(4.0, 3.0, 5.0, 3)}
    mine, theirs = (replace(one, tables={"pair-test": {"text-to-image": fid}}) for one in (ours, other))
    assert [pair.metric for pair in pairs(mine, [theirs])] == ["inception/fid"]


def test_there_is_no_share_of_nothing(ours, other) -> None:
    row = {**other.tables["pair-test"]["text-to-image"], "judge/style": Measured(0.0, 0.0, 0.0, 3)}
    none = replace(other, tables={"pair-test": {"text-to-image": row}})
    (pair,) = (pair for pair in pairs(ours, [none]) if pair.metric == "judge/style")
    assert (pair.share, pair.cells()[4]) == (None, "-")


def test_models_of_two_protocols_are_not_compared(ours, other) -> None:
    with pytest.raises(ValueError, match="different protocols"):
        list(pairs(ours, [replace(other, protocol=replace(other.protocol, steps=9))]))


def test_the_report_has_the_comparison(ours, other, found, tmp_path) -> None:
    page = write_report(tmp_path, [ours], found[1], others=[(other, [])]).read_text()
    assert "<td>0.4 [0.3, 0.5]</td><td>0.2 [0.1, 0.3]</td><td>200 %</td><td>alone</td>" in page


def test_a_page_has_every_number_and_small_pictures(ours, other, found, tmp_path) -> None:
    for _ in range(2):  # again in place of what is there
        (tmp_path / "images" / "mine").mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / "mine" / "old.jpg").write_bytes(b"")
        text = write_page(tmp_path / "mine.md", [ours], found[1], [(other, [])]).read_text()
    for table in ours.tables.values():
        for row in table.values():
            assert all(str(value) in text for value in row.values())
    assert "| 0.4 [0.3, 0.5] / " in text or "0.4 [0.3, 0.5]" in text
    assert "### pair-test\n\n| flow | metric |" in text
    pictures = re.findall(r"\]\((images/.*?)\)", text)
    assert pictures == ["images/mine/pair-test-text-to-image.jpg"]
    assert [path.name for path in (tmp_path / "images" / "mine").iterdir()] == ["pair-test-text-to-image.jpg"]
    assert Image.open(tmp_path / pictures[0]).size == (16 * 32, 2 * 32)
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("| text-to-image | judge")}
    assert widths == {5}


def test_a_page_has_the_plots_of_what_was_varied(ours, found, tmp_path) -> None:
    longer = replace(ours, protocol=replace(ours.protocol, steps=50))
    text = write_page(tmp_path / "mine.md", [ours, longer], found[1], along="steps").read_text()
    plots = re.findall(r"\]\((images/.*?\.svg)\)", text)
    drawn = {"judge-concept-top-5", "judge-style", "agreement-text", "agreement-image", "text-CIDEr-D"}
    drawn |= {"judge-fid", "encoders-fid"}
    assert set(plots) == {f"images/mine/steps-{name}.svg" for name in drawn}
    assert all((tmp_path / plot).read_text().startswith("<svg") for plot in plots)
    assert len(list((tmp_path / "images" / "mine").glob("*.svg"))) == len(drawn)


def test_the_page_says_how_it_is_made_again(ours, found, tmp_path) -> None:
    named = replace(ours, protocol=replace(ours.protocol, name="quick", side=64, resamples=500))
    text = write_page(tmp_path / "mine.md", [named], []).read_text()
    assert "`versatile evaluate --model" in text
    assert "--data DATA --protocol quick --judge JUDGE --split pair-test --count 3 --steps 2`" in text
    assert str(FIXTURE) not in text


def test_what_a_run_exported_is_called_as_the_run_is(tmp_path) -> None:
    assert short_name(str(tmp_path / "one-flow" / "export")) == "one-flow"
    assert (short_name("emoji"), short_name("CompVis/stable-diffusion-v1-4")) == ("emoji", "stable-diffusion-v1-4")


def test_images_and_texts_of_all_models_stand_side_by_side(found, subject, protocol, tmp_path) -> None:
    """Figure 5 of the paper: the same items by each model; a task that only one of them has stands alone."""
    result, samples = found
    theirs, made = evaluate(subject, HELD_OUT, replace(protocol, seed=50), ["text-to-image"])
    others = [(replace(theirs, protocol=result.protocol, model={**theirs.model, "name": "other"}), made)]
    (look,) = looks(result, samples, others)
    assert (look.way, list(look.made)) == ("text-to-image", [result.model["name"], "other"])
    sheet = np.asarray(look.images(2))
    assert sheet.shape == (3 * 32, 16 * 32, 3)
    for line, pictures in enumerate((samples[0].made.values, *(one.values for one in look.made.values()))):
        for k in range(2):
            shown = sheet[32 * line : 32 * (line + 1), 32 * k : 32 * (k + 1)]
            assert np.array_equal(shown, np.asarray(pictures[k].resize((32, 32))))
    assert not np.array_equal(sheet[32:64], sheet[64:96])
    report = write_report(tmp_path, [result], samples, others=others).read_text()
    assert f"Top to bottom: real images, {result.model['name']}, other." in report
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "beside-pair-test-text-to-image.png"))[:, :64], sheet[:, :64]
    )
    page = write_page(tmp_path / "mine.md", [result], samples, others).read_text()
    assert "![pair-test: text-to-image, side by side](images/mine/beside-pair-test-text-to-image.jpg)" in page
    assert (tmp_path / "images" / "mine" / "beside-pair-test-text-to-image.jpg").is_file()


def test_captions_of_all_models_stand_side_by_side(found, subject, tmp_path) -> None:
    result, samples = found
    (mine,) = (one for one in samples if one.way == "text-variation")
    words = [f"caption {k}" for k in range(len(mine.made.values))]
    others = [(replace(result, model={"name": "blip"}), [replace(mine, made=replace(mine.made, values=words))])]
    (look,) = looks(result, samples, others)
    assert look.images(9) is None
    head, *rows = look.texts(2)
    assert head == ("input (or the image's label)", result.model["name"], "blip")
    given = mine.made.items.given["text"]
    assert rows == [(given[k], mine.made.values[k], words[k]) for k in range(2)]
    assert f"<td>{words[2]}</td>" in write_report(tmp_path, [result], samples, others=others).read_text()
    assert f" | {words[2]} |" in write_page(tmp_path / "mine.md", [result], samples, others).read_text()
