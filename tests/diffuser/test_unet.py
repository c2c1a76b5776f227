"""The laws that the diffuser obeys at any size."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from tests.diffuser.conftest import randomised, tiny
from versatile_diffusion.diffuser.context import MixByLayer, mix_by_attention
from versatile_diffusion.diffuser.unet import MultiFlowUNet

STEPS = torch.tensor([3, 700])
BOTH = pytest.mark.parametrize("data", ["image", "text"])


@BOTH
@pytest.mark.parametrize("timestep", [500, 500.0, torch.tensor(500), torch.tensor([500, 500])])
def test_timestep_forms_agree(unet, latent, context, data, timestep):
    expected = unet(latent(data), torch.tensor([500.0, 500.0]), [context("text")], data=data)
    assert expected.shape == latent(data).shape
    assert torch.equal(unet(latent(data), timestep, [context("text")], data=data), expected)


@BOTH
def test_the_timestep_and_the_context_matter(unet, latent, context, data):
    base = unet(latent(data), STEPS, [context("text")], data=data)
    assert not torch.allclose(base, unet(latent(data), STEPS + 100, [context("text")], data=data))
    assert not torch.allclose(base, unet(latent(data), STEPS, [context("text", seed=9)], data=data))
    assert not torch.allclose(base, unet(latent(data), STEPS, [context("image")], data=data))


@BOTH
def test_items_of_a_batch_are_independent(unet, latent, context, data):
    x, c = latent(data, batch=3), context("image", batch=3)
    whole = unet(x, torch.tensor([1, 500, 999]), [c], data=data)
    for k, step in enumerate((1, 500, 999)):
        alone = unet(x[k : k + 1], step, [type(c)(c.stream, c.tokens[k : k + 1])], data=data)
        torch.testing.assert_close(alone, whole[k : k + 1], rtol=1e-4, atol=1e-5)


@BOTH
def test_only_the_active_groups_run(unet, latent, context, data):
    calls: Counter[str] = Counter()
    blocks = [(f"{kind}.{n}", b) for kind in ("data", "context") for n, s in getattr(unet, kind).items() for b in s]
    hooks = [b.register_forward_hook(lambda *_, name=name: calls.update([name])) for name, b in blocks]
    unet(latent(data), STEPS, [context("text")], data=data)
    for hook in hooks:
        hook.remove()
    assert calls == {f"data.{data}": len(unet.plan), "context.text": len(unet.context["text"])}


@BOTH
def test_projected_contexts_give_the_same_and_project_once(unet, latent, context, data):
    contexts = [context("text", 0.3), context("image", 0.7)]
    calls: Counter[str] = Counter()
    maps = [(n, m) for n, m in unet.context.named_modules() if "attn2.to_k" in n or "attn2.to_v" in n]
    hooks = [m.register_forward_hook(lambda *_, name=name: calls.update([name])) for name, m in maps]
    projected = unet.project(contexts)
    noises = [unet(latent(data), step, projected, data=data) for step in (900, 500, 100)]
    assert set(calls.values()) == {1}
    assert len(calls) == len(maps) == 2 * 2 * len(unet.context["text"])
    plain = [unet(latent(data), step, contexts, data=data) for step in (900, 500, 100)]
    assert set(calls.values()) == {1 + 3}
    for hook in hooks:
        hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(noises, plain, strict=True))


def test_a_fresh_model_predicts_zero(latent, context):
    fresh = tiny()
    for data in ("image", "text"):
        assert not fresh(latent(data), STEPS, [context("text")], data=data).any()
    for stream in fresh.context.values():
        for block in stream:
            h = torch.randn(1, block.norm.num_channels, 2, 2)
            assert torch.equal(block(h, torch.randn(1, 3, block.transformer_blocks[0].attn2.to_k.in_features)), h)


@BOTH
def test_gradient_checkpointing_gives_equal_gradients(latent, context, data):
    plain, saving = randomised(tiny()), randomised(tiny())
    saving.enable_gradient_checkpointing()
    contexts = [context("text", 0.4), context("image", 0.6)]
    counted: Counter[str] = Counter()
    saving.data[data][1].register_forward_pre_hook(lambda *_: counted.update("x"))
    for unet in (plain, saving):
        unet(latent(data), STEPS, contexts, data=data).square().mean().backward()
    assert counted["x"] == 2, "the block was not run again for the backward pass"
    pairs = list(zip(plain.parameters(), saving.parameters(), strict=True))
    assert any(p.grad is not None for p, _ in pairs)
    for p, q in pairs:
        assert (p.grad is None) == (q.grad is None)
        assert p.grad is None or torch.equal(p.grad, q.grad)


@BOTH
def test_round_trip_through_files(unet, latent, context, data, tmp_path):
    unet.save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    assert shards[0] == f"diffusion_pytorch_model-00001-of-{len(shards):05}.safetensors"
    assert (tmp_path / "diffusion_pytorch_model.safetensors.index.json").is_file()
    again = MultiFlowUNet.from_pretrained(tmp_path)
    assert again.plan == unet.plan
    arguments = (latent(data), STEPS, [context("image")])
    assert torch.equal(again(*arguments, data=data), unet(*arguments, data=data))


def test_mistakes_are_named(unet, latent, context):
    with pytest.raises(ValueError, match="no data stream 'audio'; this model generates image, text"):
        unet(latent("image"), 0, [context("text")], data="audio")
    with pytest.raises(ValueError, match="no context stream 'audio'; this model reads image, text"):
        unet(latent("image"), 0, [type(context("text"))("audio", torch.zeros(2, 3, 4))], data="image")
    with pytest.raises(ValueError, match="no context given"):
        unet(latent("image"), 0, [], data="image")
    with pytest.raises(ValueError, match="at least one of them above 0"):
        unet(latent("image"), 0, [context("text", 0.0), context("image", 0.0)], data="image")
    with pytest.raises(ValueError, match="2 latents for text tokens of 3 items"):
        unet(latent("image"), 0, [context("text", batch=3)], data="image")
    with pytest.raises(ValueError, match="height and width must be even"):
        unet(torch.zeros(1, 4, 7, 8), 0, [context("text", batch=1)], data="image")
    with pytest.raises(ValueError, match="'smell' has no data stream; available: image, text"):
        tiny(data_streams={"smell": {}})
    with pytest.raises(ValueError, match="has no context stream"):
        tiny(context_streams={"smell": {}})


def test_streams_are_optional(latent, context):
    basic = randomised(tiny(data_streams={"image": {}}, context_streams={"image": {"width": 12}}))
    assert basic(latent("image"), 5, [context("image")], data="image").shape == latent("image").shape
    assert {name.split(".")[1] for name, _ in basic.named_parameters() if name.startswith(("data", "context"))} == {
        "image"
    }


def test_torch_compile_traces_the_whole_graph(latent, context):
    text, image = context("text", 0.3), context("image", 0.7)
    for data, multipliers, project, mix in (
        ("text", [1], False, mix_by_attention),
        ("image", [1, 2], True, MixByLayer(choices=[1])),
    ):
        attends = [False] * len(multipliers)  # one context block, in the middle: tracing takes long
        unet = randomised(tiny(multipliers=multipliers, attends=attends)).eval().requires_grad_(False)
        contexts = unet.project([text, image]) if project else [text, image]
        arguments = (latent(data), torch.tensor([5, 900]), contexts)
        expected = unet(*arguments, data=data, mix=mix)
        compiled = torch.compile(unet, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*arguments, data=data, mix=mix), expected, rtol=1e-5, atol=1e-5)
    torch.compiler.reset()
