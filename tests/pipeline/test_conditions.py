"""Every control of a condition, through the pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from versatile_diffusion import Condition
from versatile_diffusion.sampling.focus import Focus
from versatile_diffusion.sampling.rules import MIXINGS
from versatile_diffusion.sampling.seeds import candidates

FAST: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 2.0, "seed": 0}


@pytest.fixture
def other() -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def text(words: str = "a dog", **controls: Any) -> Condition:
    return Condition("text", words, **controls)


@pytest.mark.parametrize("data", ["image", "text"])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_any_number_of_each_for_both_outputs(
    tiny_pipeline: Any, picture: Image.Image, other: Image.Image, data: str, mixing: str
) -> None:
    conditions = [text("a cat"), text("a dog", weight=2), Condition("image", picture), Condition("image", other)]
    run = {"mixing": mixing, "layer_seed": 3, **FAST}
    batch = tiny_pipeline.generate(data, conditions, num_outputs=2, **run)
    alone = tiny_pipeline.generate(data, conditions, **run | {"seed": 1})
    assert torch.allclose(batch[1].latents, alone.latents, atol=1e-3 * float(alone.latents.abs().max()))
    fewer = tiny_pipeline.generate(data, conditions[:3], **run)
    dropped = tiny_pipeline.generate(data, [*conditions[:3], replace(conditions[3], weight=0)], **run)
    assert torch.equal(dropped.latents, fewer.latents)
    assert dropped.cost == fewer.cost
    hot = [replace(condition, weight=float(k == 3)) for k, condition in enumerate(conditions)]
    single = tiny_pipeline.generate(data, [Condition("image", other)], **FAST)
    one_hot = tiny_pipeline.generate(data, hot, **run)
    # the null context of several contexts is that of the task with this context alone, so the runs are the same
    assert torch.equal(one_hot.latents, single.latents)


LEFT = (0, 0, 0.5, 1)
CONTROLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "scales": ({"guidance_scale": 5.0}, {"guidance_interval": (0.2, 0.9), "guidance_rescale": 0.5}),
    "negative": ({"negative": Image.new("RGB", (24, 20), "blue")}, {"negative_prompt": "a pear"}),
    "mask": ({"mask": np.eye(20, 24, dtype=np.uint8) * 255}, {"mixing": "join"}),
    "focus": ({"focus": Focus(-1, "pca", on_null=True)}, {"null": "2022"}),
    "times": ({"start": 0.2, "end": 0.6}, {"eta": 0.5}),
    "region": ({"region": LEFT}, {"height": 16, "width": 32}),
    "start": ({}, {"start": Image.new("RGB", (24, 20), "green"), "fidelity": 0.5, "repaint": LEFT}),
}


@pytest.mark.parametrize("data", ["image", "text"])
@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("contexts", [("text",), ("image",), ("text", "image")])
def test_an_item_is_the_same_alone_whatever_guides(
    tiny_pipeline: Any, picture: Image.Image, data: str, control: str, contexts: tuple[str, ...]
) -> None:
    """All tasks, with each control, for both outputs."""
    of_picture, run = CONTROLS[control]
    if data == "text" and control in ("region", "start"):
        pytest.skip("a text has no canvas")
    of_text = {name: value for name, value in of_picture.items() if name not in ("mask", "negative")}
    given = {"text": text(**of_text), "image": Condition("image", picture, **of_picture)}
    if control == "negative" and "text" not in contexts:
        run = {}
    conditions, options = [given[name] for name in contexts], FAST | run
    batch = tiny_pipeline.generate(data, conditions, num_outputs=2, **options)
    alone = tiny_pipeline.generate(data, conditions, **options | {"seed": 1})
    assert torch.allclose(batch[1].latents, alone.latents, atol=1e-3 * float(alone.latents.abs().max()))
    assert not torch.allclose(batch[0].latents, alone.latents, atol=1e-2)
    if data == "text":
        assert batch[1].texts == alone.texts


def test_its_own_scale_is_that_of_a_run(tiny_pipeline: Any) -> None:
    own = tiny_pipeline.generate("image", [text(guidance_scale=5.0)], **FAST)
    run = tiny_pipeline.generate("image", [text()], **FAST | {"guidance_scale": 5.0})
    assert torch.equal(own.latents, run.latents)
    assert own.cost == run.cost


def test_two_scales_cost_a_pass_more(tiny_pipeline: Any, picture: Image.Image) -> None:
    pair = [text(guidance_scale=5.0), Condition("image", picture)]
    assert tiny_pipeline.generate("image", pair, **FAST).cost.passes == 4 * 3
    assert tiny_pipeline.generate("image", pair[1:], **FAST).cost.passes == 4 * 2


def test_negatives(tiny_pipeline: Any, picture: Image.Image, other: Image.Image) -> None:
    by_run = tiny_pipeline.text_to_image("a dog", negative_prompt="a cat", **FAST)
    by_condition = tiny_pipeline.generate("image", [text(negative="a cat")], **FAST)
    assert torch.equal(by_condition.latents, by_run.latents)
    encoder = tiny_pipeline.bank.encoders["image"]
    for negative in (other, encoder.encode([other]), encoder.encode([other])[0]):
        pushed = tiny_pipeline.generate("image", [Condition("image", picture, negative=negative)], **FAST)
        itself = tiny_pipeline.generate("image", [Condition("image", picture)], **FAST)
        assert not torch.allclose(pushed.latents, itself.latents)
    same = tiny_pipeline.generate("image", [Condition("image", picture, negative=picture)], **FAST)
    unguided = tiny_pipeline.image_variation(picture, **FAST | {"guidance_scale": 1})
    assert torch.allclose(same.latents, unguided.latents, atol=1e-4)
    pair = tiny_pipeline.generate("image", [text(negative=["a cat", "a cat"])], **FAST)
    assert len(pair) == 2


def test_a_negative_is_no_longer_there_when_its_condition_is_not(tiny_pipeline: Any) -> None:
    """Steps after `end` go on from the null context, not from the negative."""
    states: dict[Any, list[torch.Tensor]] = {None: [], "a cat": []}
    for negative, seen in states.items():

        def watch(pipe: Any, step: int, timestep: int, tensors: dict[str, Any], seen: Any = seen) -> dict[str, Any]:
            seen.append(tensors["latents"])
            return {"latents": torch.ones(1, 4, 4, 4)}

        ends = [text(end=0.25, negative=negative)]
        final = tiny_pipeline.generate("image", ends, callback_on_step_end=watch, **FAST)
        assert final.cost.passes == 2 + 3
    assert not torch.equal(states[None][0], states["a cat"][0])
    for plain, negative in zip(states[None][1:], states["a cat"][1:], strict=True):
        assert torch.equal(plain, negative)


def test_focus_changes_the_tokens(tiny_pipeline: Any, picture: Image.Image) -> None:
    def run(focus: Any) -> torch.Tensor:
        return tiny_pipeline.generate("image", [Condition("image", picture, focus=focus)], **FAST).latents

    assert torch.equal(run(0.5), run(None))
    assert torch.equal(run(0.1), run(Focus(0.1, "2023")))
    assert len({float(run(focus).sum()) for focus in (None, 0.1, Focus(-2), Focus(2))}) == 4


def test_start_and_end(tiny_pipeline: Any, picture: Image.Image) -> None:
    early, late = text(end=0.5), Condition("image", picture, start=0.5)
    both = tiny_pipeline.generate("image", [early, late], **FAST)
    seen: list[torch.Tensor] = []

    def watch(pipe: Any, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> None:
        seen.append(tensors["latents"])

    alone = tiny_pipeline.generate("image", [text()], callback_on_step_end=watch, **FAST)
    states: list[torch.Tensor] = []
    tiny_pipeline.generate(
        "image", [early, late], callback_on_step_end=lambda *a: states.append(a[3]["latents"]), **FAST
    )
    assert torch.equal(states[1], seen[1])
    assert not torch.equal(states[2], seen[2])
    assert not torch.equal(both.latents, alone.latents)
    assert both.cost == alone.cost


def test_settings_hold_every_control_and_replay(tiny_pipeline: Any, picture: Image.Image, tmp_path: Path) -> None:
    import json

    files = {name: tmp_path / f"{name}.png" for name in ("picture", "negative", "mask", "region")}
    for file in files.values():
        picture.save(file)
    Image.fromarray(np.tri(16, dtype=np.uint8) * 255).save(files["region"])
    image = Condition(
        "image",
        str(files["picture"]),
        weight=0.7,
        mask=str(files["mask"]),
        guidance_scale=4.0,
        negative=str(files["negative"]),
        focus=Focus(-1, drop_global=True),
        start=0.2,
        region=str(files["region"]),
    )
    words = text(end=0.9, region=(0, 0, 0.5, 1), focus=0.2, negative="a cat")
    run = {"guidance_interval": (0.0, 0.8), "guidance_rescale": 0.5, "num_outputs": 2, **FAST}
    made = tiny_pipeline.generate("image", [image, words], **run)
    settings = json.loads(json.dumps(made.settings, allow_nan=False))
    again = tiny_pipeline.replay(settings)
    assert torch.equal(again.latents, made.latents)
    assert again.settings == made.settings
    assert again.cost == made.cost
    assert tiny_pipeline.replay(json.loads(json.dumps(made[1].settings))).settings == made[1].settings
    Image.fromarray(np.ones((16, 16), np.uint8) * 255).save(files["region"])
    with pytest.raises(ValueError, match=r"region\.png has changed"):
        tiny_pipeline.replay(settings)


def test_a_layer_plan_replays(tiny_pipeline: Any, picture: Image.Image) -> None:
    pair = [text(), Condition("image", picture)]
    made = tiny_pipeline.generate("image", pair, mixing="layer", layer_seed=1, **FAST)
    assert len(made.layer_plan) == 4
    again = tiny_pipeline.generate("image", pair, mixing="layer", layer_plan=made.layer_plan, **FAST)
    assert torch.equal(again.latents, made.latents)
    all_text = [[0] * len(made.layer_plan[0])]
    alone = tiny_pipeline.generate("image", [text()], **FAST)
    assert torch.equal(
        tiny_pipeline.generate("image", pair, mixing="layer", layer_plan=all_text, **FAST).latents, alone.latents
    )


def test_masks_of_any_size_are_fitted_as_their_picture(tiny_pipeline: Any) -> None:
    """What is left out of a wide picture makes no difference, whatever the size of the mask."""
    left = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    changed = left.copy()
    changed[:, 48:] = 0
    mask = np.zeros((32, 64), np.float32)
    mask[:, :32] = 1
    encode = tiny_pipeline.bank.encoders["image"].encode
    for one in (mask, mask[::4, ::4], np.kron(mask, np.ones((2, 2), np.float32))):
        kept, whole = encode([Image.fromarray(left)], [one]), encode([Image.fromarray(left)])
        assert not torch.allclose(kept, whole)
        assert kept[0, 1:].norm(dim=-1).gt(0).sum() < whole[0, 1:].norm(dim=-1).gt(0).sum()
        assert torch.equal(kept, encode([Image.fromarray(left)], [mask]))


IMAGE = Image.new("RGB", (24, 20), "red")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (lambda: Condition("image", IMAGE, mask=np.zeros((20, 24))), "all black"),
        (lambda: Condition("image", IMAGE, mask=np.ones((20, 40))), "must have the aspect ratio of 24 x 20"),
        (lambda: Condition("image", IMAGE, mask=np.ones((20, 24, 3))), "shape"),
        (lambda: Condition("image", IMAGE, mask=[np.ones((20, 24))] * 2), "2 masks for 1 values"),
        (lambda: Condition("image", tokens=torch.zeros(3, 192), mask=np.ones((4, 4))), "a mask needs a raw value"),
        (lambda: text(mask=np.ones((4, 4))), "a text condition does not support masks"),
        (lambda: text(weight=-1), "weight of a text condition is -1"),
        (lambda: text(weight=float("nan")), "weight of a text condition is nan"),
        (lambda: text(start=0.6, end=0.4), "start and end of a text condition are 0.6 and 0.4"),
        (lambda: text(start=0.5, end=0.5), "0 <= start < end <= 1"),
        (lambda: text(end=1.5), "0 <= start < end <= 1"),
        (lambda: text(start=0.3, end=0.31), "contains none of the 4 steps"),
        (lambda: text(guidance_scale=-1), "guidance_scale of a text condition is -1"),
        (lambda: text(negative=[]), "empty list of negatives"),
        (lambda: text(negative=3), "a text must be a str"),
        (lambda: text(negative=torch.zeros(0, 192)), "which is empty"),
        (lambda: text(focus=7), "focus level is 7"),
        (lambda: text(region=(0, 0, 0, 1)), "a box is"),
        (lambda: text(region=np.ones((3, 9))), "aspect ratio"),
        (lambda: Condition("text", tokens=torch.zeros(0, 192)), "at least one token is required"),
        (
            lambda: Condition("text", tokens=torch.zeros(2, 100)),
            r"the text context stream of this model reads",
        ),
        (lambda: Condition("sound", "x"), "cannot be conditioned on 'sound'"),
    ],
)
def test_mistakes_are_refused_before_any_work(idle_pipeline: Any, condition: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        idle_pipeline.generate("image", [condition()], **FAST)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_interval": (0.7, 0.2)}, "guidance_interval is"),
        ({"guidance_interval": 0.5}, "guidance_interval is 0.5"),
        ({"guidance_rescale": 2}, "guidance_rescale is 2"),
        ({"repaint": (0, 0, 1, 1)}, "repaint needs start"),
        ({"layer_plan": [[0]]}, "layer_plan needs mixing 'layer'"),
        ({"layer_plan": [[0]], "mixing": "layer"}, "layer_plan must have one list of 4 choices, or 4"),
        ({"layer_plan": [[1, 1, 1, 1]], "mixing": "layer"}, "indices of conditions with weight above 0: 0 to 0"),
        (
            {"mixing": "layer", "conditions": [text(region=(0, 0, 1, 1))]},
            "region needs mixing attention or model",
        ),
        ({"data": "text", "conditions": [text(region=(0, 0, 1, 1))]}, "text has no canvas"),
        ({"data": "text", "max_length": 1}, "max_length is 1"),
        ({"rank": True, "conditions": [Condition("text", tokens=torch.zeros(2, 192))]}, "need raw values, not tokens"),
    ],
)
def test_mistakes_of_a_run_are_refused(tiny_pipeline: Any, options: dict[str, Any], message: str) -> None:
    given = {"data": "image", "conditions": [text()], **options}
    with pytest.raises(ValueError, match=message):
        tiny_pipeline.generate(**given, **FAST)


class TestRanking:
    def test_texts_are_ranked_by_agreement_and_merged(self, tiny_pipeline: Any, picture: Image.Image) -> None:
        out = tiny_pipeline.image_to_text(picture, num_outputs=6, top_k=3, max_length=4, rank=True, **FAST)
        assert sorted(item for row in out.ranking for item in row.items) == list(range(6))
        assert [row.score for row in out.ranking] == sorted((row.score for row in out.ranking), reverse=True)
        encoders = tiny_pipeline.bank.encoders
        wanted = encoders["image"].embed([picture]).concept
        for row in out.ranking:
            assert len({" ".join(out.texts[item].lower().split()) for item in row.items}) == 1
            assert row.score == pytest.approx(float(encoders["text"].embed([row.value]).concept @ wanted.mT), abs=1e-5)
        assert len({" ".join(row.value.lower().split()) for row in out.ranking}) == len(out.ranking)
        plain = tiny_pipeline.image_to_text(picture, num_outputs=6, top_k=3, max_length=4, **FAST)
        assert plain.texts == out.texts
        assert plain.ranking == ()

    def test_greedy_texts_of_one_latent_are_one(self, tiny_pipeline: Any, picture: Image.Image) -> None:
        run = {"num_outputs": 3, "temperature": 0.0, "rank": True, "start": torch.zeros(32), "fidelity": 1.0, **FAST}
        out = tiny_pipeline.image_to_text(picture, **run)
        assert [row.count for row in out.ranking] == [3]
        assert out.texts == [out.ranking[0].value] * 3

    def test_each_prompt_has_its_own(self, tiny_pipeline: Any, picture: Image.Image) -> None:
        out = tiny_pipeline.text_to_image(["a cat", "a red apple"], num_outputs=2, rank=True, **FAST)
        assert [row.prompt for row in out.ranking] == [0, 0, 1, 1]
        text, image = (tiny_pipeline.bank.encoders[name] for name in ("text", "image"))
        best = out.ranking[2]
        expected = text.embed(["a red apple"]).concept @ image.embed([best.value]).concept.mT
        assert best.score == pytest.approx(float(expected), abs=1e-5)

    def test_a_text_too_long_for_the_judge_is_cut(self, tiny_pipeline: Any) -> None:
        judge = tiny_pipeline.bank.encoders["text"]
        words = "red apple " * 40
        with pytest.raises(ValueError, match="at most 24"):
            judge.embed([words])
        assert torch.equal(judge.compare([words]), judge.compare(["red apple " * 60]))


class TestCandidates:
    def test_the_best_of_an_items_candidates_is_kept(self, tiny_pipeline: Any) -> None:
        """It is what its seed alone gives, and no other candidate agrees better."""
        prompts = ["a cat", "a red apple"]
        out = tiny_pipeline.text_to_image(prompts, num_outputs=2, candidates=3, **FAST | {"seed": 5})
        assert (len(out), len(out.settings["seeds"])) == (4, 4)
        seeds = candidates(out.settings["seeds"], 3)
        every = tiny_pipeline.text_to_image(prompts, num_outputs=6, rank=True, **FAST | {"seed": seeds})
        scores = dict(sorted((item, row.score) for row in every.ranking for item in row.items))
        kept = [max(range(k, k + 3), key=scores.__getitem__) for k in range(0, 12, 3)]
        assert out.settings["kept"] == [seeds[k] for k in kept]
        assert torch.equal(out.latents, every.latents[kept])
        assert out.cost == every.cost * 3
        alone = tiny_pipeline.text_to_image("a red apple", candidates=3, **FAST | {"seed": 8})
        assert torch.allclose(alone.latents[0], out.latents[3], atol=1e-5)
        assert tiny_pipeline.text_to_image("a cat", **FAST).cost * 3 == out.cost

    def test_texts_have_them_and_they_are_replayed(self, tiny_pipeline: Any, picture: Image.Image) -> None:
        out = tiny_pipeline.image_to_text(picture, num_outputs=2, candidates=4, **FAST)
        again = tiny_pipeline.replay(out[1].settings, lambda _: picture)
        assert again.texts == out.texts[1:]
        assert torch.equal(again.latents, out.latents[1:])

    def test_one_is_the_item_itself(self, tiny_pipeline: Any) -> None:
        plain, one = (tiny_pipeline.text_to_image("a cat", **n, **FAST) for n in ({}, {"candidates": 1}))
        assert torch.equal(plain.latents, one.latents)
        assert "kept" not in one.settings

    def test_what_cannot_be_compared_is_refused(self, tiny_pipeline: Any) -> None:
        with pytest.raises(ValueError, match="cannot compare"):
            tiny_pipeline.generate("image", [Condition("text", tokens=torch.zeros(5, 192))], candidates=2, **FAST)
