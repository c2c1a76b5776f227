"""The diffuser against the original's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.parity.conftest import read_json, relative
from versatile_diffusion.diffuser.context import Context, MixByLayer
from versatile_diffusion.diffuser.groups import parameter_counts, parameter_groups
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.names.keymap import to_official, to_ours
from versatile_diffusion.interop.official import FULL_SIZE, diffuser_config
from versatile_diffusion.layers.timestep import sinusoid
from versatile_diffusion.sampling.schedulers import SCHEDULERS

SINGLE_CALL = 2e-5
FLOWS = [(data, context) for data in ("image", "text") for context in ("image", "text")]
OUR_GROUP = {
    "diffuser_image_global": "global",
    "diffuser_global": "global",
    "diffuser_image_data": "data.image",
    "diffuser_text_data": "data.text",
    "diffuser_image_context": "context.image",
    "diffuser_text_context": "context.text",
}


def stream_of(context: str) -> str:
    """The reference numbers contexts of one stream: image0, image1, ..."""
    return context.rstrip("0123456789")


@pytest.fixture(scope="module")
def flows(reference: Path) -> dict[str, torch.Tensor]:
    return load_file(reference / "diffuser" / "flows.safetensors")


@pytest.mark.parametrize(("data", "context"), FLOWS)
@torch.no_grad()
def test_four_flows(diffuser, needs, flows, data, context):
    needs(data, context)
    noise = diffuser(flows[f"x_{data}"], flows["t"], [Context(context, flows[f"c_{context}"])], data=data)
    assert relative(noise, flows[f"eps.{data}_from_{context}"]) < SINGLE_CALL


@torch.no_grad()
def test_timestep_embedding(diffuser, flows):
    assert relative(sinusoid(flows["t"], diffuser.time_embed.width), flows["timestep_embedding"]) < 1e-5
    assert relative(diffuser.time_embed(flows["t"]), flows["time_embed_out"]) < 1e-5


@pytest.mark.parametrize(("data", "context"), FLOWS)
@torch.no_grad()
def test_blocks_run_in_the_original_order(diffuser, needs, flows, reference, data, context):
    needs(data, context)
    ran = []
    for kind, streams in (("data", diffuser.data), ("context", diffuser.context)):
        for stream, blocks in streams.items():
            for index, block in enumerate(blocks):
                name = f"diffuser.{stream}.{kind}_blocks.{index}"
                block.register_forward_hook(lambda _m, _i, out, name=name: ran.append((name, out)))
    try:
        diffuser(flows[f"x_{data}"], flows["t"], [Context(context, flows[f"c_{context}"])], data=data)
    finally:
        for module in diffuser.modules():
            module._forward_hooks.clear()
    expected = read_json(reference / "diffuser" / "flows_blocks.json")[f"{data}_from_{context}"]
    assert [name for name, _ in ran] == [block["block"] for block in expected]
    for (_, out), block in zip(ran, expected, strict=True):
        assert list(out.shape) == block["shape"]
        first = torch.tensor(block["first"])
        assert (out.flatten()[: len(first)] - first).abs().max() < SINGLE_CALL * block["absmax"]


@torch.no_grad()
def test_attention_mixing(diffuser, needs, reference, subtests):
    tensors = load_file(reference / "diffuser" / "mix_attention.safetensors")
    for case in read_json(reference / "diffuser" / "mix_attention.json"):
        for data in ("image", "text"):
            with subtests.test(case=case["case"], data=data):
                needs(data, *map(stream_of, case["contexts"]))
                contexts = contexts_of(case, tensors)
                noise = diffuser(tensors[f"x_{data}"], tensors["t"], contexts, data=data)
                assert relative(noise, tensors[f"eps.{data}.{case['case']}"]) < SINGLE_CALL


@torch.no_grad()
def test_layer_mixing_replayed(diffuser, needs, reference, subtests):
    tensors = load_file(reference / "diffuser" / "mix_layer.safetensors")
    for case in read_json(reference / "diffuser" / "mix_layer.json"):
        with subtests.test(case=case["case"], data=case["data"]):
            needs(case["data"], *map(stream_of, case["contexts"]))
            contexts, mix = contexts_of(case, tensors), MixByLayer(choices=case["choices"])
            noise = diffuser(tensors[f"x_{case['data']}"], tensors["t"], contexts, data=case["data"], mix=mix)
            assert relative(noise, tensors[f"eps.{case['data']}.{case['case']}"]) < SINGLE_CALL


def contexts_of(case: dict, tensors: dict[str, torch.Tensor]) -> list[Context]:
    return [
        Context(stream_of(name), tensors[f"c.{name}"], weight)
        for name, weight in zip(case["contexts"], case["ratios"], strict=True)
    ]


def test_training_losses_and_gradients(diffuser, needs, reference, subtests):
    tensors = load_file(reference / "diffuser" / "training.safetensors")
    for row in read_json(reference / "diffuser" / "training.json")["flows"]:
        name = row["flow"]
        data, context = name.split("_from_")
        with subtests.test(flow=name):
            needs(data, context)
            diffuser.zero_grad()
            predicted = diffuser(
                tensors[f"{name}.x_noisy"],
                tensors[f"{name}.t"],
                [Context(context, tensors[f"c_{context}"])],
                data=data,
            )
            errors = (predicted - tensors[f"{name}.noise"]).square().flatten(1).mean(1)
            loss = errors.mean()
            loss.backward()
            assert relative(predicted.detach(), tensors[f"{name}.eps"]) < SINGLE_CALL
            assert relative(errors.detach(), tensors[f"{name}.loss_per_sample"]) < SINGLE_CALL
            assert loss.item() == pytest.approx(row["loss"], rel=1e-5)
            norms = gradient_norms(diffuser)
            for group, norm in row["grad_norm"].items():
                assert norms.get(OUR_GROUP[group], 0.0) == pytest.approx(norm, rel=1e-4)
    diffuser.zero_grad()


def test_training_inputs(reference):
    """What is noised for training, by the scheduler that our training uses."""
    tensors = load_file(reference / "diffuser" / "training.safetensors")
    flows = [row["flow"] for row in read_json(reference / "diffuser" / "training.json")["flows"]]
    assert flows
    for flow in flows:
        x0, noise, t = (tensors[f"{flow}.{part}"] for part in ("x0", "noise", "t"))
        assert relative(SCHEDULERS["ddim"]().add_noise(x0, noise, t), tensors[f"{flow}.x_noisy"]) < 1e-5


def gradient_norms(unet: MultiFlowUNet) -> dict[str, float]:
    grads = {g: [p.grad for _, p in members] for g, members in parameter_groups(unet).items()}
    return {g: sum(x.double().square().sum().item() for x in of if x is not None) ** 0.5 for g, of in grads.items()}


def test_joint_training_gradients(diffuser, needs, reference):
    tensors = load_file(reference / "diffuser" / "training.safetensors")
    joint = read_json(reference / "diffuser" / "training.json")["joint"]
    for name in joint["flows"]:
        needs(*name.split("_from_"))
    diffuser.zero_grad()
    total = 0.0
    for name in joint["flows"]:
        data, context = name.split("_from_")
        tokens = [Context(context, tensors[f"c_{context}"])]
        predicted = diffuser(tensors[f"{name}.x_noisy"], tensors[f"{name}.t"], tokens, data=data)
        loss = (predicted - tensors[f"{name}.noise"]).square().mean()
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(joint["total"], rel=1e-5)
    ours = {name: p.grad for name, p in diffuser.named_parameters()}
    theirs = {n.removeprefix("joint.grad."): g for n, g in tensors.items() if n.startswith("joint.grad.")}
    assert theirs
    largest = max(gradient.abs().max() for gradient in theirs.values())
    for name, gradient in to_ours(theirs).items():
        # Some gradients are zero but for rounding (a group norm of one channel a group hides the time from the first
        # picture level): float32 rounding of the largest gradient is the least that can be asked of them.
        allowed = max(1e-4 * gradient.abs().max(), 1e-7 * largest)
        assert (ours[name] - gradient).abs().max() < allowed, name
    norms = gradient_norms(diffuser)
    for group, norm in joint["grad_norm"].items():
        assert norms[OUR_GROUP[group]] == pytest.approx(norm, rel=1e-4)
    assert sum(norm**2 for norm in norms.values()) ** 0.5 == pytest.approx(joint["grad_norm_all"], rel=1e-4)
    sizes = to_ours({name: torch.tensor(norm) for name, norm in joint["grad_norm_per_parameter"].items()})
    assert sizes.keys() == ours.keys()
    for name, norm in sizes.items():
        assert ours[name].norm().item() == pytest.approx(norm.item(), rel=1e-4, abs=1e-7 * joint["grad_norm_all"]), name
    diffuser.zero_grad()


def test_full_size_names_shapes_and_counts(reference):
    manifest = read_json(reference / "manifest-official.json")
    shapes = {name: tuple(shape) for name, shape in manifest["keys"].items() if name.startswith("diffuser.")}
    with torch.device("meta"):
        unet = MultiFlowUNet(**diffuser_config(FULL_SIZE))
    ours = unet.state_dict()
    assert {name: tuple(t.shape) for name, t in to_official(ours).items()} == shapes
    back = to_ours({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in ours.items()}
    counts = parameter_counts(unet)
    for theirs, group in OUR_GROUP.items():
        if theirs in manifest["parameter_counts"]:
            assert counts[group] == manifest["parameter_counts"][theirs]
    assert sum(counts.values()) == manifest["parameter_counts"]["diffuser_total"] == 2_566_318_852


def test_full_size_order_of_layers(reference):
    order = read_json(reference / "manifest-official.json")["layer_order"]
    with torch.device("meta"):
        plan = MultiFlowUNet(**diffuser_config(FULL_SIZE | {"model_channels": 32, "num_heads": 1})).plan
    words = []
    for stage in plan:
        words += ["load_hidden_feature"] * stage.pops + ["d"] + ["c"] * (stage.attention is not None)
        words += ["save_hidden_feature"] * stage.pushes
    assert words == order["input"] + order["middle"] + order["output"]
    assert [stage.attention for stage in plan if stage.attention is not None] == list(range(16))
