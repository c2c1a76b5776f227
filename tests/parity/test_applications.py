"""The applications' arithmetic against the original: disentanglement, editing, contexts of the app, colours, words."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.conftest import relative
from versatile_diffusion.applications.blend import Picture, app_contexts
from versatile_diffusion.applications.round_trip import second_pass, steer
from versatile_diffusion.applications.variation import match_colours, match_moments
from versatile_diffusion.modalities.text.optimus.repeats import merge_same_adjacent_word, remove_duplicate_word
from versatile_diffusion.sampling.denoise import start_step
from versatile_diffusion.sampling.focus import (
    OVER_CHANNELS,
    Focus,
    Weights,
    apply_focus,
    by_dial,
    focus_null,
    scale_components,
)

TOLERANCE = 1e-5  # of everything here: no network runs


def part(reference: Path, name: str) -> Path:
    """A file of the whole reference set; the repository keeps those that are small."""
    if not (path := reference / name).is_file() and reference.parts[-3:] == ("tests", "data", "reference"):
        pytest.skip(f"{name} is only in the whole reference set (size)")
    return path


def vectors_of(reference: Path, name: str) -> tuple[dict[str, Tensor], Any]:
    """Tensors and JSON of one part."""
    tensors = load_file(part(reference, f"{name}.safetensors"))
    return tensors, json.loads(part(reference, f"{name}.json").read_text(encoding="utf-8"))


def test_dial_of_2023(reference: Path) -> None:
    tensors, about = vectors_of(reference, "disentangle")
    about = about["adjust_rank"]
    semantics, style = about["max_drop_rank"]
    dial = partial(by_dial, components=about["q"], semantics=semantics, style=style)
    for row in about["levels"]:
        level, wanted = row["level"], row["singular_value_multipliers"]
        weights = dial(level)
        assert weights.leading == pytest.approx(wanted, abs=1e-9), level
        if level != 0.5:
            assert weights.beyond == float(row["remainder_kept"])
        theirs = tensors[f"adjust_rank.{level}"]
        if (semantics, style) == (1, 5):  # the app's own, and ours
            assert relative(apply_focus(tensors["x"], Focus(level, "2023", components=about["q"])), theirs) < TOLERANCE
        local = scale_components(
            tensors["x"][:, 1:], Weights(tuple(wanted), float(row["remainder_kept"])), OVER_CHANNELS
        )
        spread = tensors["x"][:, 1:].std() / local.std()
        assert relative(local * spread, theirs[:, 1:]) < TOLERANCE


def test_levels_of_2022(reference: Path) -> None:
    tensors, about = vectors_of(reference, "disentangle")
    for row in about["rank_2022"]["levels"]:
        level, kind, count = row["level"], row["kind"], row.get("q", 0)
        name, first = f"rank_2022.{level}", row.get("q_remove", 0)
        for given, made in ((tensors["x"], f"{name}.cond"), (tensors["rank_2022.uncond_in"], f"{name}.uncond")):
            if kind != "none":
                leading = Weights((0.0,) * first + (1.0,) * (count - first))
                assert (
                    relative(scale_components(given[:, 1:], leading, OVER_CHANNELS), tensors[made][:, 1:]) < TOLERANCE
                )
        focus = Focus(level, "2022")
        assert focus.weights == by_kind(kind, count, first)
        assert relative(apply_focus(tensors["x"], focus), tensors[f"{name}.cond"]) < TOLERANCE
        assert relative(focus_null(tensors["rank_2022.uncond_in"], focus), tensors[f"{name}.uncond"]) < TOLERANCE


def by_kind(kind: str, count: int, first: int) -> Weights:
    """The reference's words as weights; level 0 leaves everything as it is, and ours counts 50 to be kept."""
    return Weights((1.0,) * 50 if kind == "none" else (0.0,) * first + (1.0,) * (count - first))


def test_steered_latents(reference: Path) -> None:
    tensors, _ = vectors_of(reference, "i2t2i")
    steered = steer(tensors["zt"], remove=tensors["z_negative"], add=tensors["z_positive"])
    assert relative(steered, tensors["z_edited"]) < TOLERANCE


def test_second_pass(reference: Path) -> None:
    tensors, about = vectors_of(reference, "i2t2i")
    image, text = second_pass(
        image=(tensors["image_context"], tensors["image_uncond"]),
        caption=tensors["text_context_new"],
        prompt=tensors["text_context_positive"],
        empty=tensors["text_context_empty"],
        image_weight=about["second_pass"]["mixed_ratio"],
    )
    for guide, name in ((image, "image"), (text, "text")):
        assert relative(guide.context.tokens, tensors[f"second.{name}_cond"]) < TOLERANCE
        assert relative(guide.null, tensors[f"second.{name}_uncond"]) < TOLERANCE
    assert image.context.weight == pytest.approx(about["second_pass"]["mixed_ratio"])
    assert text.context.weight == pytest.approx(1 - about["second_pass"]["mixed_ratio"])


def test_contexts_of_the_app(reference: Path, subtests: Any) -> None:
    tensors, cases = vectors_of(reference, "app_contexts")
    assert cases
    for case in cases:
        with subtests.test(case=case["name"]):
            contexts = app_contexts(*asked(case["call"], tensors))
            assert [context.stream for context in contexts] == [context["type"] for context in case["contexts"]]
            for place, (ours, theirs) in enumerate(zip(contexts, case["contexts"], strict=True)):
                assert relative(ours.tokens, tensors[f"{case['name']}.{place}.cond"]) < TOLERANCE
                assert ours.tokens.shape[1] == theirs["tokens"]
                assert ours.weight == pytest.approx(1 if theirs["ratio"] is None else theirs["ratio"])


def asked(call: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[Tensor | None, list[Picture], float]:
    """A case of the app as arguments of ours: text tokens, pictures, strength of the text."""
    numbers = call["pictures"] if "pictures" in call else [call["picture"]] if "picture" in call else []
    strengths = call.get("strengths", [1.0] * len(numbers))
    focus = call.get("focus", 0.5)
    dials = focus if isinstance(focus, list) else [focus] * len(numbers)
    given = zip(numbers, strengths, dials, strict=True)
    pictures = [Picture(tensors[f"picture{number}"], strength, dial) for number, strength, dial in given]
    told = call.get("text") == "given" or "text_strength" in call
    text = tensors["text"] if told and call.get("text") != "empty string" else None
    return text, pictures, call.get("text_strength", 1.0)


def test_steps_kept_by_the_app(reference: Path, subtests: Any) -> None:
    _, cases = vectors_of(reference, "app_contexts")
    for case in cases:
        if "x0_forward_timesteps" in case:
            with subtests.test(case=case["name"]):
                fidelity = case["call"]["fidelity"]
                cut, kept = int(case["steps"] * (1 - fidelity)), case["steps"] - start_step(case["steps"], fidelity)
                assert case["x0_forward_timesteps"] == cut
                assert kept == round(case["steps"] * (1 - fidelity))


def test_fidelity_rounds_where_the_original_cuts(reference: Path) -> None:
    """The original is one step short where rounding errors leave a whole number just below itself; ours is not."""
    table = json.loads(part(reference, "text_tools.json").read_text(encoding="utf-8"))
    differ = []
    for row in table["fidelity_to_forward_timesteps_50"]:
        fidelity, theirs = row["fidelity"], row["forward_timesteps"]
        ours = 50 - start_step(50, fidelity)
        if theirs is None:  # nothing is kept of a start, or all of it: the original makes no such run
            assert ours in (0, 50)
        elif ours != theirs:
            assert ours == theirs + 1
            assert 50 * (1 - fidelity) == pytest.approx(ours, abs=1e-9)
            differ.append(fidelity)
    assert set(differ) <= {0.34, 0.56, 0.68, 0.78, 0.8, 0.9, 0.92}


def test_repeated_words(reference: Path) -> None:
    """The original of 2023 fails on odd spaces, and leaks its marker when a text is all punctuation."""
    pairs = json.loads(part(reference, "text_tools.json").read_text(encoding="utf-8"))
    assert pairs["merge_same_adjacent_word"]
    for pair in pairs["merge_same_adjacent_word"]:
        wanted = pair["output"] if "output" in pair else " ".join(pair["input"].split())
        assert merge_same_adjacent_word(pair["input"]) == wanted, pair
    for pair in pairs["remove_duplicate_word"]:
        if "raises" in pair:  # the same words with plain spaces do not fail
            assert remove_duplicate_word(pair["input"]) == remove_duplicate_word(" ".join(pair["input"].split()))


def test_colours_of_2023(reference: Path) -> None:
    tensors = load_file(part(reference, "color_adjust.safetensors"))
    ours = match_moments(tensors["output_picture"], tensors["reference_picture"])
    assert relative(ours, tensors["app_simple"]) < TOLERANCE


def test_colours_of_2022(reference: Path, subtests: Any) -> None:
    tensors = load_file(part(reference, "color_adjust.safetensors"))
    cases = [name for name in tensors if name.endswith("_u8")]
    assert cases
    picture, other = (
        tensors[name].clamp(0, 1).mul(255).byte().permute(1, 2, 0).numpy()
        for name in ("output_picture", "reference_picture")
    )
    for case in cases:
        with subtests.test(case=case):
            method, keep = case.removesuffix("_u8").split("_keep")
            ours = torch.from_numpy(match_colours(picture, other, method, float(keep)))
            assert (ours.int() - tensors[case].int()).abs().max() <= 1
