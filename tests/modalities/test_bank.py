"""All codecs and context encoders as one component."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest
import tiny_official
import torch
from diffusers import DiffusionPipeline
from diffusers.configuration_utils import register_to_config

from versatile_diffusion.interop.read.clip import tower_config
from versatile_diffusion.modalities import bank as bank_module
from versatile_diffusion.modalities.bank import PARTS_GROUP, ModalityBank, part_classes
from versatile_diffusion.modalities.base import ContextEncoder
from versatile_diffusion.modalities.encoders.clip import CLIPImageContext, CLIPTextContext
from versatile_diffusion.modalities.image.autokl import AutoKLCodec
from versatile_diffusion.pipeline.models import register_classes


class SoundContext(ContextEncoder):
    """A part of somebody else."""

    modality = "sound"

    @register_to_config
    def __init__(self, width: int = 3):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.arange(float(width)))

    def encode(self, values, masks=None):
        return self.scale.expand(len(values), 1, -1)


class OneBank(DiffusionPipeline):
    def __init__(self, bank: ModalityBank):
        super().__init__()
        self.register_modules(bank=bank)


@pytest.fixture
def bank() -> ModalityBank:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec = AutoKLCodec({"block_out_channels": (32,), "sample_size": 8})
        text = CLIPTextContext(tower_config("text_config", tiny_official.CLIP))
        image = CLIPImageContext(tower_config("vision_config", tiny_official.CLIP))
    return ModalityBank({"image": codec}, {"text": text, "image": image})


def same(left: ModalityBank, right: ModalityBank) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_round_trip(bank, tmp_path):
    bank.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"bank.json", "codec-image", "encoder-text", "encoder-image"}
    assert json.loads((tmp_path / "bank.json").read_text())["parts"]["codec-image"] == "AutoKLCodec"
    again = ModalityBank.from_pretrained(tmp_path)
    assert same(again, bank)
    assert not any(module.training for module in again.modules())


def test_dtype_and_device(bank, tmp_path):
    bank.save_pretrained(tmp_path)
    halved = ModalityBank.from_pretrained(tmp_path, dtype=torch.float16)
    assert halved.dtype == torch.float16
    assert {weight.dtype for weight in halved.parameters()} == {torch.float16}
    assert halved.to(torch.float32).dtype == torch.float32
    assert bank.device == torch.device("cpu")
    assert bank.to("meta").device.type == "meta"


def test_some_parts(bank, tmp_path):
    bank.save_pretrained(tmp_path)
    some = ModalityBank.from_pretrained(tmp_path, parts=["encoder-text"])
    assert list(some.parts) == ["encoder-text"]
    with pytest.raises(ValueError, match="has no codec-text; it has codec-image, encoder-text, encoder-image"):
        ModalityBank.from_pretrained(tmp_path, parts=["codec-text"])


def test_absent_parts_say_what_there_is(bank):
    with pytest.raises(ValueError, match="this model has no text codec; it can generate: image"):
        bank.codecs["text"]
    with pytest.raises(
        ValueError, match="this model has no sound context encoder; it can be conditioned on: text, image"
    ):
        bank.encoders["sound"]
    with pytest.raises(ValueError, match="it can generate: nothing"):
        ModalityBank().codecs["image"]
    assert "text" not in bank.codecs
    assert isinstance(bank.codecs["image"], AutoKLCodec)


def test_no_bank(tmp_path):
    with pytest.raises(ValueError, match=r"has no bank\.json"):
        ModalityBank.from_pretrained(tmp_path)


def test_unknown_class(tmp_path):
    (tmp_path / "bank.json").write_text(json.dumps({"parts": {"codec-image": "Cassette"}}))
    with pytest.raises(
        ValueError, match="unknown class of codec or context encoder 'Cassette'; known: AudioVAE, AutoKLCodec"
    ):
        ModalityBank.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"'SoundContext'.*{PARTS_GROUP}"):
        ModalityBank(encoders={"sound": SoundContext()}).save_pretrained(tmp_path)


def test_classes_of_others_join_through_entry_points(monkeypatch, tmp_path):
    point = EntryPoint("SoundContext", f"{__name__}:SoundContext", PARTS_GROUP)
    monkeypatch.setattr(bank_module, "entry_points", lambda group: [point] if group == PARTS_GROUP else [])
    bank = ModalityBank(encoders={"sound": SoundContext(5)})
    bank.save_pretrained(tmp_path)
    assert same(ModalityBank.from_pretrained(tmp_path), bank)


def test_every_known_class_exists():
    for name, point in part_classes().items():
        assert point.load().__name__ == name


def test_as_a_component_of_a_pipeline(bank, tmp_path):
    register_classes()
    OneBank(bank).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["bank"] == ["versatile_diffusion", "ModalityBank"]
    again = OneBank.from_pretrained(tmp_path)
    assert same(again.bank, bank)
    assert OneBank.from_pretrained(tmp_path, dtype=torch.float16).bank.dtype == torch.float16
