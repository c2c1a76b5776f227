"""Scripts written for diffusers run as they are."""

from __future__ import annotations

import inspect
import json
import re
import runpy
import shutil
from collections.abc import Iterator, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import build_tiny_pipeline

from versatile_diffusion import Output, VersatileDiffusionPipeline
from versatile_diffusion.training.diffuser.lora import LoraSettings, add_lora, save_lora

SCRIPT = Path(__file__).with_name("as_in_diffusers.py")
FAST: dict[str, Any] = {"num_inference_steps": 2, "seed": 0}


class Rows(Sequence):
    """As `datasets.Dataset` behaves: rows by number, columns (sequences that are no lists) by name."""

    def __init__(self, rows: list[dict[str, Any]]):
        self.rows = rows

    def __getitem__(self, key: Any) -> Any:
        return Rows.Column([row[key] for row in self.rows]) if isinstance(key, str) else self.rows[key]

    def __len__(self) -> int:
        return len(self.rows)

    class Column(Sequence):
        def __init__(self, values: list[Any]):
            self.values = values

        def __getitem__(self, key: Any) -> Any:
            return self.values[key]

        def __len__(self) -> int:
            return len(self.values)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and an adapter of it."""
    pytest.importorskip("peft")
    place = tmp_path_factory.mktemp("habits")
    pipe = build_tiny_pipeline()
    pipe.save_pretrained(place / "my-model")
    add_lora(pipe.unet, LoraSettings(("context.text", "data.image"), rank=2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if ".lora_" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    save_lora(pipe.unet, place / "my-lora")
    return place


@pytest.fixture
def place(model: Path, monkeypatch: pytest.MonkeyPatch, picture: Image.Image) -> Path:
    monkeypatch.chdir(model)
    picture.save("photo.png")
    return model


def same(left: Image.Image, right: Image.Image) -> bool:
    return bool((np.asarray(left) == np.asarray(right)).all())


@pytest.mark.filterwarnings("ignore:.*has no tiling")
def test_a_script_for_diffusers_runs_as_written(place: Path, picture: Image.Image) -> None:
    assert len(SCRIPT.read_text("utf-8").splitlines()) >= 40
    raw = {"bytes": Path("photo.png").read_bytes(), "path": None}
    rows = Rows([{"image": picture, "text": "a cat"}, {"image": raw, "text": "a dog"}])
    it = runpy.run_path(str(SCRIPT), {"rows": rows})
    assert len(it["variations"]) == len(it["images"]) == len(it["sliced"]) == len(it["drawn"]) == 2
    assert [len(it[name]) for name in ("mixed", "embedded", "captions")] == [1, 1, 2]
    assert it["sized"].size == (16, 24)
    assert it["steps"] == [["latents"], ["latents"]]
    assert same(it["from_latents"], it["plain"])  # all adapters are gone again
    assert not same(it["styled"].images[0], it["plain"])
    assert it["styled"].settings["model"]["fingerprint"].endswith("+style:0.7+other:0.2")
    assert "MultiFlowPipeline" in it["refused"]  # and not a deprecated pipeline of the same name
    assert it["half"].unet.dtype == torch.float32


def test_slices_are_the_same_images(place: Path) -> None:
    pipe = VersatileDiffusionPipeline.from_pretrained("my-model")
    pipe.set_progress_bar_config(disable=True)
    together = pipe(["a cat", "a dog"], output_type="pt", **FAST).images
    pipe.enable_vae_slicing()
    assert torch.allclose(pipe(["a cat", "a dog"], output_type="pt", **FAST).images, together, atol=1 / 255)
    with pytest.warns(UserWarning, match="LiteVAE.* has no tiling"):
        pipe.enable_vae_tiling()


@pytest.mark.parametrize("on_use", [False, True])
def test_a_variant_is_written_and_read(place: Path, tmp_path: Path, on_use: bool) -> None:
    pipe = VersatileDiffusionPipeline.from_pretrained("my-model")
    pipe.save_pretrained(tmp_path / "both")
    pipe.to(torch.float16).save_pretrained(tmp_path / "both", variant="fp16")
    files = sorted(file.name for file in (tmp_path / "both").glob("**/*.safetensors"))
    assert sum(".fp16." in name for name in files) == len(files) / 2 == 5
    plain, half = (
        VersatileDiffusionPipeline.from_pretrained(tmp_path / "both", variant=variant, on_use=on_use).load_now()
        for variant in (None, "fp16")
    )
    for kept, rounded in ((plain.unet, half.unet), (plain.bank, half.bank)):
        before, after = kept.state_dict(), rounded.state_dict()
        assert all(torch.equal(after[name].float(), before[name].half().float()) for name in before)
        assert any(not torch.equal(after[name], before[name]) for name in before)


def test_a_folder_with_the_earlier_class_name_is_read(place: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(place / "my-model", tmp_path / "earlier")
    index = json.loads((copy / "model_index.json").read_text("utf-8"))
    assert index["_class_name"] == "MultiFlowPipeline"
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "VersatileDiffusionPipeline"}), "utf-8")
    earlier = VersatileDiffusionPipeline.from_pretrained(copy)
    assert earlier.fingerprint() == VersatileDiffusionPipeline.from_pretrained(place / "my-model").fingerprint()


def test_a_variant_that_is_not_there_is_said(place: Path) -> None:
    with pytest.warns(UserWarning, match="no weights of variant 'fp16'"):
        VersatileDiffusionPipeline.from_pretrained("my-model", variant="fp16")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"torch_dtyp": torch.float16}, "mean 'torch_dtype'"),
        ({"variant": 16}, "variant is 16"),
        ({"device_map": "abacus"}, "abacus"),
        ({"device_map": {"unet": "cpu", "bank": "meta"}}, "one device"),
        ({"use_safetensors": False}, "safetensors alone"),
        ({"safety_checker": "one"}, "has none"),
    ],
    ids=str,
)
def test_options_of_loading_that_cannot_be(place: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VersatileDiffusionPipeline.from_pretrained("my-model", **options)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("guidence_scale", "guidance_scale"),
        ("cfg", "guidance_scale"),
        ("steps", "num_inference_steps"),
        ("num_inference_step", "num_inference_steps"),
        ("num_steps", "num_inference_steps"),
        ("timesteps", "num_inference_steps"),
        ("batch_size", "num_outputs"),
        ("sampler", "scheduler"),
        ("negative", "negative_prompt"),
        ("mask_image", "repaint"),
        ("denoising_strength", "strength"),
        ("callback", "callback_on_step_end"),
    ],
)
def test_an_unknown_keyword_is_guessed(idle_pipeline: VersatileDiffusionPipeline, given: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"'{given}'; did you mean '{meant}'"):
        idle_pipeline("a cat", **{given: 1})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "a prompt, an image or both"),
        ({"prompt": "a", "prompt_embeds": torch.ones(1, 2, 192)}, "aliases"),
        ({"prompt": "a", "negative_prompt_embeds": torch.ones(1, 2, 192)}, "goes with prompt_embeds"),
        ({"image": Image.new("RGB", (16, 16)), "prompt": "a", "strength": 0.5}, "start="),
        ({"prompt": Image.new("RGB", (16, 16))}, "give images as image="),
        ({"prompt": [Image.new("RGB", (16, 16))]}, "give images as image="),
        ({"prompt": "a", "start": [Image.new("RGB", (16, 16))] * 2, "strength": 0.5}, "encode_latent"),
        ({"prompt": "a", "start": np.zeros((2, 16, 16, 3)), "strength": 0.5}, "encode_latent"),
        ({"prompt": "a", "callback_on_step_end_tensor_inputs": ["noise"]}, "allowed: latents, pred_x0"),
        ({"prompt": "a", "callback_on_step_end_tensor_inputs": "latents"}, "must be a list"),
        ({"prompt": "a", "callback_on_step_end": 5}, "must be a function"),
        ({"prompt": "a", "return_dict": "no"}, "True or False"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_calls_that_cannot_be(idle_pipeline: VersatileDiffusionPipeline, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        idle_pipeline(**options)


def test_prompts_as_tokens_are_the_prompts(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    tokens, away = tiny_pipeline.encode_prompt(["a cat", "a dog"], negative_prompt="red")
    given = tiny_pipeline(prompt_embeds=tokens, negative_prompt_embeds=away, **FAST)
    assert torch.equal(given.latents, tiny_pipeline(["a cat", "a dog"], negative_prompt="red", **FAST).latents)
    twice, none = tiny_pipeline.encode_prompt("a cat", "cpu", 2, False)
    assert (len(twice), none) == (2, None)
    with pytest.raises(ValueError, match="3 negative prompts for 2"):
        tiny_pipeline.encode_prompt(["a", "b"], negative_prompt=["a"] * 3)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_a_batch_of_outputs_is_started_from_as_latents(
    tiny_pipeline: VersatileDiffusionPipeline, output_type: str
) -> None:
    made = tiny_pipeline(["a cat", "a dog"], output_type=output_type, **FAST)
    again = tiny_pipeline("a cat", start=tiny_pipeline.encode_latent(made.images), strength=0.5, num_outputs=2, **FAST)
    assert len(again) == 2


def test_series_of_pandas(tiny_pipeline: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": ["a cat", "a dog"], "image": [picture, picture]})
    assert torch.equal(tiny_pipeline(table["text"], **FAST).latents, tiny_pipeline(["a cat", "a dog"], **FAST).latents)
    assert len(tiny_pipeline.image_to_text(table["image"], **FAST)) == 2


def test_adapters_that_cannot_be(place: Path, tmp_path: Path) -> None:
    pipe = VersatileDiffusionPipeline.from_pretrained("my-model")
    for source, words in (("nowhere", "no such file"), (tmp_path, "holds no adapter")):
        with pytest.raises(ValueError, match=words):
            pipe.load_lora_weights(source)
    for method in (pipe.fuse_lora, pipe.unfuse_lora, pipe.disable_lora, pipe.enable_lora):
        with pytest.raises(ValueError, match="has no adapter"):
            method()
    before = pipe.fingerprint()
    pipe.load_lora_weights("my-lora")
    assert pipe.get_list_adapters() == {"unet": ["default_0"]}
    with pytest.raises(ValueError, match="the adapter 'default_0' already exists"):
        pipe.load_lora_weights("my-lora", "default_0")
    with pytest.raises(ValueError, match="no adapter other; there are: default_0"):
        pipe.set_adapters("other")
    with pytest.raises(ValueError, match="2 adapter_weights for 1 adapters"):
        pipe.set_adapters("default_0", [1, 2])
    pipe.save_lora_weights(tmp_path / "copy")
    pipe.disable_lora()
    assert pipe.get_active_adapters() == []
    pipe.delete_adapters("default_0")
    pipe.unload_lora_weights()
    assert pipe.fingerprint() == before
    pipe.load_lora_weights(tmp_path / "copy" / "pytorch_lora_weights.safetensors", "copy")
    assert pipe.get_active_adapters() == ["copy"]


def test_an_adapter_of_another_model_is_refused(place: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    pipe = VersatileDiffusionPipeline.from_pretrained("my-model")
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"unet.{layer}.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    save_file(tensors, tmp_path / "sd.safetensors")
    with pytest.raises(ValueError, match="belongs to another model: 1 of its 1 layers"):
        pipe.load_lora_weights(tmp_path / "sd.safetensors")
    assert pipe.get_list_adapters() == {}


def test_an_output_is_one_line_and_a_picture(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    images, texts = tiny_pipeline(["a <b>", "a cat"], **FAST), tiny_pipeline.text_variation("a cat", **FAST)
    arrays, latents = (tiny_pipeline("a cat", output_type=kind, **FAST) for kind in ("np", "latent"))
    for output in (images, images[1], texts, arrays, latents):
        assert repr(output).startswith(f"Output({len(output)} ")
        assert "\n" not in repr(output)
        assert len(repr(output)) < 300
    assert re.search("seed 1", repr(images[1]))
    assert images._repr_html_().count("data:image/png;base64,") == 2
    assert "a &lt;b&gt;" in images._repr_html_()
    assert arrays._repr_html_().count("<img") == 1
    assert "<li>" in texts._repr_html_()
    assert latents._repr_html_().startswith("<code>Output(")


def public_methods() -> Iterator[tuple[str, Any]]:
    for home in (VersatileDiffusionPipeline, Output):
        for name, method in inspect.getmembers(home, callable):
            ours = str(getattr(method, "__module__", "")).startswith("versatile_diffusion")
            if ours and (not name.startswith("_") or name == "__call__"):
                yield f"{home.__name__}.{name}", method


@pytest.mark.parametrize(
    ("name", "method"), public_methods(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_signatures_are_complete(name: str, method: Any) -> None:
    """Editors and `help` see every argument: by name, or by the class that `Unpack` names."""
    assert inspect.getdoc(method)
    for parameter in inspect.signature(method).parameters.values():
        assert parameter.kind is not Parameter.VAR_POSITIONAL, parameter
        if parameter.kind is Parameter.VAR_KEYWORD:
            assert "Unpack[" in str(parameter.annotation), parameter


def test_help_lists_every_option_with_what_it_does() -> None:
    told = inspect.getdoc(VersatileDiffusionPipeline.text_to_image) or ""
    assert "num_inference_steps (50): Sampling steps" in told
    assert "temperature" not in told  # of texts alone
    assert '["a", "b"])[1]' in told
