"""Writing back: every layout holds the same weights, bit for bit, and diffusers' own classes read theirs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import pytest
import tiny_official
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.pipelines.deprecated.versatile_diffusion.modeling_text_unet import UNetFlatConditionModel
from PIL import Image
from safetensors.torch import load_file
from tiny_official import CONFIG, WIDTH
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers import CLIPTextModelWithProjection as CLIPText
from transformers import CLIPVisionModelWithProjection as CLIPVision

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.cli import main
from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop import convert as conversion
from versatile_diffusion.interop.convert import convert, official_configs, official_states
from versatile_diffusion.interop.names.autokl import autokl_config
from versatile_diffusion.interop.official import FULL_SIZE, diffuser_config, published_config
from versatile_diffusion.interop.read.layouts import recognise
from versatile_diffusion.interop.write import folders as hub_writer
from versatile_diffusion.interop.write.tensors import write_safetensors
from versatile_diffusion.modalities.image.autokl import AutoKLCodec

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> VersatileDiffusionPipeline:
    files = tiny_official.write_official(tmp_path_factory.mktemp("published"))
    return VersatileDiffusionPipeline.from_official(files, config=CONFIG)


@pytest.fixture(scope="module")
def written(pipe, tmp_path_factory) -> dict[str, conversion.Conversion]:
    """The same model in every layout, by its name."""
    folder = tmp_path_factory.mktemp("written")
    return {to: convert(pipe, folder / to, to) for to in conversion.LAYOUTS}


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """A hash of names, shapes, dtypes and bits."""
    whole = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().contiguous()
        whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def digests(pipe: VersatileDiffusionPipeline) -> dict[str, str]:
    return {part: digest(state) for part, state in official_states(pipe.load_now()).items()}


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max())


@pytest.mark.parametrize("to", ["ours", "official", "diffusers"])
def test_every_layout_holds_the_same(pipe, written, to, tmp_path):
    found = written[to].found
    assert (found.layout, set(found.streams)) == (
        {"ours": "ours", "official": "official-2023", "diffusers": "diffusers"}[to],
        {"data.image", "data.text", "context.image", "context.text"},
    )
    assert sum(written[to].sizes.values()) > 100_000
    again = VersatileDiffusionPipeline.from_pretrained(written[to].folder)
    assert digests(again) == digests(pipe)
    assert again.tasks() == pipe.tasks()
    assert {part: dict(c) for part, c in official_configs(again).items()} == official_configs(pipe)
    for name, encoder in pipe.bank.encoders.items():
        value = {"text": "a cat", "image": Image.new("RGB", (40, 30), "red")}[name]
        assert close(again.bank.encoders[name].encode([value]), encoder.encode([value]))
    latent = torch.zeros(1, WIDTH)
    assert again.bank.codecs["text"].decode(latent) == pipe.bank.codecs["text"].decode(latent)
    assert close(again.bank.codecs["text"].encode(["a cat"]), pipe.bank.codecs["text"].encode(["a cat"]))


def test_round_trip_through_all_layouts(written, tmp_path):
    """Official names to diffusers' to ours to official names: the files hold the same bits."""
    before = written["official"].folder
    place = before
    for to in ("diffusers", "ours", "official"):
        place = convert(VersatileDiffusionPipeline.from_pretrained(place), tmp_path / to, to).folder
    files = sorted(str(file.relative_to(before)) for file in before.rglob("*.safetensors"))
    assert len(files) == 4
    for name in files:
        assert digest(load_file(place / name)) == digest(load_file(before / name)), name


@torch.no_grad()
def test_diffusers_reads_its_layout_and_agrees(pipe, written):
    folder = written["diffusers"].folder
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 7, WIDTH, generator=generator)
    time = torch.tensor([3, 801])
    picture, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, WIDTH, generator=generator)
    image_unet = UNet2DConditionModel.from_pretrained(folder / "image_unet").eval()
    theirs = image_unet(picture, time, encoder_hidden_states=tokens).sample
    assert close(pipe.unet(picture, time, [Context("image", tokens)], data="image"), theirs)
    text_unet = UNetFlatConditionModel.from_pretrained(folder / "text_unet").eval()
    theirs = text_unet(text[:, :, None, None], time, encoder_hidden_states=tokens).sample[:, :, 0, 0]
    assert close(pipe.unet(text, time, [Context("text", tokens)], data="text"), theirs)
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    assert close(pipe.bank.codecs["image"].vae.decode(picture).sample, vae.decode(picture).sample)


@torch.no_grad()
def test_transformers_reads_its_parts(pipe, written):
    folder = written["diffusers"].folder
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = pipe.bank.encoders["text"]
    assert tokenizer("a cat")["input_ids"] == encoder.tokenizer("a cat")["input_ids"]
    assert (folder / "tokenizer" / "vocab.json").is_file()
    assert (folder / "tokenizer" / "merges.txt").is_file()
    text = CLIPText.from_pretrained(folder / "text_encoder")
    assert digest(text.state_dict()) == digest(encoder.model.state_dict())
    image, pixels = pipe.bank.encoders["image"], Image.effect_noise((40, 32), 90).convert("RGB")
    vision = CLIPVision.from_pretrained(folder / "image_encoder")
    assert digest(vision.state_dict()) == digest(image.model.state_dict())
    processor = CLIPImageProcessor.from_pretrained(folder / "image_feature_extractor")
    theirs = processor(pixels, return_tensors="pt")["pixel_values"]
    assert (theirs - image.preprocess([pixels])).abs().max() < 0.05  # within two levels of 255
    assert DDIMScheduler.from_pretrained(folder / "scheduler").config.beta_end == 0.012
    index = json.loads((folder / "model_index.json").read_text())
    assert index["text_unet"] == ["versatile_diffusion", "UNetFlatConditionModel"]
    whole = CLIPModel.from_pretrained(written["official"].folder / conversion.CLIP_FOLDER)
    assert torch.equal(whole.text_projection.weight, encoder.model.text_projection.weight)
    assert torch.equal(whole.visual_projection.weight, image.model.visual_projection.weight)


def test_pickles_and_half_precision(pipe, tmp_path):
    done = convert(pipe, tmp_path / "half", "official", torch.float16, "pth")
    assert done.found.dtype == torch.float16
    state = torch.load(tmp_path / "half" / "vd-four-flow-v1-0.pth", weights_only=True)
    expected = official_states(pipe)["diffuser"]
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name].half()) for name in state)
    mask = torch.load(tmp_path / "half" / "optimus-vae.pth", weights_only=True)["decoder.transformer.h.0.attn.bias"]
    assert mask.dtype == torch.float16
    assert convert(pipe, tmp_path / "ours", dtype=torch.float16).found.dtype == torch.float16
    again = VersatileDiffusionPipeline.from_official(tmp_path / "ours", torch.float16)
    assert digests(again)["diffuser"] == digest({name: tensor.half() for name, tensor in expected.items()})
    assert pipe.unet.dtype == torch.float32


def test_fewer_flows(tmp_path, pipe):
    """VD-basic has a place in diffusers' layout, dual-context has none."""
    official = convert(pipe, tmp_path / "official", "official").folder
    basic = VersatileDiffusionPipeline.from_official(official, tasks=["image-variation"])
    found = convert(basic, tmp_path / "basic", "diffusers").found
    assert found.streams == ("data.image", "context.image")
    again = VersatileDiffusionPipeline.from_pretrained(tmp_path / "basic")
    assert digests(again) == digests(basic)
    dual = VersatileDiffusionPipeline.from_official(official, tasks=["dual-guided"])
    with pytest.raises(ValueError, match="keeps the data and the context stream of a modality together"):
        convert(dual, tmp_path / "dual", "diffusers")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["basic", "official"]
    assert convert(dual, tmp_path / "dual", "official").found.streams == ("data.image", "context.image", "context.text")


def test_what_cannot_be_written_is_refused(pipe, tiny_pipeline, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        convert(pipe, tmp_path / "there")
    with pytest.raises(ValueError, match="unknown layout 'onnx'; allowed: ours, official, diffusers"):
        convert(pipe, tmp_path / "new", "onnx")
    with pytest.raises(ValueError, match="unknown file format 'zip'; allowed: safetensors, pth"):
        convert(pipe, tmp_path / "new", "official", file_format="zip")
    with pytest.raises(ValueError, match="pth files are only supported for the official layout"):
        convert(pipe, tmp_path / "new", "ours", file_format="pth")
    with pytest.raises(
        ValueError, match=r"codec-image is a LiteVAE.*codec-text has one tokenizer.*They support codec-image"
    ):
        convert(tiny_pipeline, tmp_path / "new", "official")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_failed_conversion_leaves_nothing(pipe, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(conversion.hub_writer, "write_index", fail)
    with pytest.raises(OSError, match="no space"):
        convert(pipe, tmp_path / "new", "diffusers")
    assert not list(tmp_path.iterdir())


def test_full_size_of_what_is_written(reference, tmp_path):
    """Names, shapes and configurations of diffusers' folders, on the meta device."""
    if not (reference / "manifest-diffusers.json").is_file():
        pytest.skip("manifest-diffusers.json is only in the whole reference set")
    manifest = json.loads((reference / "manifest-diffusers.json").read_text())
    with torch.device("meta"):
        unet = MultiFlowUNet(**diffuser_config(FULL_SIZE))
        codec = AutoKLCodec(published_image_codec())
    assert published_config(unet) == FULL_SIZE
    shapes = {}

    def collect(stem, state):
        shapes[stem.parent.name] = {name: list(tensor.shape) for name, tensor in state.items()}

    hub_writer.write_unets(unet, tmp_path, hub_writer.LATENT_SIDE, collect)
    hub_writer.write_image_codec(codec, tmp_path, collect)
    assert shapes.keys() == {"image_unet", "text_unet", "vae"}
    for component, entries in shapes.items():
        assert entries == manifest["components"][component]
    for component in ("image_unet", "text_unet"):
        config = json.loads((tmp_path / component / "config.json").read_text())
        published = {name: value for name, value in manifest["configs"][component].items() if name != "sample_size"}
        assert {name: config[name] for name in published} == published


def published_image_codec():
    """Arguments of the full-size AutoencoderKL."""
    numbers = {"double_z": True, "z_channels": 4, "resolution": 512, "in_channels": 3, "out_ch": 3}
    numbers |= {"ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    return autokl_config({"embed_dim": 4, "ddconfig": numbers})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None])
def test_our_writer_of_safetensors(tmp_path, dtype):
    torch.manual_seed(0)
    matrix = torch.randn(3, 4)
    state = {
        "a": matrix.T,
        "scalar": torch.tensor(2.5),
        "ids": torch.arange(5),
        "half": matrix.half(),
        "none": matrix[:0],
    }
    write_safetensors(tmp_path / "new" / "x.safetensors", state, dtype)
    read = load_file(tmp_path / "new" / "x.safetensors")
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        kind = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        assert read[name].dtype == kind
        assert torch.equal(read[name], tensor.to(kind))


def test_the_command(written, tmp_path, capsys):
    source = written["official"].folder
    assert main(["convert", str(source), str(tmp_path / "hub"), "--to", "diffusers", "--dtype", "float16"]) == 0
    told = capsys.readouterr()
    assert "names of 2023 (official-2023): streams data image" in told.err
    assert "text_unet/diffusion_pytorch_model.safetensors" in told.out
    assert recognise(tmp_path / "hub").dtype == torch.float16
    assert main(["convert", str(tmp_path / "hub"), str(tmp_path / "mine"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["layout"], facts["left_out"]) == ("ours", [])
    assert facts["bytes"]["unet/diffusion_pytorch_model.safetensors"] < 2.2 * sum(
        tensor.numel() for tensor in load_file(source / "vd-four-flow-v1-0.safetensors").values()
    )
    assert main(["convert", str(source), str(tmp_path / "mine")]) != 0
    assert "exists already" in capsys.readouterr().err
