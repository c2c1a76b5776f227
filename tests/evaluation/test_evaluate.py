"""A whole evaluation of a model of random weights: results, comparisons, pages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from versatile_diffusion.evaluation.evaluate import evaluate
from versatile_diffusion.evaluation.intervals import TOO_FEW, Measured
from versatile_diffusion.evaluation.measures import Bench, Generated, measure
from versatile_diffusion.evaluation.networks import fit_images
from versatile_diffusion.evaluation.recognition import EncoderJudge
from versatile_diffusion.evaluation.report import plots, share_of_real, write_report
from versatile_diffusion.evaluation.results import Result, check_comparable, curves, remarks
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.recipes.emoji.data.manifest import Manifest
from versatile_diffusion.recipes.emoji.held_out import EmojiHeldOut, items_of, vocabulary_of
from versatile_diffusion.tasks import TASKS

FIXTURE = Path(__file__).parents[1] / "data" / "emoji"
HELD_OUT = EmojiHeldOut(FIXTURE)
WAYS = {"text-to-image", "image-variation", "image-to-text", "text-variation"}


@pytest.fixture(scope="module")
def found(subject, protocol):
    return evaluate(subject, HELD_OUT, protocol, samples_seen=7)


@pytest.fixture(scope="module")
def bench(networks, data) -> Bench:
    real = {network.name: np.random.default_rng(0).normal(size=(9, 160)) for network in networks.features}
    return Bench(networks, EncoderJudge.of(networks.encoders, vocabulary_of(data)), real)


def test_every_task_stands_beside_its_ceilings(found, protocol) -> None:
    result, samples = found
    table = result.tables["pair-test"]
    assert set(table) == WAYS | {"given image", "given text", "image codec", "text codec"}
    for way in ("text-to-image", "image-variation", "given image", "image codec"):
        assert {"judge/concept top-5", "judge/style", "encoders/style", "judge/fid", "encoders/kid"} <= set(table[way])
    assert {"psnr", "ssim"} <= set(table["image codec"])
    assert {"text/CIDEr-D", "text/BLEU-4", "text/label", "agreement/image"} <= set(table["image-to-text"])
    assert "text/differs" in table["text-variation"]
    assert "text/differs" not in table["image-to-text"]
    assert table["given text"]["text/label"].value == 1
    sure = [m for row in table.values() for m in row.values() if m.low is not None]
    assert sure
    assert all(m.low <= m.high for m in sure)
    assert result.judge["pair-test"].keys() >= {"style", "concept_top1", "concept_top5"}
    assert set(result.protocol.hashes) == {"judge", "encoders", "data"}
    assert result.model["device"] == "cpu"
    assert {sample.way for sample in samples} == set(table)


def test_it_is_repeatable(found, subject, protocol) -> None:
    again, _ = evaluate(subject, HELD_OUT, protocol, tasks=["text-to-image"])
    assert again.tables["pair-test"]["text-to-image"] == found[0].tables["pair-test"]["text-to-image"]
    assert WAYS & set(again.tables["pair-test"]) == {"text-to-image"}


def test_of_candidates_the_one_that_agrees_best_is_measured(found, subject, protocol) -> None:
    chosen, _ = evaluate(subject, HELD_OUT, replace(protocol, candidates=3), tasks=["text-to-image"])
    assert chosen.tables["pair-test"]["text-to-image"] != found[0].tables["pair-test"]["text-to-image"]
    given = ["a red apple", "a blue house"]
    made = subject.make(TASKS["text-to-image"], given, [0, 1], chosen.protocol)
    best = subject.pipe.text_to_image(given, seed=[0, 1], candidates=3, num_inference_steps=2).images
    assert [picture.tobytes() for picture in made] == [picture.tobytes() for picture in best]
    with pytest.raises(ValueError, match=r"cannot be compared \(candidates: 1, 3\)"):
        check_comparable([found[0], chosen])
    with pytest.raises(ValueError, match="candidates is 0; it must be a whole number from 1 up"):
        replace(protocol, candidates=0)


def test_an_unknown_task_is_refused(subject, protocol) -> None:
    with pytest.raises(ValueError, match=r"does not support dual-guided; it supports: text-to-image"):
        evaluate(subject, HELD_OUT, protocol, tasks=["dual-guided"])


def test_results_go_through_a_file_and_only_equal_protocols_are_compared(found, tmp_path) -> None:
    result = found[0]
    result.save(tmp_path / "results.json")
    again = Result.load(tmp_path / "results.json")
    assert again == result
    check_comparable([result, replace(again, model={"name": "other"})])
    longer = replace(again, protocol=replace(result.protocol, steps=50))
    with pytest.raises(ValueError, match=r"different protocols and cannot be compared \(steps: 2, 50\)"):
        check_comparable([result, longer])
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no\.json cannot be read as a result of an evaluation: it lacks 'tables'"):
        Result.load(tmp_path / "no.json")


def test_results_of_two_data_sets_are_not_compared(found, subject) -> None:
    manifest, result = Manifest.read(FIXTURE), found[0]
    assert result.protocol.hashes["data"] == manifest.hash == replace(manifest, tools={}, packages=[]).hash
    shard = manifest.shards["pair-test"][0]
    other = replace(manifest, files={**manifest.files, shard: "0" * 64}).hash
    elsewhere = replace(result.protocol, hashes={**result.protocol.hashes, "data": other})
    with pytest.raises(ValueError, match=f"hashes of data: {manifest.hash}, {other}"):
        check_comparable([result, replace(result, protocol=elsewhere)])
    with pytest.raises(ValueError, match=f"data set with hash {other}; this one has {manifest.hash}"):
        evaluate(subject, HELD_OUT, elsewhere)


def test_a_network_that_the_protocol_has_a_hash_of_must_be_there(found, subject) -> None:
    protocol = found[0].protocol
    with pytest.raises(ValueError, match=r"tiny has the hash of export, but only data, judge, encoders"):
        evaluate(subject, HELD_OUT, replace(protocol, hashes={**protocol.hashes, "export": "abc"}))
    with pytest.raises(ValueError, match=r"tiny has the hash of judge"):
        evaluate(subject, HELD_OUT, replace(protocol, judge=""))


def test_results_of_older_releases_are_compared_with_each_other_alone(found, tmp_path) -> None:
    hashes = {role: one for role, one in found[0].protocol.hashes.items() if role != "data"}
    replace(found[0], protocol=replace(found[0].protocol, hashes=hashes)).save(tmp_path / "old.json")
    old = Result.load(tmp_path / "old.json")
    check_comparable([old, old])
    with pytest.raises(ValueError, match=r"hashes of data: not recorded \(by an older release\), "):
        check_comparable([old, found[0]])


def test_every_metric_is_drawn_whatever_network_measured_it(found) -> None:
    """Figure 6 of the paper is FID, by Inception, against the guidance scale."""
    result = found[0]
    row = {"inception/fid": Measured(9.0, 8.0, 10.0, 3), "agreement/image": Measured(0.2, 0.1, 0.3, 3)}
    swept = [
        replace(
            result,
            protocol=replace(result.protocol, judge="", guidance_scale=scale),
            tables={"pair-test": {"text-to-image": row}},
        )
        for scale in (1.0, 4.0)
    ]
    drawn = plots(swept, "guidance_scale")
    assert list(drawn) == ["inception/fid", "agreement/image"]
    curve = drawn["inception/fid"].partition('id="curve-')[2].partition("</g>")[0]
    assert curve.count("<use") == 2
    rows = [row for table in result.tables.values() for row in table.values()]
    measured = {name for row in rows for name, found in row.items() if found.value is not None}
    assert set(plots([result], "steps")) == measured >= {"judge/kid", "text/CIDEr-D", "psnr"}


def test_curves_go_along_a_varied_field_or_a_number_of_the_model(found) -> None:
    result = found[0]
    longer = replace(result, protocol=replace(result.protocol, steps=50))
    lines = curves([longer, result], "steps", "judge/style")
    assert [x for x, _ in lines["text-to-image, pair-test"]] == [2, 50]
    more = replace(result, model={**result.model, "samples": 9})
    assert [x for x, _ in curves([result, more], "samples", "judge/style")["image codec, pair-test"]] == [7, 9]
    with pytest.raises(ValueError, match="cannot be compared"):
        curves([result, longer], "samples", "judge/style")
    with pytest.raises(ValueError, match="has no 'scheduler'"):
        curves([result], "scheduler", "judge/style")


def test_the_report_shows_numbers_and_samples(found, tmp_path) -> None:
    result, samples = found
    longer = replace(result, protocol=replace(result.protocol, steps=50))
    page = write_report(tmp_path, [result, longer], samples, "steps").read_text()
    assert page.count("<svg") >= 4
    assert "judge/concept top-5" in page
    assert (tmp_path / "pair-test-text-to-image.png").is_file()
    value = result.tables["pair-test"]["text-to-image"]["encoders/concept top-5"]
    assert f"{value.value:.3g} <small>[{value.low:.3g}, {value.high:.3g}]" in page


def test_the_share_of_what_is_reached_on_real_pictures(found) -> None:
    table = found[0].tables["pair-test"]
    half = replace(table["text-to-image"]["judge/style"], value=0.3)
    real = replace(half, value=0.6)
    made = {"text-to-image": {"judge/style": half, "judge/fid": half}, "given image": {"judge/style": real}}
    assert share_of_real(made, "text-to-image", "judge/style") == pytest.approx(0.5)
    assert share_of_real(made, "text-to-image", "judge/fid") is None


def test_texts_are_measured_by_what_they_say(bench, data) -> None:
    items = items_of(data, 4)
    values = [items.classes.labels[0], items.references[1][0], items.given["text"][2], "something else"]
    row = measure(Generated("text", values, items, "text"), bench, 10)["all"]
    assert row["text/differs"].value == 3 / 4
    assert row["text/is a caption"].value >= 2 / 4
    assert 1 / 4 <= row["text/label"].value <= 3 / 4
    assert row["text/label"].value <= row["text/label or synonym"].value
    assert row["agreement/text"].value < 1
    same = measure(Generated("text", items.given["text"], items, "text"), bench, 10)["all"]
    assert same["agreement/text"].value == pytest.approx(1, abs=1e-5)


def test_several_texts_of_an_item_have_a_diversity(bench, data) -> None:
    items = items_of(data, 2)
    row = measure(Generated("text", ["a b", "a b", "c d", "e f"], items, "image"), bench, 10)["all"]
    assert row["text/diversity"].value == pytest.approx(0.5)
    assert row["text/distinct-1"].value == pytest.approx(6 / 8)
    assert row["text/label"].count == 2


def seen(networks, data, count: int) -> dict[str, np.ndarray]:
    """Features of `count` real pictures, over and over where there are no more."""
    pictures = fit_images([MODALITIES["image"].check(picture) for picture in data.pictures], 32)
    return {one.name: np.resize(rows := one(pictures), (count, rows.shape[1])) for one in networks.features}


def remarks_of(pictures, items, bench, network: str) -> dict[str, str]:
    row = measure(Generated("image", pictures, items, "text"), bench, 10)["all"]
    return {name: row[f"{network}/{name}"].remark for name in ("fid", "kid", "cmmd")}


def test_distances_of_few_pictures_stand_in_their_place_and_say_so(bench, networks, data) -> None:
    few = replace(bench, real=seen(networks, data, 300))
    for count in (1, 2, 19):
        items = items_of(data, count)
        made = Generated("image", fit_images(items.given["image"], 32), items, "text")
        for group in measure(made, few, 10).values():
            for network in ("judge", "encoders"):
                for name in ("fid", "kid", "cmmd"):
                    one = group[f"{network}/{name}"]
                    assert one.remark == TOO_FEW
                    assert (one.value is None) == (one.count == 1)


def test_enough_pictures_need_no_remark(bench, networks, data) -> None:
    """KID and CMMD from 20 pictures on; FID where they and the real ones are more than there are features."""
    items = items_of(data, 10)
    wide = seen(networks, data, 2)["judge"].shape[1]
    assert wide < 20, "so that the jackknife's parts decide for the judge, and the features for the encoders"
    real = seen(networks, data, 300)
    pictures = [picture for picture in fit_images(items.given["image"], 32) for _ in range(-(-20 // len(items)))]
    enough = replace(bench, real=real)
    assert remarks_of(pictures, items, enough, "judge") == {"fid": "", "kid": "", "cmmd": ""}
    assert remarks_of(pictures, items, enough, "encoders") == {"fid": TOO_FEW, "kid": "", "cmmd": ""}
    lacking = replace(bench, real={name: rows[:19] for name, rows in real.items()})
    assert set(remarks_of(pictures, items, lacking, "judge").values()) == {TOO_FEW}


def test_one_item_says_nothing(subject, protocol, tmp_path) -> None:
    result, samples = evaluate(subject, HELD_OUT, replace(protocol, count=1), ["text-to-image", "image-to-text"])
    (table,) = (table for name, table in result.tables.items() if name == "pair-test")
    assert {m.low for row in table.values() for m in row.values()} == {None}
    assert table["image-to-text"]["text/CIDEr-D"].brief == "one item"
    assert table["image-to-text"]["text/diversity"].brief == "one text each"
    assert any("one item is too few" in said for said in remarks(result))
    assert any("too few images" in said for said in remarks(result))
    result.save(tmp_path / "results.json")
    assert Result.load(tmp_path / "results.json") == result
    page = write_report(tmp_path, [result], samples).read_text()
    assert "one item is too few" in page
    assert "too few" in page
    assert "nan" not in (tmp_path / "results.json").read_text().lower()
