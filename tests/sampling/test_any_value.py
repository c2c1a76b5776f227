"""Whatever is given where a number, a name or a list belongs: it is taken, or refused in one short sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from versatile_diffusion.applications.disentangle import levels
from versatile_diffusion.applications.joint import Exchange, joint
from versatile_diffusion.applications.round_trip import edit
from versatile_diffusion.diffuser.context import Context, share_maps, shares
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities.image import check_image
from versatile_diffusion.pipeline.names import own_names
from versatile_diffusion.pipeline.replay import arguments_of
from versatile_diffusion.pipeline.request import Request
from versatile_diffusion.pipeline.run import prepare
from versatile_diffusion.sampling import seeds
from versatile_diffusion.sampling.focus import Focus
from versatile_diffusion.sampling.rules import join_contexts

LONGEST = 400
ANY: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        2**63,
        10**400,
        -(10**5000),
        1e308,
        math.inf,
        math.nan,
        "",
        "x" * 10**5,
        "3",
        b"3",
        "attention",
    ),
    *([], [1], [[0]], list(range(10**4)), ["a", None], (0.2, 0.8), {0, 1}, {"a": 1}, {}, range(2), object(), Exception),
    *(np.zeros((3, 4)), np.float32("nan"), np.array([0.2, 0.8]), np.array(5), np.bool_(True), torch.zeros(2, 2)),
    *(torch.tensor(3), 1j, Focus(0), {"level": 1, "convention": []}, [{"sha256": 5}], {"sha256": "a", "file": 3}),
)


def generators() -> list[Any]:
    """Fresh ones, since they can be read only once."""
    return [iter([0.2, 0.8]), (k for k in (1, 2)), map(int, "12"), {0.2: 1, 0.8: 2}.keys()]


def taken_or_refused(act: Callable[[Any], Any], value: Any) -> None:
    said = "taken"
    try:
        act(value)
    except ValueError as error:
        said = str(error)
    assert 0 < len(said) <= LONGEST, said[:1000]
    assert "\n" not in said


WHOLE: dict[str, Any] = {"data": "image", "conditions": (Condition("text", "a"),), "mixing": "layer"}
PLACES: dict[str, Callable[[Any], Any]] = {
    **{
        f"request {f.name}": lambda value, name=f.name: Request(**{**WHOLE, name: value})
        for f in fields(Request)
        if f.name != "conditions"
    },
    **{
        f"condition {f.name}": lambda value, name=f.name: Condition(**{"modality": "text", "value": "a", name: value})
        for f in fields(Condition)
    },
    **{f"focus {f.name}": lambda value, name=f.name: Focus(**{"level": 0, name: value}) for f in fields(Focus)},
    **{f"exchange {f.name}": lambda value, name=f.name: Exchange(**{name: value}) for f in fields(Exchange)},
    "seed": lambda value: seeds.item_seeds(2, value),
    "generator": lambda value: seeds.item_seeds(2, generator=value),
    "strength": lambda value: own_names({"strength": value}),
    "levels": lambda value: levels(count=value),
    "convention": lambda value: levels(value),
    "weight of a context": lambda value: shares([Context("text", torch.zeros(1, 1, 2), value)] * 2),
}


@pytest.mark.parametrize("place", PLACES)
def test_any_value_is_taken_or_refused_in_a_short_sentence(place: str) -> None:
    for value in (*ANY, *generators()):
        taken_or_refused(PLACES[place], value)


@pytest.mark.parametrize("place", ["seed", "generator", "request guidance_interval", "request layer_plan"])
@pytest.mark.parametrize("number", range(4))
def test_what_has_no_order_or_is_read_once_is_no_list(place: str, number: int) -> None:
    """And a set and a dict."""
    for value in (generators()[number], {1, 2}, {1: "a", 2: "b"}, {0.2, 0.8}):
        with pytest.raises(ValueError, match=r"it must be|with one per item"):
            PLACES[place](value)


@pytest.mark.parametrize("weight", [1e308, 1e39, 1.0, 1e-300])
def test_weights_of_any_size_count_by_their_proportions(tiny_pipeline: Any, weight: float) -> None:
    tokens = torch.zeros(1, 1, 2)
    pair = [Context("text", tokens, weight), Context("image", tokens, weight, torch.eye(2))]
    assert shares(pair) == [0.5, 0.5]
    ones = [Context("text", tokens, 1.0), Context("image", tokens, 1.0, torch.eye(2))]
    for mine, plain in zip(share_maps(pair, (2, 2)), share_maps(ones, (2, 2)), strict=True):
        assert torch.equal(mine, plain)
    for mixing in ("model", "join"):
        options = {"mixing": mixing, "num_inference_steps": 1, "guidance_scale": 1, "seed": 0}
        given = [[Condition("text", t, weight=w) for t in ("a", "b")] for w in (weight, 1.0)]
        mine, plain = (tiny_pipeline.generate("text", one, output_type="latent", **options).latents for one in given)
        assert torch.equal(mine, plain)


HALF = "caf\udce9"  # as a shell hands on bytes that are no UTF-8


@pytest.mark.parametrize(
    "give",
    [
        lambda pipe: pipe.text_to_image(HALF),
        lambda pipe: pipe.text_to_image("a", negative_prompt=HALF),
        lambda pipe: pipe.text_to_image("a", negative_prompt=["b", HALF]),
        lambda pipe: pipe.generate("image", [Condition("text", "a", negative=HALF)]),
        lambda pipe: pipe.encode_context(HALF, "text"),
        lambda pipe: pipe.encode_latent(["a", HALF], "text"),
        lambda pipe: edit(pipe, Image.new("RGB", (8, 8)), remove="a", add=HALF, captioning={"num_inference_steps": 1}),
    ],
)
def test_half_a_character_is_no_text(tiny_pipeline: Any, give: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=r"a lone surrogate \(U\+DCE9\).*: 'caf\\udce9'"):
        give(tiny_pipeline)


@pytest.mark.parametrize(
    "given", [Condition("text", "a"), {Condition("text", "a")}, {"text": "a"}, ("text", "a"), None]
)
def test_conditions_are_a_list_of_conditions(tiny_pipeline: Any, given: Any) -> None:
    with pytest.raises(ValueError, match=r"conditions is .*; it must be a list of Condition"):
        tiny_pipeline.generate("image", given)
    with pytest.raises(ValueError, match=r"conditions is .*; it must be a list of Condition"):
        joint(tiny_pipeline, given)


def test_what_a_callback_answers_is_latents_or_nothing(tiny_pipeline: Any) -> None:
    run: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 1, "seed": 0, "output_type": "latent"}
    plain = tiny_pipeline.text_variation("a", **run).latents
    for answer in (None, {}, {"pred_x0": 5}):
        again = tiny_pipeline.text_variation("a", callback_on_step_end=lambda *_, told=answer: told, **run).latents
        assert torch.equal(again, plain)
    with pytest.raises(ValueError, match="callback_on_step_end returned 3; it must be a dict with latents, or None"):
        tiny_pipeline.text_variation("a", callback_on_step_end=lambda *_: 3, **run)


def test_images_without_levels_are_not_called_damaged() -> None:
    for image in (Image.fromarray(np.full((8, 8), np.nan, np.float32)), Image.new("RGB", (0, 0))):
        with pytest.raises(ValueError, match=r"the image: (grey levels|it has no pixels)"):
            check_image(image)
    assert check_image(Image.new("La", (4, 4))).size == (4, 4)


def test_weights_that_cannot_be_compared_are_refused_in_true_words() -> None:
    tokens = torch.zeros(1, 1, 2)
    for weights in ([], [0, 0], [1, -1], [1, math.inf], [1, math.nan], [1, 10**400]):
        with pytest.raises(ValueError, match="finite and 0 or more, at least one of them above 0; got"):
            shares([Context("text", tokens, weight) for weight in weights])
    half = [Context("text", tokens, 0.25), Context("text", tokens, 0.25)]
    assert join_contexts(half)[0].weight == 0.5  # absolute: others may stand beside it


def test_whatever_stands_in_a_record_is_a_value_or_a_sentence(tiny_pipeline: Any, picture: Any) -> None:
    """Each place of a record in turn, down to the leaves, holds each of these; nothing but a ValueError comes of it."""
    focus = Focus(0.3, "2023")
    conditions = [Condition("image", picture, focus=focus, region=(0, 0, 1, 1)), Condition("text", "a", negative="b")]
    options: dict[str, Any] = {"num_inference_steps": 2, "start": picture, "fidelity": 0.5, "repaint": (0, 0, 0.5, 1)}
    settings = prepare(tiny_pipeline, tiny_pipeline.request("image", conditions, options), 0, None, None).record()
    plain = [value for value in ANY if isinstance(value, str | int | float | list | dict | None)]
    count = 0
    for path in _places(settings):
        for value in plain:
            _replay(tiny_pipeline, _changed(settings, path, value), picture)
            count += 1
    assert count > 1000


def _replay(pipe: Any, settings: dict[str, Any], picture: Any) -> None:
    def act(_: Any) -> None:
        arguments = arguments_of(settings, lambda record: picture)
        data, conditions, seed, latents = (arguments.pop(name) for name in ("data", "conditions", "seed", "latents"))
        prepare(pipe, pipe.request(data, conditions, arguments), seed, None, latents)

    taken_or_refused(act, None)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, one in inner for place in ((*path, key), *_places(one, (*path, key)))]


def _changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = _changed(value[path[0]], path[1:], new)
    return copy
