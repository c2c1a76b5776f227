"""The nodes for ComfyUI, against what its node interface asks for, which is written down here."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import build_tiny_pipeline

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.applications.disentangle import levels, restyle, strip

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"
PLAIN = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
SAMPLING: dict[str, Any] = {"seed": 3, "steps": 2, "guidance_scale": 2.0, "count": 2, "mixing": "attention"}
EDGES = {"left": 0.0, "top": 0.0, "right": 1.0, "bottom": 1.0}
ALWAYS = {"weight": 1.0, "start": 0.0, "end": 1.0, **EDGES}


@pytest.fixture(scope="module")
def nodes() -> dict[str, Any]:
    """The nodes as ComfyUI loads a folder of custom nodes: as a package of any name."""
    spec = importlib.util.spec_from_file_location("comfy_nodes", FOLDER / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["comfy_nodes"] = package
    spec.loader.exec_module(package)
    assert package.NODE_CLASS_MAPPINGS.keys() == package.NODE_DISPLAY_NAME_MAPPINGS.keys()
    return package.NODE_CLASS_MAPPINGS


@pytest.fixture(scope="module")
def pipe() -> VersatileDiffusionPipeline:
    return build_tiny_pipeline()


def tensor(image: Image.Image) -> torch.Tensor:
    """An image in ComfyUI's layout."""
    return torch.from_numpy(np.asarray(image, np.float32) / 255)[None]


def test_the_interface(nodes: dict[str, Any]) -> None:
    """Types and defaults of all inputs, the arguments of the function, and outputs with names."""
    for name, node in nodes.items():
        inputs = node.INPUT_TYPES()
        assert set(inputs) <= {"required", "optional", "hidden"}, name
        taken = inspect.signature(getattr(node(), node.FUNCTION))
        every = {**inputs["required"], **inputs.get("optional", {})}
        taken.bind(**dict.fromkeys(every))
        taken.bind(**dict.fromkeys(inputs["required"]))
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(getattr(node, "OUTPUT_IS_LIST", (False,)))
        assert isinstance(node.CATEGORY, str)
        for field, (kind, *more) in every.items():
            if isinstance(kind, list):
                assert all(isinstance(choice, str) for choice in kind), field
            elif kind in PLAIN:
                (options,) = more
                assert type(options["default"]) is PLAIN[kind], f"{name}.{field}"
                if "min" in options:
                    assert options["min"] <= options["default"] <= options["max"], f"{name}.{field}"


def test_images_from_a_prompt_and_an_image(
    nodes: dict[str, Any], pipe: VersatileDiffusionPipeline, picture: Image.Image
) -> None:
    (conditions,) = nodes["VersatileTextCondition"]().run("a red apple", **{**ALWAYS, "weight": 0.4, "right": 0.5})
    mask = torch.zeros(1, 20, 24)
    mask[:, :, 12:] = 1
    image = nodes["VersatileImageCondition"]()
    (conditions,) = image.run(tensor(picture), 0.3, **{**ALWAYS, "weight": 0.6}, conditions=conditions, mask=mask)
    (images,) = nodes["VersatileSampleImages"]().run(pipe, conditions, **SAMPLING, scheduler="unipc")
    given = [
        Condition("text", "a red apple", weight=0.4, region=(0, 0, 0.5, 1)),
        Condition("image", picture, weight=0.6, focus=0.3, mask=mask[0].numpy()),
    ]
    options = {"seed": 3, "num_inference_steps": 2, "guidance_scale": 2.0, "num_outputs": 2, "scheduler": "unipc"}
    expected = pipe.generate("image", given, output_type="pt", **options).images
    assert images.shape == (2, 16, 16, 3)
    assert torch.equal(images, expected.movedim(1, -1))
    assert 0 <= images.min() < images.max() <= 1


def test_captions(nodes: dict[str, Any], pipe: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    (conditions,) = nodes["VersatileImageCondition"]().run(tensor(picture), 0.5, **ALWAYS)
    (texts,) = nodes["VersatileSampleTexts"]().run(pipe, conditions, **SAMPLING, scheduler="model default")
    options = {"seed": 3, "num_inference_steps": 2, "guidance_scale": 2.0, "num_outputs": 2}
    assert texts == pipe.image_to_text(picture, **options).texts


def test_content_and_style_apart(nodes: dict[str, Any], pipe: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    given = {"seed": 3, "steps": 2, "guidance_scale": 2.0}
    (images,) = nodes["VersatileDisentangle"]().run(pipe, tensor(picture), 3, **given)
    options = {"seed": 3, "num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "pt"}
    expected = [step.output.images for step in strip(pipe, picture, levels(count=3), **options)]
    assert torch.equal(images, torch.cat(expected).movedim(1, -1))
    other = picture.transpose(Image.Transpose.ROTATE_90)
    (images,) = nodes["VersatileDisentangle"]().run(pipe, tensor(picture), 3, **given, style=tensor(other))
    assert torch.equal(images, restyle(pipe, other, picture, **options).images.movedim(1, -1))


def test_loading(nodes: dict[str, Any], pipe: VersatileDiffusionPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "tiny")
    (loaded,) = nodes["LoadVersatile"]().run(str(tmp_path / "tiny"), "cpu")
    assert loaded.fingerprint() == pipe.fingerprint()
