"""Single layers against their definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from versatile_diffusion.layers.attention import Attention, ContextBlock, FeedForward
from versatile_diffusion.layers.conv import ConvDown, ConvResidual, ConvUp
from versatile_diffusion.layers.fc import FCResample, FCResidual, FCStem
from versatile_diffusion.layers.timestep import TimestepEmbedding, sinusoid

TIME = torch.randn(2, 32)


def test_sinusoid_has_cosines_first():
    values = sinusoid(torch.tensor([0, 7]), 8)
    assert values.shape == (2, 8)
    assert torch.equal(values[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    assert values[1, 0].item() == pytest.approx(math.cos(7))
    assert values[1, 5].item() == pytest.approx(math.sin(7 * 10_000 ** (-1 / 4)))


def test_time_embedding_follows_the_dtype_of_its_weights():
    assert TimestepEmbedding(8).to(torch.bfloat16)(torch.tensor([1, 999])).dtype == torch.bfloat16


def test_attention_against_the_formula():
    attention = Attention(8, 6, heads=2)
    x, tokens = torch.randn(2, 5, 8), torch.randn(2, 3, 6)
    q, k, v = attention.to_q(x), attention.to_k(tokens), attention.to_v(tokens)
    parts = []
    for head in (slice(0, 4), slice(4, 8)):
        share = (q[..., head] @ k[..., head].mT / math.sqrt(4)).softmax(-1)
        parts.append(share @ v[..., head])
    expected = attention.to_out[0](torch.cat(parts, -1))
    torch.testing.assert_close(attention(x, attention.project(tokens)), expected)


def test_keys_and_values_of_one_item_answer_several_next_to_each_other():
    attention = Attention(8, 6, heads=2)
    x, tokens = torch.randn(6, 5, 8), torch.randn(2, 3, 6)
    apart = attention(x, attention.project(tokens.repeat_interleave(3, 0)))
    torch.testing.assert_close(attention(x, attention.project(tokens)), apart)


def test_feed_forward_gates_with_the_exact_gelu():
    feed = FeedForward(4)
    x = torch.randn(1, 2, 4)
    value, gate = feed.net[0].proj(x).chunk(2, -1)
    expected = feed.net[2](value * gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2))))
    torch.testing.assert_close(feed(x), expected)


@pytest.mark.parametrize("shape", [(2, 8, 4, 6), (2, 8, 4, 1)])
def test_residual_layers_start_as_the_identity(shape):
    x = torch.randn(shape)
    block = ContextBlock(8, 6, heads=2, norm_groups=4)
    assert torch.equal(block(x, torch.randn(2, 3, 6)), x)
    layer = FCResidual(8, 8, 4, 32, 4) if shape[3] == 1 else ConvResidual(8, 8, 32, 4)
    assert torch.equal(layer(x, TIME), x)


def test_context_blocks_do_not_care_about_the_order_of_tokens():
    block = ContextBlock(8, 6, heads=2, norm_groups=4)
    torch.nn.init.normal_(block.proj_out.weight)
    x, tokens = torch.randn(2, 8, 2, 3), torch.randn(2, 5, 6)
    torch.testing.assert_close(block(x, tokens), block(x, tokens.flip(1)))


def test_grid_sizes():
    x = torch.randn(2, 8, 4, 6)
    assert ConvDown(8)(x, TIME).shape == (2, 8, 2, 3)
    assert ConvUp(8)(x, TIME).shape == (2, 8, 8, 12)


def test_fc_stem_has_channels_before_positions():
    stem = FCStem(3, 5, positions=4)
    x = torch.randn(2, 3)
    expected = F.linear(x, stem.project.weight, stem.project.bias).reshape(2, 5, 4, 1)
    assert torch.equal(stem(x, TIME), expected)


def test_a_fresh_text_stream_keeps_the_size_it_begins_with():
    x = torch.randn(64, 26)
    h = FCStem(26, 48, positions=4, gain=30.0)(x, TIME)
    assert 27 < h.std() < 33
    time = torch.randn(64, 8)
    wider = FCResidual(48, 96, positions=4, time_width=8, norm_groups=4)(h, time)
    assert 25 < wider.std() < 35
    assert 25 < FCResample(96, positions=4)(wider, time).std() < 35
