"""Fine-tuning a saved model on a folder of pictures with captions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import build_tiny_pipeline

from versatile_diffusion.data.encoded import encode_set
from versatile_diffusion.data.sources import open_source
from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.training.export import export
from versatile_diffusion.training.own_data import changed, own_data, settings_of
from versatile_diffusion.training.run import run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, colour in enumerate(("red", "green", "blue", "orange", "purple", "black")):
        Image.new("RGB", (20, 16), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} house\n")
    return folder


def test_a_model_goes_on_from_where_it_is(model: Path, data: Path, tmp_path: Path) -> None:
    what, _ = own_data(str(model), data, tmp_path, CPU)
    assert (what.train_pairs.count, what.held_out.count) == (5, 1)
    before = build_tiny_pipeline().unet
    assert all(torch.equal(p, q) for p, q in zip(what.build().parameters(), before.parameters(), strict=True))
    assert [task.name for task in what.options.tasks] == [*settings_of(build_tiny_pipeline()).mixture]


def test_a_run_on_own_data_makes_a_model(model: Path, data: Path, tmp_path: Path) -> None:
    options = {"flows": ["text-to-image", "image-to-text"], "lr": 1e-3}
    outcome = run("own-data", str(model), data, tmp_path / "run", steps=4, device="cpu", options=options)
    assert outcome.finished
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"eval/text-to-image", "eval/text-variation"} <= set(logged[-1])
    pipe = VersatileDiffusionPipeline.from_pretrained(tmp_path / "run" / "export")
    assert pipe.config.styles == build_tiny_pipeline().config.styles
    assert len(pipe.text_to_image("a red house", num_inference_steps=2, seed=0).images) == 1
    assert (export(tmp_path / "run", tmp_path / "again") / "model_index.json").is_file()


def test_adapters_on_own_data(model: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    options = {"lora": 2, "only": ["context"], "lr": 1e-2}
    assert run("own-data", str(model), data, tmp_path / "run", steps=3, device="cpu", options=options).finished
    assert (tmp_path / "run" / "export" / "lora").is_dir()
    unet = VersatileDiffusionPipeline.from_pretrained(tmp_path / "run" / "export").unet
    before = build_tiny_pipeline().unet.state_dict()
    changed_names = {name for name, value in unet.state_dict().items() if not torch.equal(value, before[name])}
    assert changed_names
    assert all(name.startswith("context") for name in changed_names)


def test_an_encoded_folder_is_taken_as_it_is(model: Path, data: Path, tmp_path: Path) -> None:
    bank = VersatileDiffusionPipeline.from_pretrained(model).bank
    encode_set(open_source(data), bank, tmp_path / "encoded")
    what, _ = own_data(str(model), tmp_path / "encoded", tmp_path / "run", CPU)
    direct, _ = own_data(str(model), data, tmp_path / "other", CPU)
    for step in range(4):
        one, other = (o.batch(step, torch.Generator().manual_seed(step))[0] for o in (what, direct))
        assert torch.equal(one.latent, other.latent)
        assert torch.equal(one.context.tokens, other.context.tokens)
    assert not (tmp_path / "run").exists()


def test_what_is_trained_can_be_chosen() -> None:
    options = settings_of(build_tiny_pipeline())
    some = changed(options, ["image-to-text"], ["context", "data.text"], None, 1e-4)
    assert {name for name, share in some.mixture.items() if share} == {"image-to-text"}
    assert some.multipliers == {"global": 0.0, "data.image": 0.0}
    assert (some.lr, some.streams) == (1e-4, options.streams)
    with pytest.raises(ValueError, match="no flow image-to-audio; allowed: text-to-image"):
        changed(options, ["image-to-audio"], [], None, None)
    with pytest.raises(ValueError, match=r"context\.audio; allowed"):
        changed(options, None, ["context.audio"], None, None)
    with pytest.raises(ValueError, match="nothing left to train"):
        changed(options, ["text-to-image"], ["data.text"], None, None)


def test_a_model_of_fewer_flows(model: Path) -> None:
    options = settings_of(build_tiny_pipeline(data=("text",), contexts=("image",)))
    assert (options.stage, options.flows, options.streams) == (
        "official",
        ("image-to-text",),
        ["data.text", "context.image"],
    )
    assert settings_of(build_tiny_pipeline(data=("image",))).stage == "dual_context"
    assert replace(options).mixture == {"image-to-text": 2}


def test_one_picture_is_too_few(model: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "data" / "a.png")
    (tmp_path / "data" / "a.txt").write_text("black")
    with pytest.raises(ValueError, match="two or more"):
        own_data(str(model), tmp_path / "data", tmp_path / "run", CPU)
