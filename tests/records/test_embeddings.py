"""Context tokens and latents in and out of the pipeline, and in files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import ALL, build_tiny_pipeline

from versatile_diffusion import Condition, Embeddings, load_embeddings, save_embeddings
from versatile_diffusion.modalities.audio.waveform import RATE, Waveform
from versatile_diffusion.records.embeddings import OtherLibraries, embeddings_of, maker_of
from versatile_diffusion.records.png import KEY
from versatile_diffusion.tasks import TASKS

FAST: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 2.0, "seed": 0}
VALUES = {"image": Image.new("RGB", (20, 20), "red"), "text": "a red apple"}
TONES = [Waveform(torch.sin(torch.arange(RATE) / period).numpy() / 2, RATE) for period in (5, 9)]


@pytest.fixture(scope="module")
def whole_pipeline() -> Any:
    """A model that does every task, with audio too."""
    return build_tiny_pipeline(ALL, ALL)


def test_one_value_has_no_batch_axis_and_a_list_has(tiny_pipeline: Any, picture: Image.Image) -> None:
    tokens = tiny_pipeline.encode_context(picture)
    assert torch.equal(tokens, tiny_pipeline.bank.encoders["image"].encode([picture])[0])
    both = tiny_pipeline.encode_context([picture, VALUES["image"]])
    assert both.shape == (2, *tokens.shape)
    latent = tiny_pipeline.encode_latent("a cat")
    assert torch.equal(tiny_pipeline.encode_latent(["a cat"])[0], latent)
    assert latent.shape == tiny_pipeline.bank.codecs["text"].latent_shape()


def test_masks_are_those_of_conditions(tiny_pipeline: Any, picture: Image.Image) -> None:
    mask = np.zeros((20, 24), np.uint8)
    mask[:, :12] = 255
    tokens = tiny_pipeline.encode_context(picture, mask=mask)
    assert torch.equal(tokens, tiny_pipeline.bank.encoders["image"].encode([picture], [mask])[0])
    assert not torch.equal(tokens, tiny_pipeline.encode_context(picture))


def test_the_modality_is_told_by_the_value(tiny_pipeline: Any, tmp_path: Path, picture: Image.Image) -> None:
    file = tmp_path / "a.png"
    picture.save(file)
    images = [picture, np.asarray(picture), file]
    expected = tiny_pipeline.encode_context(picture, "image")
    assert all(torch.equal(tiny_pipeline.encode_context(image), expected) for image in images)
    assert tiny_pipeline.encode_context("a dog").shape[-2] == 25
    with pytest.raises(ValueError, match=r"can be read as image or text; specify modality"):
        tiny_pipeline.encode_context(str(file))
    assert torch.equal(tiny_pipeline.encode_context(str(file), "image"), expected)
    with pytest.raises(
        ValueError, match=r"no modality of this model accepts the value; image: .*; text: a text must be"
    ):
        tiny_pipeline.encode_context(3)
    with pytest.raises(ValueError, match="unknown modality 'sound'; allowed: image, text"):
        tiny_pipeline.encode_latent("a", "sound")
    with pytest.raises(ValueError, match="empty list"):
        tiny_pipeline.encode_latent([])


@pytest.mark.parametrize("modality", VALUES)
def test_latents_go_out_and_in(tiny_pipeline: Any, modality: str) -> None:
    codec = tiny_pipeline.bank.codecs[modality]
    latents = tiny_pipeline.encode_latent([VALUES[modality]] * 2, modality)
    one, two = tiny_pipeline.decode_latent(latents), tiny_pipeline.decode_latent(latents[0])
    expected = codec.decode(latents)
    assert [_plain(value) for value in one] == [_plain(value) for value in expected]
    assert _plain(two) == _plain(expected[0])
    sampled = tiny_pipeline.encode_latent([VALUES[modality]] * 2, modality, seed=[3, 4])
    assert torch.allclose(sampled[1], tiny_pipeline.encode_latent(VALUES[modality], modality, seed=4), atol=1e-5)
    assert not torch.allclose(sampled[0], sampled[1])


def _plain(value: Any) -> Any:
    return value if isinstance(value, str) else value.tobytes()


def test_latents_of_unknown_form_are_refused(tiny_pipeline: Any) -> None:
    with pytest.raises(ValueError, match=r"specify modality=..., one of: image \(4, 4, 4\), text \(32,\)"):
        tiny_pipeline.decode_latent(torch.zeros(1, 1, 4, 4, 4))
    with pytest.raises(ValueError, match="image latents have 3 axes"):
        tiny_pipeline.decode_latent(torch.zeros(4, 4), "image")
    assert tiny_pipeline.decode_latent(torch.zeros(4, 4, 4), output_type="pt").shape == (3, 16, 16)
    with pytest.raises(ValueError, match="takes no options; got temperature"):
        tiny_pipeline.decode_latent(torch.zeros(4, 4, 4), temperature=1.0)
    for latent in (torch.zeros(32), torch.zeros(4, 4, 4)):
        with pytest.raises(ValueError, match="unknown output_type 'jpg'; allowed: pil, np, pt"):
            tiny_pipeline.decode_latent(latent, output_type="jpg")


def forms(pipe: Any, modality: str, values: list[Any]) -> dict[str, Any]:
    """The values in every form in which a task takes them."""
    tokens, latents = pipe.encode_context(values, modality), pipe.encode_latent(values, modality)
    return {
        "raw": values,
        "tokens": tokens,
        "embeddings": embeddings_of(pipe.bank, "context", modality, tokens),
        "decoded": pipe.decode_latent(latents, modality),
        "latents": embeddings_of(pipe.bank, "latent", modality, latents),
    }


@pytest.mark.parametrize("task", TASKS)
def test_every_task_takes_every_form_of_one_value_and_of_several(whole_pipeline: Any, task: str) -> None:
    flow, run = TASKS[task].flow, FAST | {"num_inference_steps": 2}
    every = {"image": [VALUES["image"], Image.new("RGB", (9, 14), "blue")], "text": ["a dog", "a cat"], "audio": TONES}

    def made(batch: slice, **chosen: str) -> torch.Tensor:
        given = {m: forms(whole_pipeline, m, every[m][batch])[chosen.get(m, "raw")] for m in flow.contexts}
        conditions = [Condition(modality, value) for modality, value in given.items()]
        return whole_pipeline.generate(flow.data, conditions, **run | {"seed": [7] * len(every["text"][batch])}).latents

    for batch in (slice(1), slice(2)):
        plain = made(batch)
        for modality in flow.contexts:
            for form, same in (
                ("tokens", plain),
                ("embeddings", plain),
                ("latents", made(batch, **{modality: "decoded"})),
            ):
                assert torch.equal(made(batch, **{modality: form}), same), (batch, modality, form)
    one = [Condition(modality, every[modality][0]) for modality in flow.contexts]
    without_batch = [
        Condition(modality, whole_pipeline.encode_context(every[modality][0], modality)) for modality in flow.contexts
    ]
    assert torch.equal(*(whole_pipeline.generate(flow.data, given, **run).latents for given in (one, without_batch)))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_gives_values_latents_or_tokens(whole_pipeline: Any, task: str) -> None:
    flow, run = TASKS[task].flow, FAST | {"num_inference_steps": 2}
    given = VALUES | {"audio": TONES[0]}
    conditions = [Condition(modality, [given[modality]] * 2) for modality in flow.contexts]
    values = whole_pipeline.generate(flow.data, conditions, **run)
    latents = whole_pipeline.generate(flow.data, conditions, output="latent", **run)
    tokens = whole_pipeline.generate(flow.data, conditions, output="context", **run)
    assert torch.equal(latents.values, values.latents)
    assert latents.values.shape == (2, *whole_pipeline.bank.codecs[flow.data].latent_shape())
    assert torch.equal(tokens.values, whole_pipeline.encode_context(values.values, flow.data))
    fitted = whole_pipeline.bank.codecs[flow.data].fit(values.values[0])  # as an init value is: size or loudness
    begun = [
        whole_pipeline.generate(flow.data, conditions, init_latent=start, strength=0.5, **run).latents
        for start in (values.values[0], whole_pipeline.encode_latent(fitted, flow.data))
    ]
    assert torch.equal(*begun)


def test_what_to_begin_from_has_one_name(tiny_pipeline: Any) -> None:
    with pytest.raises(ValueError, match="init_latent is an alias of start"):
        tiny_pipeline.text_to_image("a dog", start=torch.zeros(1), init_latent=torch.zeros(1))


@pytest.mark.parametrize("strength", [0.0, 0.34, 1.0])
def test_strength_is_one_minus_fidelity(tiny_pipeline: Any, picture: Image.Image, strength: float) -> None:
    latent = tiny_pipeline.encode_latent(picture)
    ours = tiny_pipeline.text_to_image("a dog", init_latent=latent, strength=strength, **FAST)
    kept = {"start": latent, "fidelity": 1 - strength} if strength < 1 else {}
    assert torch.equal(ours.latents, tiny_pipeline.text_to_image("a dog", **kept, **FAST).latents)
    if strength == 0:
        assert torch.equal(ours.latents[0], latent)


def test_starts_are_one_per_item_or_prompt(tiny_pipeline: Any) -> None:
    latents = tiny_pipeline.encode_latent([VALUES["image"], Image.new("RGB", (9, 9), "blue")])
    options = {"strength": 0.4, **FAST} | {"seed": [5, 5]}
    pair = tiny_pipeline.text_to_image(["a dog", "a dog"], init_latent=latents, **options)
    alone = tiny_pipeline.text_to_image("a dog", init_latent=latents[1], **(options | {"seed": 5}))
    assert torch.allclose(pair.latents[1], alone.latents[0], atol=1e-4)
    held = embeddings_of(tiny_pipeline.bank, "latent", "image", latents)
    assert torch.equal(tiny_pipeline.text_to_image(["a dog"] * 2, init_latent=held, **options).latents, pair.latents)
    four = tiny_pipeline.text_to_image(
        ["a dog"] * 2, init_latent=latents, num_outputs=2, **(options | {"seed": [5, 5, 5, 5]})
    )
    assert torch.allclose(four.latents, pair.latents.repeat_interleave(2, dim=0), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.5, "init_latent": torch.zeros(4, 4, 4)}, "strength is 1.5; it must be a number from 0"),
        ({"strength": 0.5, "fidelity": 0.5, "start": torch.zeros(4, 4, 4)}, "strength is 1 - fidelity"),
        ({"strength": 0.5}, "start needs fidelity"),
        ({"init_latent": torch.zeros(4, 4, 4)}, "start needs fidelity"),
        (
            {"init_latent": Embeddings("context", "image", torch.zeros(1, 65, 192)), "strength": 0.5},
            "image latents are",
        ),
        ({"num_outputs": 1, "num_images_per_prompt": 2}, "num_images_per_prompt is an alias of num_outputs"),
        ({"conditions": [Condition("image", torch.zeros(65, 768))]}, r"reads tokens \(L, 192\)"),
        ({"conditions": [Condition("image", torch.full((65, 192), torch.nan))]}, "NaN"),
        (
            {"conditions": [Condition("text", Embeddings("context", "image", torch.zeros(1, 65, 192)))]},
            "text is required",
        ),
    ],
)
def test_mistakes(tiny_pipeline: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_pipeline.generate(**{"data": "image", "conditions": [Condition("text", "a dog")], **options})


# Scales


def test_predictions_of_any_scale_come_back_to_the_encoders(tiny_pipeline: Any) -> None:
    colours = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue", "pink", "black")]
    tokens = tiny_pipeline.encode_context(colours)
    norms = tokens.norm(dim=-1)
    for how in ("global", "tokens"):
        again = Condition.from_tokens("image", 7.3 * tokens, how, reference=tokens, weight=0.4)
        assert torch.allclose(again.tokens.norm(dim=-1), norms, rtol=1e-4)
        assert torch.allclose(again.tokens, tokens, rtol=1e-3, atol=1e-4)
        assert again.weight == 0.4
    shrunk = 0.2 * tokens + 3
    assert torch.allclose(
        Condition.from_tokens("image", shrunk, "statistics", reference=tokens).tokens, tokens, atol=1e-3
    )


def test_global_is_the_papers_norm() -> None:
    tokens = 5 * torch.randn(257, 768, generator=torch.Generator().manual_seed(0))
    condition = Condition.from_tokens("image", tokens.numpy(), normalise="global")
    assert torch.allclose(condition.tokens, tokens / tokens[0].norm())
    assert condition.tokens.shape == (257, 768)
    assert Condition.from_tokens("image", tokens).tokens is tokens


def test_void_tokens_stay_void(tiny_pipeline: Any) -> None:
    tokens = tiny_pipeline.encode_context(["a", "a small red apple"])
    scaled = Condition.from_tokens("text", 3 * tokens, "tokens", reference=tokens).tokens
    assert not scaled[(tokens == 0).all(dim=-1)].any()


@pytest.mark.parametrize(
    ("tokens", "how", "reference", "message"),
    [
        (torch.zeros(3), None, None, r"tokens are \(3,\); they must be \(L, D\) or \(B, L, D\)"),
        (torch.full((2, 3), torch.inf), None, None, "infinite"),
        (torch.ones(2, 3), "softmax", None, "unknown normalisation 'softmax'; allowed: global, tokens, statistics"),
        (torch.ones(2, 3), "tokens", None, "give a reference"),
        (torch.ones(2, 3), "statistics", torch.ones(4, 2, 3), "batch of at least 2"),
        (torch.ones(2, 2, 3), "statistics", None, "give a reference"),
        (torch.ones(2, 2, 3), "statistics", torch.ones(4, 5, 3), r"the reference is \(4, 5, 3\)"),
        (torch.zeros(2, 3), "global", None, "token 0 is zero"),
    ],
)
def test_bad_tokens(tokens: torch.Tensor, how: str | None, reference: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Condition.from_tokens("image", tokens, how, reference=reference)


# Files


@pytest.mark.parametrize("kind", ["context", "latent"])
@pytest.mark.parametrize("modality", VALUES)
def test_saved_loaded_injected_is_bit_identical(tiny_pipeline: Any, tmp_path: Path, kind: str, modality: str) -> None:
    encode = tiny_pipeline.encode_context if kind == "context" else tiny_pipeline.encode_latent
    tensor = encode([VALUES[modality]], modality)
    file = save_embeddings(tmp_path / "a.safetensors", tensor, kind=kind, modality=modality, pipe=tiny_pipeline)
    loaded = load_embeddings(file, tiny_pipeline)
    assert torch.equal(loaded.tensor, tensor)
    held = embeddings_of(tiny_pipeline.bank, kind, modality, tensor)
    expected = tiny_pipeline.generate("image", [Condition(modality, held)], **FAST)
    assert torch.equal(tiny_pipeline.generate("image", [Condition(modality, loaded)], **FAST).latents, expected.latents)
    if kind == "latent":
        options = {"strength": 0.5, **FAST}
        ours = tiny_pipeline.generate(modality, [Condition("text", "a")], init_latent=loaded, **options)
        direct = tiny_pipeline.generate(modality, [Condition("text", "a")], init_latent=tensor, **options)
        assert torch.equal(ours.latents, direct.latents)
        assert _plain(tiny_pipeline.decode_latent(loaded)[0]) == _plain(tiny_pipeline.decode_latent(tensor)[0])


@pytest.mark.parametrize(
    ("shape", "kind", "modality", "right"),
    [
        ((5,), "context", "text", r"tokens \(N, L, D\), or \(L, D\) of one item"),
        ((1, 2, 3, 4), "context", "image", r"tokens \(N, L, D\)"),
        ((2, 5, 191), "context", "text", r"\(2, 5, 191\); those of DualTextEncoder are \(N, L, 192\)"),
        ((7, 3), "context", "image", r"\(1, 7, 3\); those of DualImageEncoder are \(N, L, 192\)"),
        ((0, 65, 192), "context", "image", r"\(0, 65, 192\); those of DualImageEncoder"),
        ((2, 31), "latent", "text", r"\(2, 31\); those of \w+ are \(N, 32\), N items, or one item without"),
        (
            (3, 4, 4),
            "latent",
            "image",
            r"\(1, 3, 4, 4\); those of \w+ are \(N, 4, rows, columns\), e\.g\. \(N, 4, 4, 4\)",
        ),
        ((4,), "latent", "image", r"latents \(N, ...\) with a batch axis"),
    ],
)
def test_shapes_that_nobody_can_use_are_not_saved(
    tiny_pipeline: Any, tmp_path: Path, shape: tuple[int, ...], kind: str, modality: str, right: str
) -> None:
    with pytest.raises(ValueError, match=right):
        save_embeddings(tmp_path / "a.safetensors", np.zeros(shape), kind=kind, modality=modality, pipe=tiny_pipeline)
    if len(shape) not in (2, 3) or 0 in shape:
        with pytest.raises(ValueError, match=r"they must be|nothing to save"):
            save_embeddings(tmp_path / "a.safetensors", torch.zeros(shape), kind=kind, modality=modality)
    assert list(tmp_path.iterdir()) == []
    if len(shape) == 3 and kind == "context" and 0 not in shape:  # made elsewhere, without the model
        file = save_embeddings(tmp_path / "a.safetensors", torch.zeros(shape), kind=kind, modality=modality)
        with pytest.raises(ValueError, match=r"are \(N, L, 192\)"):
            load_embeddings(file, tiny_pipeline)


@pytest.mark.parametrize("names", [{"a", "b"}, {"a": 1, "b": 2}, (n for n in "ab"), "ab", [1, 2], ["a", None], ["a"]])
def test_names_that_no_file_could_give_back_are_not_saved(tmp_path: Path, names: Any) -> None:
    with pytest.raises(ValueError, match=r"names is .*; it must be a list of strings|1 names for 2 items"):
        save_embeddings(tmp_path / "a.safetensors", torch.zeros(2, 3, 4), names=names)
    with pytest.raises(ValueError, match="normalisation of embeddings is 3"):
        save_embeddings(tmp_path / "a.safetensors", torch.zeros(2, 3, 4), normalisation=3)
    file = save_embeddings(tmp_path / "a.safetensors", torch.zeros(2, 3, 4), names=np.array(["a", "b"]))
    assert load_embeddings(file).names == ("a", "b")


def test_the_file_tells_what_it_holds(tiny_pipeline: Any, tmp_path: Path) -> None:
    tokens = tiny_pipeline.encode_context(["a dog", "ein Äffchen"])
    file = save_embeddings(
        tmp_path / "sub" / "texts.safetensors",
        tokens,
        modality="text",
        pipe=tiny_pipeline,
        names=["a dog", "ein Äffchen"],
    )
    with safe_open(file, framework="pt") as opened:
        assert list(opened.keys()) == ["context"]
        record = json.loads(opened.metadata()[KEY])
    encoder = tiny_pipeline.bank.encoders["text"]
    assert record["encoder"] == maker_of(encoder)
    assert record["encoder"].startswith("DualTextEncoder-")
    assert (record["kind"], record["modality"], record["shape"]) == ("context", "text", [2, 25, 192])
    assert (record["normalisation"], record["preprocessing"]) == ("encoder", encoder.preprocessing)
    assert record["names"] == ["a dog", "ein Äffchen"]
    assert {"torch", "transformers", "diffusers", "versatile-diffusion"} <= record["libraries"].keys()
    assert [path.name for path in file.parent.iterdir()] == ["texts.safetensors"]
    (plain := tmp_path / "plain").touch()
    assert file.stat().st_mode == plain.stat().st_mode
    assert load_embeddings(file)[1].names == ("ein Äffchen",)
    assert [item.tensor.shape for item in load_embeddings(file)] == [(1, 25, 192)] * 2


def test_another_encoder_is_refused_unless_told(tiny_pipeline: Any, tmp_path: Path, monkeypatch: Any) -> None:
    tokens = tiny_pipeline.encode_context(["a dog"])
    file = save_embeddings(tmp_path / "a.safetensors", tokens, modality="text", pipe=tiny_pipeline)
    encoder = tiny_pipeline.bank.encoders["text"]
    ours = maker_of(encoder)
    with torch.no_grad():
        before = encoder.norm.weight.clone()
        encoder.norm.weight[0] += 0.5
    try:
        with pytest.raises(ValueError, match=rf"belong to {ours}; this model has DualTextEncoder-.*any_encoder=True"):
            load_embeddings(file, tiny_pipeline)
        unchecked = load_embeddings(file)
        with pytest.raises(ValueError, match="belong to"):  # found when they are used
            tiny_pipeline.text_to_image(unchecked, **FAST)
        told = load_embeddings(file, tiny_pipeline, any_encoder=True)
        assert len(tiny_pipeline.text_to_image(told, **FAST)) == 1
    finally:
        encoder.norm.weight.data.copy_(before)
    monkeypatch.setattr(type(encoder), "preprocessing", 2)
    with pytest.raises(ValueError, match="encoded with preprocessing 1 of text values; this model uses 2"):
        load_embeddings(file, tiny_pipeline)


def test_another_release_of_a_library_is_told(tiny_pipeline: Any, tmp_path: Path, recwarn: Any) -> None:
    made = embeddings_of(tiny_pipeline.bank, "context", "text", tiny_pipeline.encode_context(["a dog"]))
    version = made.libraries["transformers"]
    same = ".".join(version.split(".")[:2]) + ".99"  # a correction of the same release
    file = replace(made, libraries={**made.libraries, "transformers": same}).save(tmp_path / "same.safetensors")
    assert torch.equal(load_embeddings(file, tiny_pipeline).tensor, made.tensor)
    assert not recwarn.list
    file = replace(made, libraries={**made.libraries, "transformers": "4.9.1"}).save(tmp_path / "old.safetensors")
    with pytest.warns(OtherLibraries, match=rf"old.safetensors was encoded with transformers 4.9.1 \(here {version}\)"):
        assert torch.equal(load_embeddings(file, tiny_pipeline).tensor, made.tensor)


def test_half_precision_is_the_same_encoder(tiny_pipeline: Any) -> None:
    import copy

    encoder = tiny_pipeline.bank.encoders["text"]
    assert maker_of(copy.deepcopy(encoder).half()) == maker_of(encoder)


def test_a_folder_is_read_as_one(tiny_pipeline: Any, tmp_path: Path) -> None:
    texts = ["a dog", "a cat", "a red apple"]
    for k, text in enumerate(texts):
        tokens = tiny_pipeline.encode_context([text])
        save_embeddings(tmp_path / f"{k}.safetensors", tokens, modality="text", pipe=tiny_pipeline, names=[text])
    whole = load_embeddings(tmp_path, tiny_pipeline)
    assert whole.names == tuple(texts)
    assert torch.equal(whole.tensor, torch.cat([tiny_pipeline.encode_context([text]) for text in texts]))
    latents = tiny_pipeline.encode_latent(texts, "text")
    save_embeddings(tmp_path / "z.safetensors", latents, kind="latent", modality="text", pipe=tiny_pipeline)
    with pytest.raises(ValueError, match=r"several kinds of embeddings: text context of .*, text latent of"):
        load_embeddings(tmp_path)
    assert torch.equal(load_embeddings(tmp_path, kind="latent").tensor, latents)
    with pytest.raises(ValueError, match="contains no embeddings of image"):
        load_embeddings(tmp_path, modality="image")


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    cut = save_embeddings(tmp_path / "cut.safetensors", torch.zeros(1, 65, 192))
    cut.write_bytes(cut.read_bytes()[:-9])
    foreign = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    for file, message in (
        (cut, "cannot be read as"),
        (foreign, "record"),
        (tmp_path / "no.safetensors", "no such embeddings file"),
    ):
        with pytest.raises(ValueError, match=rf"{file.name}.*{message}"):
            load_embeddings(file)
    with pytest.raises(ValueError, match="unknown kind of embeddings 'tokens'; allowed: context, latent"):
        Embeddings("tokens", "image", torch.zeros(1, 65, 192))
    with pytest.raises(ValueError, match="2 names for 1 items"):
        Embeddings("context", "image", torch.zeros(1, 65, 192), names=("a", "b"))
