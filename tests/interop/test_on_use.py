"""Published weights stay in their files until a task needs them."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_official
import torch
from PIL import Image

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.layers.on_use import unread
from versatile_diffusion.records.record import fingerprint

OPTIONS = {"num_inference_steps": 2, "seed": 0, "output_type": "latent"}
TASKS = {
    "text-to-image": lambda pipe: pipe.text_to_image("a cat", **OPTIONS),
    "image-to-text": lambda pipe: pipe.image_to_text(Image.new("RGB", (9, 7), "red"), **OPTIONS),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_official.write_official(tmp_path_factory.mktemp("official"))


def load(files: Path, dtype: torch.dtype = torch.float32, **options) -> VersatileDiffusionPipeline:
    pipe = VersatileDiffusionPipeline.from_official(files, dtype, config=tiny_official.CONFIG, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def eager(files) -> VersatileDiffusionPipeline:
    return load(files, on_use=False)


def groups(module: torch.nn.Module, depth: int) -> set[str]:
    """What is not read yet, by the beginning of the names."""
    return {".".join(name.split(".")[:depth]) for name in unread(module)}


def test_a_task_reads_what_it_needs(files):
    pipe = load(files)
    assert set(unread(pipe.unet)) == set(pipe.unet.state_dict())
    pipe.text_to_image("a cat", num_inference_steps=1, seed=0)
    assert groups(pipe.unet, 2) == {"data.text", "context.image"}
    assert groups(pipe.bank, 4) >= {"codecs.image.vae.encoder", "codecs.text.decoder.gpt2"}
    assert not {name for name in groups(pipe.bank, 4) if name.startswith(("encoders.text", "codecs.image.vae.decoder"))}
    pipe.image_to_text(Image.new("RGB", (9, 7)), num_inference_steps=1, seed=0)
    assert not unread(pipe.unet)
    assert groups(pipe.bank, 3) == {"codecs.image.vae", "codecs.text.encoder"}


def test_it_is_the_model_that_is_read_at_once(files, eager):
    pipe = load(files)
    assert fingerprint(pipe.unet, pipe.bank) == fingerprint(eager.unet, eager.bank)
    for task in TASKS.values():
        first, second = task(pipe), task(eager)
        assert torch.equal(first.latents, second.latents)
        assert first.settings["model"]["fingerprint"] == second.settings["model"]["fingerprint"]
    made = eager.text_to_image("a cat", num_inference_steps=1)
    assert torch.equal(load(files).replay(made.settings).latents, made.latents)
    assert pipe.load_now() is pipe
    assert not unread(pipe.unet) | unread(pipe.bank)
    assert fingerprint(pipe.unet, pipe.bank) == fingerprint(eager.unet, eager.bank)


def test_half_precision(files):
    pipe, whole = load(files, torch.float16), load(files, torch.float16, on_use=False)
    assert fingerprint(pipe.unet, pipe.bank) == fingerprint(whole.unet, whole.bank)
    assert fingerprint(load(files).to(torch.float16).unet) == fingerprint(whole.unet)
    assert torch.equal(pipe.text_to_image("a cat", **OPTIONS).latents, whole.text_to_image("a cat", **OPTIONS).latents)
    assert {tensor.dtype for tensor in pipe.unet.load_now().parameters()} == {torch.float16}


def test_offloading_moves_the_bank_and_the_diffuser(files, eager):
    pipe = load(files)
    pipe.enable_model_cpu_offload(device="cpu")
    moved = []
    for part in ("bank", "unet"):
        hook = getattr(pipe, part)._hf_hook
        hook.pre_forward = lambda *given, part=part, before=hook.pre_forward, **more: (
            moved.append(part) or before(*given, **more)
        )
    latents = pipe.text_to_image("a cat", **OPTIONS).latents
    assert torch.equal(latents, eager.text_to_image("a cat", **OPTIONS).latents)
    assert set(moved) == {"bank", "unet"}
    assert groups(pipe.unet, 2) == {"data.text", "context.image"}


def test_sequential_offloading_and_saving_read_all(files, eager, tmp_path):
    pipe = load(files)
    pipe.enable_sequential_cpu_offload(device="cpu")
    assert not unread(pipe.unet) | unread(pipe.bank)
    load(files).save_pretrained(tmp_path)
    again = VersatileDiffusionPipeline.from_pretrained(tmp_path, on_use=True)
    again.set_progress_bar_config(disable=True)
    assert fingerprint(again.unet, again.bank) == fingerprint(eager.unet, eager.bank)
    assert torch.equal(TASKS["text-to-image"](again).latents, TASKS["text-to-image"](eager).latents)
    assert groups(again.unet, 2) == {"data.text", "context.image"}
    assert VersatileDiffusionPipeline.from_pretrained(tmp_path).unet.training is False


def test_chosen_tasks_need_no_other_files(files, eager, tmp_path):
    for name in ("vd-four-flow-v1-0.pth", "kl-f8.pth", "clip-vit-large-patch14"):
        (tmp_path / name).symlink_to(files / name)
    pipe = load(tmp_path, tasks=["text-to-image"])
    assert (set(pipe.unet.data), set(pipe.unet.context)) == ({"image"}, {"text"})
    assert set(pipe.bank.parts) == {"codec-image", "encoder-text"}
    assert [task.name for task in pipe.tasks()] == ["text-to-image"]
    assert torch.equal(TASKS["text-to-image"](pipe).latents, TASKS["text-to-image"](eager).latents)
    with pytest.raises(ValueError, match=r"lacks: .*optimus-vae"):
        load(tmp_path)
    with pytest.raises(ValueError, match="unknown tasks singing; known: text-to-image"):
        load(tmp_path, tasks=["singing"])
