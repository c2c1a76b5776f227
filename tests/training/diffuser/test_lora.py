"""Adapters on groups and streams: trained, saved, loaded, merged, several at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_unet

pytest.importorskip("peft")

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.diffuser.groups import parameter_groups
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.training.diffuser.lora import (
    LoraSettings,
    add_lora,
    layers_of,
    load_lora,
    merge_loras,
    save_lora,
    use_loras,
)


def diffuser() -> MultiFlowUNet:
    unet = tiny_unet(latent=24, context=12)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return unet.eval()


def output(unet: MultiFlowUNet, context: str = "text") -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latent, tokens = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 12, generator=generator)
    return unet(latent, torch.tensor([10, 900]), [Context(context, tokens)], data="image")


@torch.enable_grad()
def trained(settings: LoraSettings, seed: int = 0) -> MultiFlowUNet:
    """A diffuser whose adapter has learned something."""
    unet = diffuser()
    torch.manual_seed(seed)
    add_lora(unet, settings)
    optimizer = torch.optim.Adam([p for p in unet.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        (output(unet) - torch.randn(2, 4, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return unet


def test_a_fresh_adapter_changes_nothing_and_trains_alone() -> None:
    unet = diffuser()
    before = output(unet)
    add_lora(unet, LoraSettings(("context.text", "global"), rank=2))
    assert torch.equal(output(unet), before)
    names = [name for name, p in unet.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name and name.startswith(("context.text", "time_embed")) for name in names)
    assert sum(len(members) for members in parameter_groups(unet).values()) == len(list(unet.parameters()))


def test_training_moves_the_chosen_streams_alone() -> None:
    unet = trained(LoraSettings(("context.text",)))
    assert not torch.allclose(output(unet), output(diffuser()), atol=1e-3)
    assert torch.equal(output(unet, "image"), output(diffuser(), "image"))
    weights = dict(diffuser().named_parameters())
    kept = {name.replace(".base_layer", ""): p for name, p in unet.named_parameters() if "lora_" not in name}
    assert kept.keys() == weights.keys()
    assert all(torch.equal(p, weights[name]) for name, p in kept.items())


@torch.no_grad()
def test_save_load_merge(tmp_path: Path) -> None:
    unet = trained(LoraSettings(("context.text", "data.image"), rank=4, alpha=8))
    expected = output(unet)
    assert save_lora(unet, tmp_path).stat().st_size > 0
    fresh = diffuser()
    load_lora(fresh, tmp_path)
    assert torch.allclose(output(fresh), expected, atol=1e-6)
    assert not torch.allclose(output(diffuser()), expected, atol=1e-3)
    merged = merge_loras(fresh)
    assert merged.state_dict().keys() == diffuser().state_dict().keys()
    assert torch.allclose(output(merged), expected, atol=1e-5)


@pytest.mark.parametrize(
    "target", ["global", "data", "context", *(f"{g}.{m}" for g in ("data", "context") for m in ("image", "text"))]
)
@torch.no_grad()
def test_every_target_is_saved_in_any_memory_format(tmp_path: Path, target: str) -> None:
    unet = diffuser()
    add_lora(unet, LoraSettings((target,), rank=3))
    unet.to(memory_format=torch.channels_last)  # as in training
    adapter = [p for name, p in unet.named_parameters() if ".lora_" in name]
    for p in adapter:
        p.copy_(torch.randn(p.shape))
    strides = [p.stride() for p in adapter]
    save_lora(unet, tmp_path)
    assert [p.stride() for p in adapter] == strides
    fresh = diffuser()
    load_lora(fresh, tmp_path)
    ours, theirs = ({n: p for n, p in u.named_parameters() if ".lora_" in n} for u in (unet, fresh))
    assert ours
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(p, theirs[name]) for name, p in ours.items())


@torch.no_grad()
def test_several_at_once(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        save_lora(trained(LoraSettings(("context.text",), name=name), seed), tmp_path / name, name)
    unet = diffuser()
    plain = output(unet)
    for name in ("one", "two"):
        load_lora(unet, tmp_path / name, name)
    alone = {}
    for name in ("one", "two"):
        use_loras(unet, {name: 1.0})
        alone[name] = output(unet)
    use_loras(unet, {"one": 1.0, "two": 0.5})
    both = output(unet)
    assert len({t.sum().item() for t in (plain, both, *alone.values())}) == 4
    use_loras(unet, {"one": 0.0, "two": 0.0})
    assert torch.allclose(output(unet), plain, atol=1e-6)
    use_loras(unet, {"one": 1.0, "two": 0.5})
    assert torch.allclose(output(merge_loras(unet)), both, atol=1e-5)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    unet = diffuser()
    with pytest.raises(ValueError, match=r"allowed: global, data, context"):
        layers_of(unet, ("data.audio",))
    with pytest.raises(ValueError, match="rank of 1 or more"):
        LoraSettings(rank=0)
    with pytest.raises(ValueError, match="there are: none"):
        save_lora(unet, tmp_path)
    with pytest.raises(ValueError, match="holds no adapter"):
        load_lora(unet, tmp_path)
    add_lora(unet, LoraSettings())
    with pytest.raises(ValueError, match="'default' already"):
        add_lora(unet, LoraSettings())
    with pytest.raises(ValueError, match="no adapter other; there are: default"):
        use_loras(unet, {"other": 1.0})
