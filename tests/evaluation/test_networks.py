"""Networks from files and folders, and their hashes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from versatile_diffusion.evaluation.networks import fitted, load_encoders, load_networks

CPU = torch.device("cpu")


class Scripted(nn.Module):
    """As FID's Inception: pictures in 0..255 to features or logits."""

    def forward(self, pictures: Tensor, return_features: bool = False) -> Tensor:
        means = pictures.float().mean(dim=(2, 3))
        return means if return_features else means * 0


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 30},
        vision_config=small | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    return folder


def test_features_come_from_files_and_folders(protocol, subject, judge_folder, clip_folder, tmp_path, picture) -> None:
    script = tmp_path / "inception.pt"
    torch.jit.script(Scripted()).save(str(script))
    subject.encoders["image"].save_pretrained(tmp_path / "dual")
    places = ("judge", "encoders", str(script), str(clip_folder), str(tmp_path / "dual"))
    found = load_networks(replace(protocol, features=places), subject.encoders, CPU)
    pictures = fitted([picture, picture.rotate(90)], 32)
    widths = [network(pictures).shape[1] for network in found.features]
    assert widths == [16, 160, 3, 8, 160]
    named = {network.name: network(pictures) for network in found.features}
    mean = np.asarray(pictures[0], dtype=float).mean((0, 1))
    assert named["inception"][0] == pytest.approx(mean, rel=1e-4)
    assert np.allclose(named["encoders"], named["dual"], atol=1e-6)
    assert set(found.hashes) == {"judge", "encoders", "inception", clip_folder.name, "dual"}
    assert len(set(found.hashes.values())) == 5


def test_the_towers_of_a_clip_are_its_own(clip_folder, picture) -> None:
    encoders = load_encoders(str(clip_folder), CPU)
    pixels = encoders["image"].preprocess([picture])
    with torch.no_grad():
        wanted = CLIPModel.from_pretrained(clip_folder).get_image_features(pixel_values=pixels)
    wanted = getattr(wanted, "pooler_output", wanted)
    assert torch.allclose(encoders["image"].compare([picture]), nn.functional.normalize(wanted, dim=-1), atol=1e-5)


def test_what_is_no_network_is_refused(protocol, subject, tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no judge of pictures"):
        load_networks(replace(protocol, judge=str(tmp_path)), subject.encoders, CPU)
    with pytest.raises(ValueError, match="is no feature network"):
        load_networks(replace(protocol, features=(str(tmp_path),)), subject.encoders, CPU)
    with pytest.raises(ValueError, match="judge network with hash other"):
        load_networks(replace(protocol, hashes={"judge": "other"}), subject.encoders, CPU)


def test_without_a_judge_there_are_no_features_of_it(protocol, subject) -> None:
    found = load_networks(replace(protocol, judge=""), subject.encoders, CPU)
    assert found.judge is None
    assert [network.name for network in found.features] == ["encoders"]
    assert load_networks(replace(protocol, judge=""), {}, CPU).features == ()
