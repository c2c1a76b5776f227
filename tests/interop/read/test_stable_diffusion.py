"""Stable Diffusion v1 as a start: the same prediction, and a report of what came from where."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_layouts
import tiny_official
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import load_file, save_file
from tiny_official import CLIP, CONFIG, WIDTH
from transformers import CLIPTextConfig, CLIPTextModel

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.interop.names.keymap import find_official, find_ours
from versatile_diffusion.interop.names.unet import (
    DIFFUSERS_STABLE_DIFFUSION,
    STABLE_DIFFUSION,
    diffusers_rules,
    original_rules,
)
from versatile_diffusion.interop.official import diffuser_plan
from versatile_diffusion.interop.read.layouts import recognise
from versatile_diffusion.interop.read.stable_diffusion import warm_start

TOLERANCE = 2e-5
UNET = CONFIG["diffuser"]


@pytest.fixture(scope="module")
def theirs() -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return UNet2DConditionModel(**tiny_layouts.unet_config("image_unet")).eval()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory) -> Path:
    """Diffusers' folder."""
    folder = tmp_path_factory.mktemp("sd")
    theirs.save_pretrained(folder / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        AutoencoderKL(**tiny_layouts.VAE).save_pretrained(folder / "vae")
        CLIPTextModel(CLIPTextConfig(**{**CLIP["text_config"], "hidden_size": WIDTH})).save_pretrained(
            folder / "text_encoder"
        )
    (folder / "tokenizer").mkdir()
    tiny_official.write_clip_tokenizer(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def original(theirs) -> dict[str, torch.Tensor]:
    """The same weights under the original's names; diffusers' own converter takes them back."""
    plan = diffuser_plan(UNET)
    here, there = diffusers_rules(plan, DIFFUSERS_STABLE_DIFFUSION), original_rules(plan, STABLE_DIFFUSION)
    state = {find_official(find_ours(name, here), there): value for name, value in theirs.state_dict().items()}
    config = {"layers_per_block": 1, "class_embed_type": None, "addition_embed_type": None}
    back = convert_ldm_unet_checkpoint(dict(state), config)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in theirs.state_dict().items())
    return state


@pytest.fixture
def checkpoint(original, tmp_path) -> Path:
    extra = {"model_ema.decay": torch.tensor(0.9), "alphas_cumprod": torch.zeros(3)}
    torch.save({"state_dict": {**original, **extra}, "global_step": 470000}, tmp_path / "sd-v1-4.ckpt")
    return tmp_path / "sd-v1-4.ckpt"


@torch.no_grad()
def assert_predicts(unet, theirs) -> None:
    """Text to image is Stable Diffusion's prediction, and image to image begins as the same."""
    generator = torch.Generator().manual_seed(1)
    latent, tokens = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 9, WIDTH, generator=generator)
    time = torch.tensor([1, 977])
    expected = theirs(latent, time, encoder_hidden_states=tokens).sample
    got = unet(latent, time, [Context("text", tokens)], data="image")
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert torch.equal(unet(latent, time, [Context("image", tokens)], data="image"), got)


def test_a_checkpoint_with_the_original_names(theirs, original, checkpoint, tmp_path):
    start = warm_start(checkpoint, config=UNET)
    assert_predicts(start.unet, theirs)
    save_file({name: value.contiguous() for name, value in original.items()}, tmp_path / "v1-5.safetensors")
    again = warm_start(tmp_path / "v1-5.safetensors", config=UNET)
    assert all(torch.equal(a, b) for a, b in zip(start.unet.parameters(), again.unet.parameters(), strict=True))


def test_diffusers_folder_and_the_report(theirs, folder):
    start = warm_start(folder)
    assert_predicts(start.unet, theirs)
    origins = start.origins
    assert origins.keys() == start.unet.state_dict().keys()
    counted = {origin: sum(where == origin for where in origins.values()) for origin in dict.fromkeys(origins.values())}
    assert set(counted) == {"Stable Diffusion", "copy of context.text", "fresh"}
    assert counted["Stable Diffusion"] == len(theirs.state_dict())
    assert origins["context.image.0.proj_in.weight"] == "copy of context.text"
    assert origins["data.text.0.project.weight"] == "fresh"
    lines = str(start).splitlines()
    assert lines[0].startswith("time_embed: 4 tensors, ")
    assert lines[-1].endswith(", Stable Diffusion")
    assert any(line.startswith("data.text") and line.endswith("fresh") for line in lines)


def test_streams_are_their_own_and_fresh_ones_follow_the_seed(folder):
    start = warm_start(folder)
    with torch.no_grad():
        start.unet.context["image"][0].proj_in.weight.zero_()
    assert start.unet.context["text"][0].proj_in.weight.abs().sum() > 0
    same, other = warm_start(folder).unet.data["text"], warm_start(folder, seed=1).unet.data["text"]
    assert torch.equal(same[0].project.weight, start.unet.data["text"][0].project.weight)
    assert not torch.equal(other[0].project.weight, start.unet.data["text"][0].project.weight)


def test_fewer_streams(folder):
    """The basic setting: image-variation alone."""
    start = warm_start(folder, data=["image"], contexts=["image"])
    assert (list(start.unet.data), list(start.unet.context)) == (["image"], ["image"])
    assert set(start.origins.values()) == {"Stable Diffusion", "copy of context.text"}
    with pytest.raises(ValueError, match="unknown data_streams sound; allowed: image, text"):
        warm_start(folder, data=["sound"])


def test_other_files_are_refused(tmp_path, checkpoint, original, folder):
    shutil.copytree(folder / "unet", tmp_path / "v2" / "unet")
    config = tmp_path / "v2" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "attention_head_dim": [2, 4]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"same number of attention heads .*got \[2, 4\]"):
        warm_start(tmp_path / "v2")
    torch.save(tiny_official.official_states()["diffuser"], tmp_path / "vd.pth")
    with pytest.raises(ValueError, match=r"not Stable Diffusion v1; it is .*official-2023"):
        warm_start(tmp_path / "vd.pth", config=UNET)
    name = "model.diffusion_model.middle_block.1.proj_in.bias"
    torch.save({key: value for key, value in original.items() if key != name}, checkpoint)
    with pytest.raises(ValueError, match=r"(?s)do not fit context\..*1\.proj_in\.bias"):
        warm_start(checkpoint, config=UNET)


@torch.no_grad()
def test_as_a_pipeline(theirs, folder):
    """Loaded as it is, it has one task, and reads texts as Stable Diffusion does."""
    found = recognise(folder)
    assert (found.layout, found.streams) == ("stable-diffusion-diffusers", ("data.image", "context.text"))
    pipe = VersatileDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert [task.name for task in pipe.tasks()] == ["text-to-image"]
    encoder = pipe.bank.encoders["text"]
    ids = torch.tensor([[52, 3, 53, 53, 53, 53, 53, 53, 53, 53, 53, 53]])
    expected = CLIPTextModel.from_pretrained(folder / "text_encoder")(ids).last_hidden_state
    assert torch.allclose(encoder(ids), expected, atol=1e-6)
    assert type(encoder).__name__ == "CLIPHiddenTextContext"
    text = load_file(file := folder / "text_encoder" / "model.safetensors")
    save_file(
        {n if n.startswith("text_model.") else f"text_model.{n}": t for n, t in text.items()}, file
    )  # as before 5
    again = VersatileDiffusionPipeline.from_pretrained(folder).bank.encoders["text"]
    assert torch.allclose(again(ids), expected, atol=1e-6)
    assert len(pipe.text_to_image("ab", num_inference_steps=1, seed=0).images) == 1
