"""Networks from files and folders, and their hashes."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from versatile_diffusion import shipped
from versatile_diffusion.evaluation.networks import fit_images, load_encoders, load_networks, short_name
from versatile_diffusion.pipeline import models

CPU = torch.device("cpu")


class Scripted(nn.Module):
    """As FID's Inception: pictures in 0..255 to features or logits."""

    def forward(self, pictures: Tensor, return_features: bool = False) -> Tensor:
        means = pictures.float().mean(dim=(2, 3))
        return means if return_features else means * 0


def test_features_come_from_files_and_folders(protocol, subject, judge_folder, clip_folder, tmp_path, picture) -> None:
    script = tmp_path / "inception.pt"
    torch.jit.script(Scripted()).save(str(script))
    subject.encoders["image"].save_pretrained(tmp_path / "dual")
    places = ("judge", "encoders", str(script), str(clip_folder), str(tmp_path / "dual"))
    with pytest.raises(ValueError, match=r"inception\.pt is a TorchScript program.*--trust-features"):
        load_networks(replace(protocol, features=places), subject.encoders, CPU)
    found = load_networks(replace(protocol, features=places), subject.encoders, CPU, trust_features=True)
    pictures = fit_images([picture, picture.rotate(90)], 32)
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


@torch.no_grad()
def test_the_agreement_of_a_clip_is_its_score(clip_folder, picture) -> None:
    encoders, clip = load_encoders(str(clip_folder), CPU), CLIPModel.from_pretrained(clip_folder)
    texts = ["a red apple", "a house with far too many letters"]
    found = encoders["text"].compare(texts) @ encoders["image"].compare([picture]).T
    options = {"truncation": True, "max_length": 16, "padding": True, "return_tensors": "pt"}
    read = CLIPTokenizer.from_pretrained(str(clip_folder))(texts, **options)
    theirs = clip(**read, pixel_values=encoders["image"].preprocess([picture]))
    assert torch.allclose(found, theirs.logits_per_text / clip.logit_scale.exp(), atol=1e-5)


def test_features_are_of_a_model_by_name_or_from_the_hub(protocol, subject, clip_folder, tmp_path, monkeypatch) -> None:
    subject.pipe.bank.save_pretrained(tmp_path / "bank")
    for module in (models, shipped):
        monkeypatch.setattr(module, "shipped_models", lambda: {"mine": tmp_path})
    monkeypatch.setattr(models, "snapshot_download", lambda name: str(clip_folder))
    found = load_networks(replace(protocol, features=("mine", "owner/some-clip")), {}, CPU)
    assert [network.name for network in found.features] == ["mine", "some-clip"]
    assert set(found.hashes) == {"judge", "mine", "some-clip"}


def test_networks_of_one_name_are_told_apart(protocol, subject, judge_folder, clip_folder, tmp_path) -> None:
    shutil.copytree(judge_folder, tmp_path / "one" / "export")
    shutil.copytree(clip_folder, tmp_path / "two" / "export")
    subject.encoders["image"].save_pretrained(tmp_path / "judge")
    one, two, three = (str(tmp_path / name) for name in ("one/export", "two/export", "judge"))
    found = load_networks(replace(protocol, features=("judge", one, two, two, three)), {}, CPU)
    names = [network.name for network in found.features]
    assert names[:3] == ["judge", "one", "two"]
    assert names[3] == f"judge-{found.hashes[names[3]][:6]}"
    assert found.hashes["judge"] == found.hashes["one"] != found.hashes["two"]


def test_names_do_not_depend_on_the_order(protocol, judge_folder, clip_folder, tmp_path) -> None:
    shutil.copytree(judge_folder, tmp_path / "one" / "x")
    shutil.copytree(clip_folder, tmp_path / "two" / "x")
    places = (str(tmp_path / "one" / "x"), str(tmp_path / "two" / "x"))
    found, turned = (
        load_networks(replace(protocol, features=given), {}, CPU).hashes for given in (places, places[::-1])
    )
    assert found == turned
    assert set(found) == {"judge", *(f"x-{weights[:6]}" for weights in found.values())}


def test_a_network_is_measured_once(protocol, clip_folder, tmp_path) -> None:
    (tmp_path / "other").symlink_to(clip_folder)
    for again in (f"{clip_folder}/.", str(tmp_path / "other")):
        with pytest.raises(ValueError, match=r"are the same feature network, with hash .*; list it once"):
            load_networks(replace(protocol, features=(str(clip_folder), again)), {}, CPU)


def test_a_network_behind_a_link_is_called_as_the_link_is(tmp_path, monkeypatch) -> None:
    """Files in the cache of the hub are links to blobs, which are named by their hashes."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0a1b2c").write_bytes(b"")
    (tmp_path / "inception.pt").symlink_to(tmp_path / "blobs" / "0a1b2c")
    (tmp_path / "clip").symlink_to(tmp_path / "blobs")
    assert short_name(str(tmp_path / "inception.pt")) == "inception"
    assert short_name(str(tmp_path / "clip")) == "clip"
    monkeypatch.chdir(tmp_path / "blobs")
    assert short_name("..") == tmp_path.name


def test_what_is_no_network_is_refused(protocol, subject, tmp_path) -> None:
    with pytest.raises(ValueError, match="contains no judge"):
        load_networks(replace(protocol, judge=str(tmp_path)), subject.encoders, CPU)
    with pytest.raises(ValueError, match="is not a feature network"):
        load_networks(replace(protocol, features=(str(tmp_path),)), subject.encoders, CPU)
    with pytest.raises(ValueError, match=r"weights/inception.pt: no such file"):
        load_networks(replace(protocol, features=("weights/inception.pt",)), subject.encoders, CPU)
    with pytest.raises(ValueError, match="unknown model 'inception'"):
        load_networks(replace(protocol, features=("inception",)), subject.encoders, CPU)
    with pytest.raises(ValueError, match="judge network with hash other"):
        load_networks(replace(protocol, hashes={"judge": "other"}), subject.encoders, CPU)


def test_without_a_judge_there_are_no_features_of_it(protocol, subject) -> None:
    found = load_networks(replace(protocol, judge=""), subject.encoders, CPU)
    assert found.judge is None
    assert [network.name for network in found.features] == ["encoders"]
    assert load_networks(replace(protocol, judge=""), {}, CPU).features == ()


def test_a_damaged_network_is_one_sentence(protocol, judge_folder, clip_folder, tmp_path) -> None:
    (script := tmp_path / "a.pt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"a\.pt cannot be read as a TorchScript program"):
        load_networks(replace(protocol, features=(str(script),)), {}, CPU, trust_features=True)
    for folder, name in ((judge_folder, "judge"), (clip_folder, "clip")):
        config = shutil.copytree(folder, tmp_path / name) / "config.json"
        config.write_text(config.read_text()[:40])
        with pytest.raises(ValueError, match=r"config\.json is damaged"):
            load_networks(replace(protocol, features=(str(tmp_path / name),)), {}, CPU)
