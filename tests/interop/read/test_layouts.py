"""Every published layout is recognised, and loads to the same weights."""

from __future__ import annotations

import json

import pytest
import tiny_layouts
import torch
from safetensors.torch import load_file, save_file
from tiny_official import CONFIG

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.cli import main
from versatile_diffusion.interop.names.keymap import to_official
from versatile_diffusion.interop.names.unet import BASIC_2022, DUAL_CONTEXT_2022, FOUR_FLOW_2022, STABLE_DIFFUSION
from versatile_diffusion.interop.read.found import PARTS
from versatile_diffusion.interop.read.layouts import CHECKPOINTS, recognise
from versatile_diffusion.interop.read.official_files import load_official
from versatile_diffusion.interop.verify import verify

BIG = "vd-four-flow-v1-0.pth"
ALL = ("data.image", "data.text", "context.image", "context.text")


@pytest.fixture(scope="module")
def clip(files):
    return load_file(files / "clip-vit-large-patch14" / "model.safetensors")


def same(unet, official) -> bool:
    """Whether a network has exactly these weights."""
    held = to_official(unet.load_now().state_dict())
    return held.keys() == official.keys() and all(torch.equal(held[name], official[name]) for name in official)


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


def test_the_file_set_of_2023(files, states):
    for path in (files, files / BIG):
        found = recognise(path, config=CONFIG)
        assert (found.layout, found.streams, found.needed) == ("official-2023", ALL, PARTS)
        assert (
            "names of 2023 (official-2023): streams data image, data text, context image, context text; diffuser ("
            in str(found)
        )
    assert same(load_official(found, config=CONFIG)["unet"], states["diffuser"])


def test_the_file_set_of_2022(files, states, clip, tmp_path):
    """Everything in one file, as it was published first."""
    whole = tiny_layouts.original_state(states["diffuser"], FOUR_FLOW_2022) | {"betas": torch.zeros(3)}
    whole |= prefixed(states["image-codec"], "autokl.") | prefixed(states["text-codec"], "optimus.")
    whole |= prefixed({name: value + 1 for name, value in clip.items()}, "clip.model.")
    torch.save(whole, tmp_path / "vd-four-flow-v1-0-deprecated.pth")
    tiny_layouts.link(files, tmp_path, BIG, "kl-f8.pth", "optimus-vae.pth")
    found = recognise(tmp_path, config=CONFIG)
    assert (found.layout, found.streams, found.aside) == ("official-2022", ALL, ("betas",))
    loaded = load_official(tmp_path, config=CONFIG)
    assert same(loaded["unet"], states["diffuser"])
    bank = loaded["bank"]
    assert torch.equal(bank.codecs["image"].load_now().vae.quant_conv.bias, states["image-codec"]["quant_conv.bias"])
    for encoder, name in (("text", "text_projection.weight"), ("image", "visual_projection.weight")):
        assert torch.equal(bank.encoders[encoder].load_now().model.state_dict()[name], clip[name] + 1)


@pytest.mark.parametrize(
    ("unets", "layout", "held", "tasks"),
    [
        (DUAL_CONTEXT_2022, "dual-context-2022", ("data.image", "context.image", "context.text"), 3),
        (BASIC_2022, "basic-2022", ("data.image", "context.image"), 1),
    ],
)
def test_models_of_fewer_flows(files, states, clip, tmp_path, unets, layout, held, tasks):
    """VD-DC and VD-basic, with the names of 2022 (their own) and of 2023."""
    expected = tiny_layouts.streams(states["diffuser"], *unets)
    tiny_layouts.link(files, tmp_path, BIG, "optimus-vae.pth")
    old = tiny_layouts.original_state(states["diffuser"], unets)
    vision = {name: value for name, value in clip.items() if layout != "basic-2022" or name.startswith("vis")}
    for state, name in ((old | prefixed(vision, "cond_stage_model.model."), layout), (expected, "official-2023")):
        torch.save({"state_dict": state}, tmp_path / "vd.pth")
        found = recognise(tmp_path, config=CONFIG)
        assert (found.layout, found.streams) == (name, held)
        pipe = VersatileDiffusionPipeline.from_pretrained(tmp_path, config=CONFIG)
        assert same(pipe.unet, expected)
        assert len(pipe.tasks()) == tasks
        (tmp_path / "vd.pth").unlink()


def test_basic_without_its_clip_must_be_told(files, states, tmp_path):
    torch.save(tiny_layouts.original_state(states["diffuser"], BASIC_2022), tmp_path / "vd-basic.pth")
    assert recognise(tmp_path, config=CONFIG).layout == "stable-diffusion"
    assert recognise(tmp_path, "basic-2022", CONFIG).streams == ("data.image", "context.image")
    with pytest.raises(ValueError, match=r"it is VD basic.*say so: layout basic-2022"):
        load_official(tmp_path, config=CONFIG)


@pytest.mark.parametrize("old", [True, False])
def test_the_hub_repository(files, states, tmp_path, old):
    folder = tiny_layouts.write_diffusers(files, tmp_path / "hub", old)
    found = recognise(folder)
    assert (found.layout, found.streams) == ("diffusers", ALL)
    assert found.needed == tuple(part for part in PARTS if part != "text-codec")
    pipe = VersatileDiffusionPipeline.from_official(folder)
    assert same(pipe.unet, states["diffuser"])
    assert [task.name for task in pipe.tasks()] == ["text-to-image", "image-variation", "dual-guided"]
    pipe.set_progress_bar_config(disable=True)
    whole = VersatileDiffusionPipeline.from_official(files, config=CONFIG)
    whole.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 1, "seed": 0}
    latents = [p.text_to_image("a cat", **options).latents for p in (pipe, whole)]
    torch.testing.assert_close(*latents, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="cannot generate 'text'"):
        pipe.text_variation("a cat", **options)


def test_optimus_beside_the_hub_repository(files, states, tmp_path):
    folder = tiny_layouts.write_diffusers(files, tmp_path / "hub")
    tiny_layouts.link(files, folder, BIG, "kl-f8.pth", "clip-vit-large-patch14")
    codec = load_official(folder, config={"text-codec": CONFIG["text-codec"]})["bank"].codecs["text"]
    assert torch.equal(codec.load_now().encoder.to_moments.weight, states["text-codec"]["encoder.linear.weight"])


def test_optimus_without_its_vocabularies_is_left_aside(files, tmp_path):
    """As the hub repository has it: the files of 2023 in a folder of their own, without what came with the code."""
    folder = tiny_layouts.write_diffusers(files, tmp_path / "hub")
    (folder / "pretrained_pth").mkdir()
    (folder / "pretrained_pth" / "optimus-vae.pth").symlink_to(files / "optimus-vae.pth")
    pipe = VersatileDiffusionPipeline.from_official(folder)
    assert [task.name for task in pipe.tasks()] == ["text-to-image", "image-variation", "dual-guided"]
    report = verify(folder, numbers=False)
    assert report.ok
    (finding,) = [finding for part in report.parts for finding in part.findings]
    assert str(finding).startswith("(unusual) lacks bert-base-cased-vocab.txt or ")
    (folder / "pretrained_pth" / "gpt2-merges.txt").symlink_to(files / "gpt2-merges.txt")
    with pytest.raises(ValueError, match=r"lacks: bert-base-cased-vocab\.txt .*; gpt2-vocab\.json or "):
        load_official(folder, parts=["text-codec"])


def test_half_a_hub_repository(files, states, tmp_path):
    folder = tiny_layouts.write_diffusers(files, tmp_path / "hub")
    (folder / "text_unet").rename(tmp_path / "elsewhere")
    assert recognise(folder).streams == ("data.image", "context.image")
    (folder / "image_unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="image_unet contains no weights"):
        recognise(folder)
    (folder / "image_unet" / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        recognise(folder)


def test_our_own_layout(tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path)
    found = recognise(tmp_path)
    assert (found.layout, set(found.streams)) == ("ours", set(ALL))
    assert VersatileDiffusionPipeline.from_official(tmp_path).tasks() == tiny_pipeline.tasks()


def test_files_that_are_no_model(files, states, tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        recognise(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"unknown layout 'x'; known: official-2023, "):
        recognise(files, "x")
    with pytest.raises(
        ValueError, match=r"no checkpoint of a diffuser \(vd-.*\); it contains nothing\. Supported: .*names of 2022"
    ):
        recognise(tmp_path)
    save_file({"lora.up.weight": torch.zeros(1)}, tmp_path / "style.safetensors")
    with pytest.raises(ValueError, match=r"style\.safetensors contains: lora\.up\. Supported: .*image_unet"):
        recognise(tmp_path)
    torch.save(states["diffuser"], tmp_path / "mine.pt")
    with pytest.raises(ValueError, match=r"several checkpoints \(mine\.pt, style\.safetensors\); give one"):
        recognise(tmp_path)
    assert recognise(tmp_path / "mine.pt").layout == "official-2023"


def test_names_that_do_not_fit_the_size_are_named(states, tmp_path):
    torch.save(tiny_layouts.original_state(states["diffuser"], FOUR_FLOW_2022), tmp_path / "vd.pth")
    wider = {"diffuser": {**CONFIG["diffuser"], "channel_mult": [1], "num_res_blocks": [1], "with_attn": [True]}}
    with pytest.raises(
        ValueError, match=r"model\.diffusion_model\.unet_image\.input_blocks\.2.* is not a known checkpoint name"
    ):
        recognise(tmp_path, config=wider)


def test_signs_tell_layouts_apart(states):
    """A layout's own names are never taken for another's."""
    import re

    tables = (None, FOUR_FLOW_2022, DUAL_CONTEXT_2022, None, STABLE_DIFFUSION)
    for row, unets in zip(CHECKPOINTS, tables, strict=True):
        if row.name == "basic-2022":
            continue
        names = tiny_layouts.original_state(states["diffuser"], unets) if unets else states["diffuser"]
        signed = [other.name for other in CHECKPOINTS if any(re.match(other.sign, name) for name in names)]
        assert signed[0] == row.name


def test_full_size_names_both_ways(reference, manifest):
    """All 1,368 names of the diffuser in the layouts of 2022 and of diffusers, and back."""
    from versatile_diffusion.interop.names.autokl import autokl_rules
    from versatile_diffusion.interop.names.unet import DIFFUSERS, diffusers_rules, original_rules
    from versatile_diffusion.interop.official import FULL_SIZE, diffuser_plan

    for file in ("keymap-2022-to-2023.json", "keymap-diffusers-to-2023.json", "manifest-diffusers.json"):
        if not (reference / file).is_file():
            pytest.skip(f"{file} is only in the whole reference set")
    plan = diffuser_plan(FULL_SIZE)
    names = {name for name in manifest["keys"] if name.startswith("diffuser.")}
    of_2022 = json.loads((reference / "keymap-2022-to-2023.json").read_text())["map"]
    hub = json.loads((reference / "keymap-diffusers-to-2023.json").read_text())
    shapes = json.loads((reference / "manifest-diffusers.json").read_text())["components"]
    kl = tuple(rule for rule in autokl_rules(4))
    tables = [(of_2022, original_rules(plan, FOUR_FLOW_2022))]
    tables += [(hub[name], diffusers_rules(plan, row)) for name, row in DIFFUSERS.items()]
    for table, rules in tables:
        for theirs, here in table.items():
            assert [ours for rule in rules if (ours := rule.to_ours(theirs))] == [here]
            assert [back for rule in rules if (back := rule.to_official(here))] == [theirs]
    assert set(of_2022.values()) == set(hub["image_unet"].values()) | set(hub["text_unet"].values()) == names
    for theirs, here in hub["vae"].items():
        assert [back for rule in kl if (back := rule.to_official(theirs))] == [here.removeprefix("vae.image.")]
        assert [ours for rule in kl if (ours := rule.to_ours(here.removeprefix("vae.image.")))] == [theirs]
    for component, table in hub.items():
        if component in shapes:
            assert set(table) == set(shapes[component])
            squeezed = hub["squeeze"].get(component, [])
            for theirs, here in table.items():
                ones = [1, 1] if theirs in squeezed else []
                assert shapes[component][theirs] + ones == shape_of(manifest["keys"][here])


def shape_of(entry):
    return entry["shape"] if isinstance(entry, dict) else entry


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda d: {"state_dict": prefixed(d, "model.")}, "with prefix model."),
        (lambda d: prefixed(d, "trainer.module.net._orig_mod."), "with prefix trainer.net."),
        (lambda d: {**prefixed(d, "net."), **prefixed(d, "ema_net.")}, "with prefix ema_net., ignoring"),
        (lambda d: {**d, **prefixed(d, "ema.")}, "with prefix ema., ignoring"),
        (lambda d: {"model": {"n_averaged": torch.tensor(3), **prefixed(d, "module.")}}, "removed module. from"),
    ],
)
def test_what_trainers_put_around_a_checkpoint(files, states, tmp_path, capsys, wrap, note):
    tiny_layouts.link(files, tmp_path, BIG)
    (tmp_path / "vd-config.json").write_text(json.dumps(CONFIG))
    torch.save(wrap(states["diffuser"]), tmp_path / "vd-x.ckpt")
    assert same(load_official(tmp_path)["unet"], states["diffuser"])
    assert main(["verify", str(tmp_path), "--headers"]) == 0
    assert note in capsys.readouterr().out
    assert note in "; ".join(verify(tmp_path, numbers=False).record()["unwrapped"])
