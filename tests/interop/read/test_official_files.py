"""Loading the published file set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_official
import torch
from PIL import Image
from safetensors.torch import save_file

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.interop.read.official_files import PARTS, load_official
from versatile_diffusion.interop.read.tensors import open_tensors

CONFIG = tiny_official.CONFIG


def link(files: Path, folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).symlink_to(files / name)


def test_the_whole_set(files, states):
    loaded = load_official(files, config=CONFIG)
    unet, bank = loaded["unet"], loaded["bank"]
    assert set(unet.data) == set(unet.context) == set(bank.codecs) == set(bank.encoders) == {"image", "text"}
    first = states["diffuser"]["diffuser.image.data_blocks.0.0.weight"]
    assert any(torch.equal(first, weight) for weight in unet.data["image"].parameters())
    assert torch.equal(bank.codecs["image"].vae.quant_conv.weight, states["image-codec"]["quant_conv.weight"])
    assert bank.encoders["text"].encode(["a cat"]).shape == (1, 12, tiny_official.WIDTH)
    assert bank.encoders["image"].encode([Image.new("RGB", (9, 7))]).shape == (1, 5, tiny_official.WIDTH)


def test_every_task_runs_and_survives_saving(files, tmp_path):
    pipe = VersatileDiffusionPipeline.from_official(files, config=CONFIG)
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "seed": 0}
    picture = pipe.text_to_image("a cat", **options).images[0]
    assert picture.size == (16, 16)
    assert len(pipe.image_variation(picture, **options).images) == 1
    assert isinstance(pipe.image_to_text(picture, **options).texts[0], str)
    assert isinstance(pipe.text_variation("a cat", **options).texts[0], str)
    pipe.save_pretrained(tmp_path)
    again = VersatileDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    for part in ("unet", "bank"):
        before, after = getattr(pipe, part).state_dict(), getattr(again, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)
    levels = [np.asarray(p, dtype=int) for p in (picture, again.text_to_image("a cat", **options).images[0])]
    assert np.abs(levels[0] - levels[1]).max() <= 1


def test_half_precision(files):
    loaded = load_official(files, torch.float16, config=CONFIG)
    assert loaded["unet"].dtype == loaded["bank"].dtype == torch.float16


def test_a_checkpoint_with_everything(files, states, tmp_path):
    clip = open_tensors(files / "clip-vit-large-patch14" / "model.safetensors")
    whole = dict(states["diffuser"])
    whole |= {f"vae.image.{name}": value for name, value in states["image-codec"].items()}
    whole |= {f"vae.text.{name}": value for name, value in states["text-codec"].items()}
    for side in ("ctx.text.model.", "ctx.image.model."):
        whole |= {side + name: value + 1 for name, value in clip.items()}
        whole[f"{side}text_model.embeddings.position_ids"] = torch.arange(12)[None]
    whole["betas"] = torch.zeros(1000)
    torch.save({"state_dict": whole}, tmp_path / "mine.pth")
    clip_folder = tmp_path / "clip"
    clip_folder.mkdir()
    link(files / "clip-vit-large-patch14", clip_folder, "config.json", "vocab.json", "merges.txt")
    link(files, tmp_path, "bert-base-cased-vocab.txt", "gpt2-vocab.json", "gpt2-merges.txt")
    encoders = load_official(tmp_path / "mine.pth", config=CONFIG)["bank"].encoders
    assert torch.equal(encoders["text"].model.text_projection.weight, clip["text_projection.weight"] + 1)
    assert torch.equal(encoders["image"].model.visual_projection.weight, clip["visual_projection.weight"] + 1)


def test_safetensors_and_fewer_parts(states, tmp_path):
    save_file(
        {n: v.contiguous() for n, v in states["diffuser"].items()}, tmp_path / "vd-four-flow-v1-0-fp16.safetensors"
    )
    torch.save(states["image-codec"], tmp_path / "kl-f8.pth", _use_new_zipfile_serialization=False)
    bank = load_official(tmp_path, parts=["image-codec"], config=CONFIG)["bank"]
    assert list(bank.parts) == ["codec-image"]
    with pytest.raises(ValueError, match=r"no text codec; it can generate: image"):
        bank.codecs["text"]


@pytest.mark.parametrize(
    ("absent", "named"),
    [
        ("vd-four-flow-v1-0.pth", r"no checkpoint of a diffuser \(vd-four-flow-v1-0, .*it contains"),
        ("kl-f8.pth", "lacks: the image-codec .kl-f8.*Found:"),
        ("optimus-vae.pth", "lacks: the text-codec .optimus-vae.*Found:"),
        ("gpt2-merges.txt", "lacks: gpt2-merges.txt or gpt2/merges.txt.*Found:"),
        ("clip-vit-large-patch14", r"lacks: the text-encoder .*clip\*/config.json.*Found:"),
    ],
)
def test_what_is_missing_is_named(files, tmp_path, absent, named):
    link(files, tmp_path, *(file.name for file in files.iterdir() if file.name != absent))
    with pytest.raises(ValueError, match=rf"{named}.*vocab"):
        load_official(tmp_path, config=CONFIG)


def test_another_layout_says_what_it_holds(tmp_path):
    torch.save({"model.diffusion_model.unet_image.x": torch.zeros(1)}, tmp_path / "vd.pth")
    with pytest.raises(
        ValueError,
        match=r"vd.pth has names of .*official-2022.*'model.diffusion_model.unet_image.x' is not a known",
    ):
        load_official(tmp_path / "vd.pth", parts=[])


def test_a_lacking_weight_is_named(files, states, tmp_path):
    link(files, tmp_path, *(file.name for file in files.iterdir() if file.name != "kl-f8.pth"))
    damaged = {name: value for name, value in states["image-codec"].items() if name != "quant_conv.bias"}
    torch.save(damaged, tmp_path / "kl-f8.pth")
    with pytest.raises(ValueError, match=r"image-codec of .* cannot be used: .*quant_conv\.bias is missing.*verify"):
        load_official(tmp_path, config=CONFIG)


def test_it_says_what_it_found(files, caplog):
    with caplog.at_level("INFO", "versatile_diffusion"):
        load_official(files, parts=[], config=CONFIG)
    assert "Versatile Diffusion, names of 2023 (official-2023): streams data image, data text, context" in caplog.text


def test_wrong_arguments(files, tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        load_official(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"unknown parts sound; known: {', '.join(PARTS)}"):
        load_official(files, parts=["sound"])
