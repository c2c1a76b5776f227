"""A picture and its caption together, by their laws."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.applications.again import replay
from versatile_diffusion.applications.joint import Exchange, joint

FAST: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 3.0}
CAPTIONING: dict[str, Any] = {"guidance_scale": 2.0, "temperature": 0.7}
OFTEN = Exchange(every=2)


@pytest.fixture
def cat() -> Condition:
    return Condition("text", "a cat")


def test_without_weights_both_are_made_alone(
    tiny_pipeline: VersatileDiffusionPipeline, cat: Condition, picture: Image.Image
) -> None:
    """A stream that does not listen is the plain task, bit for bit, whatever the other one does."""
    given, run = [cat, Condition("image", picture, region=(0, 0, 0.5, 1))], {**FAST, "num_outputs": 2, "seed": 3}
    deaf = joint(tiny_pipeline, given, exchange=Exchange(caption_weight=0, every=2), captioning=CAPTIONING, **run)
    assert torch.equal(deaf.picture.latents, tiny_pipeline.generate("image", given, **run).latents)
    dumb = joint(tiny_pipeline, [cat], exchange=Exchange(picture_weight=0, every=2), captioning=CAPTIONING, **run)
    plain = tiny_pipeline.text_variation("a cat", **run | CAPTIONING)
    assert torch.equal(dumb.caption.latents, plain.latents)
    assert dumb.caption.texts == plain.texts
    assert not torch.equal(dumb.picture.latents, tiny_pipeline.generate("image", [cat], **run).latents)


def test_each_hears_the_other(tiny_pipeline: VersatileDiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few steps the picture is read for the caption, and the caption for the picture until that is done."""
    read: dict[str, list[Any]] = {"text": [], "image": []}

    def noting(encoder: Any) -> Any:
        encode = encoder.encode
        return lambda values, masks=None: read[encoder.modality].append(values) or encode(values, masks)

    for encoder in list(tiny_pipeline.bank.encoders.values()):
        monkeypatch.setattr(encoder, "encode", noting(encoder))
    joint(tiny_pipeline, exchange=Exchange(every=6), seed=0, **FAST)
    once = {name: len(values) for name, values in read.items()}
    for values in read.values():
        values.clear()
    made = joint(tiny_pipeline, exchange=Exchange(every=2, after=0), seed=0, **FAST)
    assert {name: len(values) - once[name] for name, values in read.items()} == {"text": 2, "image": 2}
    last = read["image"][-1][0]
    assert np.array_equal(np.asarray(last), np.asarray(made.picture.images[0])), "the finished picture is described"


@pytest.mark.parametrize("conditions", [[], [Condition("text", "a red apple", weight=0.5)]])
def test_an_item_is_the_same_alone(tiny_pipeline: VersatileDiffusionPipeline, conditions: list[Condition]) -> None:
    run = {**FAST, "exchange": OFTEN, "captioning": CAPTIONING}
    batch = joint(tiny_pipeline, conditions, num_outputs=3, seed=4, **run)
    alone = joint(tiny_pipeline, conditions, seed=6, **run)
    for of_batch, single in ((batch[2].picture, alone.picture), (batch[2].caption, alone.caption)):
        assert torch.allclose(of_batch.latents, single.latents, atol=1e-4)
    assert batch[2].caption.texts == alone.caption.texts
    assert (len(batch), batch[2].picture.settings["seed"]) == (3, 6)


def test_both_can_be_replayed(tiny_pipeline: VersatileDiffusionPipeline, cat: Condition, picture: Image.Image) -> None:
    conditions = [cat, Condition("image", picture, weight=0.5)]
    made = joint(
        tiny_pipeline, conditions, exchange=OFTEN, captioning=CAPTIONING, num_outputs=2, **FAST | {"mixing": "layer"}
    )
    for output, item in ((made.picture, made.picture[1]), (made.caption, made.caption[1])):
        settings = json.loads(json.dumps(item.settings, allow_nan=False))
        assert settings["application"]["captions"] == made.caption.texts
        again = replay(tiny_pipeline, settings, lambda _: picture)
        assert torch.equal(again.latents, output.latents[1:])
        assert again.settings == item.settings
    with pytest.raises(ValueError, match=r"applications\.again"):
        tiny_pipeline.replay(made.picture.settings)


def test_what_each_costs_is_counted(tiny_pipeline: VersatileDiffusionPipeline, cat: Condition) -> None:
    made = joint(tiny_pipeline, [cat], exchange=Exchange(after=0), **FAST)
    assert made.picture.cost == tiny_pipeline.dual_guided("a", Image.new("RGB", (16, 16)), **FAST).cost
    assert made.caption.cost.passes == 2 * FAST["num_inference_steps"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every is 0"),
        ({"every": 1.5}, "every is 1.5"),
        ({"after": 1}, "after is 1"),
        ({"caption_weight": -1}, "caption_weight is -1"),
        ({"picture_weight": float("nan")}, "picture_weight is nan"),
    ],
)
def test_exchanges_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Exchange(**arguments)


def test_what_is_refused(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    with pytest.raises(ValueError, match="candidates: not supported in joint generation"):
        joint(tiny_pipeline, candidates=3)
    with pytest.raises(ValueError, match="all conditions have weight 0"):
        joint(tiny_pipeline, exchange=Exchange(caption_weight=0))
