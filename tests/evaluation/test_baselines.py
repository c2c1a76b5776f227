"""Models of others through the same evaluation, at the smallest size, with random weights."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionImageVariationPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
)

from versatile_diffusion.cli import main
from versatile_diffusion.evaluation.baselines import DiffusersBaseline, find_subject
from versatile_diffusion.evaluation.evaluate import evaluate
from versatile_diffusion.recipes.emoji.held_out import EmojiHeldOut

FIXTURE = Path(__file__).parents[1] / "data" / "emoji"
HELD_OUT = EmojiHeldOut(FIXTURE)
LAYER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = ["<pad>", "<unk>", "<s>", "</s>", "a", "red", "apple", "style"]


def diffuser_parts() -> dict:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, cross_attention_dim=16, norm_num_groups=4,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    return {"unet": unet, "vae": vae, "scheduler": scheduler, "safety_checker": None}


def saved(folder: Path, kind: type, **readers: Any) -> str:
    """A pipeline of diffusers in a folder."""
    kind(**diffuser_parts(), **readers, requires_safety_checker=False).save_pretrained(folder)
    return str(folder)


def small_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = dict(pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=12, **special)


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("stable-diffusion")
    text = CLIPTextModel(CLIPTextConfig(**LAYER, vocab_size=len(WORDS), max_position_embeddings=12, eos_token_id=3))
    return saved(
        folder, StableDiffusionPipeline, text_encoder=text, tokenizer=small_tokenizer(), feature_extractor=None
    )


@pytest.fixture(scope="module")
def image_variations(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("image-variations")
    seen = CLIPVisionConfig(**LAYER, image_size=32, patch_size=16, projection_dim=16)
    read = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    encoder = CLIPVisionModelWithProjection(seen)
    return saved(folder, StableDiffusionImageVariationPipeline, image_encoder=encoder, feature_extractor=read)


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("blip")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(names))
    ids = {"pad_token_id": 0, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
    text = LAYER | ids | {"vocab_size": len(names), "encoder_hidden_size": 16, "max_position_embeddings": 40}
    config = BlipConfig(text_config=text, vision_config=LAYER | {"image_size": 32, "patch_size": 16}, projection_dim=8)
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "task", "metric"),
    [
        ("stable_diffusion", "text-to-image", "judge/style"),
        ("image_variations", "image-variation", "judge/fid"),
        ("blip", "image-to-text", "text/CIDEr-D"),
    ],
)
def test_a_baseline_is_measured_as_ours(name, task, metric, protocol, subject, tmp_path, request) -> None:
    folder = request.getfixturevalue(name)
    subject.encoders["image"].save_pretrained(tmp_path / "encoder-image")
    subject.pipe.bank.save_pretrained(tmp_path)
    protocol = replace(protocol, encoders=str(tmp_path))
    theirs, samples = evaluate(find_subject(folder), HELD_OUT, protocol)
    assert set(theirs.tables["pair-test"]) == {"given image", "given text", task}
    row = theirs.tables["pair-test"][task]
    assert metric in row
    assert "agreement/text" in row
    ours, _ = evaluate(subject, HELD_OUT, protocol, tasks=[task])
    assert ours.protocol.differences(theirs.protocol) == []
    made = next(sample.made for sample in samples if sample.way == task)
    assert len(made.values) == 3


def test_captions_of_a_baseline_stand_beside_ours(blip, clip_folder, tiny_pipeline, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_pipeline.save_pretrained("mine")
    options = {"model": "mine", "against": blip, "data": FIXTURE, "split": "pair-test", "count": 2, "steps": 1}
    words = [word for name, value in (options | {"device": "cpu"}).items() for word in (f"--{name}", str(value))]
    assert main(["evaluate", *words, "--task", "image-to-text", "--encoders", str(clip_folder)]) == 0
    report = Path("evaluation/report.html").read_text()
    assert "image-to-text, side by side" in report
    assert f"<td>mine</td><td>{Path(blip).name}</td>" in report


def test_the_command_measures_a_baseline_by_a_clip(blip, clip_folder, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    options = {
        "model": blip, "data": FIXTURE, "encoders": clip_folder, "features": clip_folder,
        "split": "pair-test", "count": 2, "device": "cpu",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert main(["evaluate", *words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["model"]["name"] == Path(blip).name
    table = result["tables"]["pair-test"]
    assert set(table) == {"given image", "given text", "image-to-text"}
    assert {"agreement/text", "agreement/image", "text/CIDEr-D"} <= set(table["image-to-text"])
    assert f"{clip_folder.name}/fid" in table["given image"]


def test_models_go_to_the_device_that_is_asked_for(blip, stable_diffusion, tiny_pipeline, tmp_path) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "mine")
    for folder in (blip, stable_diffusion, str(tmp_path / "mine")):
        subject = find_subject(folder, torch.device("meta"))
        assert subject.device.type == subject.network.device.type == "meta"


def test_the_device_is_where_the_model_is(blip) -> None:
    subject = find_subject(blip)
    assert subject.device.type == "cpu"
    subject.network.to("meta")
    assert subject.device.type == "meta"


def test_seeds_and_sampler_are_the_protocols(stable_diffusion, protocol) -> None:
    baseline = find_subject(stable_diffusion)
    assert isinstance(baseline, DiffusersBaseline)
    task = baseline.tasks[0]
    one, two, again = (baseline.make(task, ["a red apple"], [seed], protocol)[0].tobytes() for seed in (0, 1, 0))
    assert one == again != two
    baseline.make(task, ["a"], [0], replace(protocol, scheduler="dpm++"))
    assert type(baseline.pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"


def test_a_baseline_cannot_choose_among_candidates(stable_diffusion, protocol) -> None:
    with pytest.raises(ValueError, match="cannot rank 4 candidates"):
        find_subject(stable_diffusion).wanted(replace(protocol, candidates=4))


def test_of_our_own_models_those_that_can_compare_choose(subject, protocol) -> None:
    many, half = replace(protocol, candidates=4), copy.copy(subject)
    assert half.wanted(many) == list(subject.tasks)
    half.encoders = {"image": subject.encoders["image"]}
    assert [task.name for task in half.wanted(many, ["image-variation"])] == ["image-variation"]
    with pytest.raises(ValueError, match="candidates in text-to-image: it has no encoders"):
        half.wanted(many, ["text-to-image"])


def test_ours_are_found_as_before(tiny_pipeline, tmp_path) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "mine")
    found = find_subject(str(tmp_path / "mine"))
    assert found.name == "mine"
    assert len(found.tasks) == 4
    with pytest.raises(ValueError, match="unknown model 'nowhere'"):
        find_subject("nowhere")
