"""What a model's folder says of itself, beside the model that is loaded from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.diffuser.groups import parameter_counts
from versatile_diffusion.pipeline.distilled import DistilledForm
from versatile_diffusion.pipeline.facts import facts_of
from versatile_diffusion.sampling.names import CLASSES, scheduler_of_class
from versatile_diffusion.sampling.schedulers import SCHEDULERS, scheduler_name


def test_a_folder_says_what_its_model_is(model: Path) -> None:
    facts, pipe = facts_of(model, "mine"), VersatileDiffusionPipeline.from_pretrained(model)
    assert facts["tasks"] == {task.name: str(task.flow) for task in pipe.tasks()}
    assert facts["parameters"]["diffuser"] == parameter_counts(pipe.unet)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in pipe.bank.parts.items()}
    assert facts["parameters"]["codecs and context encoders"] == parts
    assert facts["classes"] == {name: type(part).__name__ for name, part in pipe.bank.parts.items()}
    assert (facts["scheduler"], facts["styles"]) == ("ddim", pipe.config.styles)
    assert (facts["distilled"], facts["model"]) == ([], "mine")


def test_it_names_the_distilled_forms_and_a_damaged_file(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "mine")
    DistilledForm("4", {"text-to-image": {"guidance_scale": 1.0}}).save(tmp_path / "mine" / "distilled" / "4")
    assert facts_of(tmp_path / "mine", "mine")["distilled"] == ["4"]
    weights = tmp_path / "mine" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        facts_of(tmp_path / "mine", "mine")


def test_the_names_of_samplers_are_those_of_their_classes() -> None:
    assert {name: scheduler_name(make()) for name, make in SCHEDULERS.items()} == {name: name for name in CLASSES}
    assert all(scheduler_of_class(type(make()).__name__) == name for name, make in SCHEDULERS.items())
    assert scheduler_of_class("EulerDiscreteScheduler") is None
