"""Context layers: self-attention, cross-attention to the context tokens, gated feed-forward.

Attribute names follow diffusers, so that its adapters, quantisers and caches work.
"""

from __future__ import annotations

from typing import cast

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from versatile_diffusion.layers.autocast import attend
from versatile_diffusion.layers.init import zero_init
from versatile_diffusion.layers.plan import Stage
from versatile_diffusion.layers.wide import WideGroupNorm

Grid = Float[Tensor, "b c h w"]
Queries = Float[Tensor, "b n c"]
Tokens = Float[Tensor, "items l d"]
Heads = Float[Tensor, "items heads l per_head"]
KeyValue = tuple[Heads, Heads]


class Attention(nn.Module):
    """Multi-head attention; queries of `width` channels, keys and values from `source` channels."""

    def __init__(self, width: int, source: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"{width} channels cannot be split among {heads} attention heads")
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(source, width, bias=False)
        self.to_v = nn.Linear(source, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def split(self, x: Tokens) -> Heads:
        return rearrange(x, "b l (heads d) -> b heads l d", heads=self.heads)

    def project(self, tokens: Tokens) -> KeyValue:
        """Return keys and values of the tokens; they depend on nothing else, so a run can compute them once."""
        return self.split(self.to_k(tokens)), self.split(self.to_v(tokens))

    def forward(self, x: Queries, key_value: KeyValue) -> Queries:
        """Attend. `x` has batch B or B * n for keys and values of B items; the n queries of an item are adjacent."""
        together = rearrange(self.to_q(x), "(b n) l c -> b (n l) c", b=len(key_value[0]))
        out = attend(self.split(together), *key_value)
        changed: Tensor = self.to_out[0](rearrange(out, "b heads (n l) d -> (b n) l (heads d)", l=x.shape[1]))
        return changed


class GEGLU(nn.Module):
    """Linear layer gated by the exact (erf) GELU of its second half."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Queries) -> Float[Tensor, "b n inner"]:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width, and back."""

    def __init__(self, width: int):
        super().__init__()
        # The placeholder keeps the last layer's index as in published checkpoints and adapters.
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Queries) -> Queries:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each with LayerNorm and residual connection."""

    def __init__(self, width: int, source: int, heads: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn1 = Attention(width, width, heads)
        self.attn2 = Attention(width, source, heads)
        self.ff = FeedForward(width)

    def forward(self, x: Queries, key_value: KeyValue) -> Queries:
        normed = self.norm1(x)
        x = x + self.attn1(normed, self.attn1.project(normed))
        x = x + self.attn2(self.norm2(x), key_value)
        return x + self.ff(self.norm3(x))


class ContextBlock(nn.Module):
    """Context layer (paper section 3.2). Initialised to the identity."""

    def __init__(self, wide: int, source: int, heads: int, norm_groups: int):
        super().__init__()
        self.norm = WideGroupNorm(norm_groups, wide, eps=1e-6)
        self.proj_in = nn.Linear(wide, wide)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(wide, source, heads)])
        self.proj_out = zero_init(nn.Linear(wide, wide))

    def project(self, tokens: Tokens) -> KeyValue:
        """Return keys and values of the context tokens in this block."""
        return cast(TransformerBlock, self.transformer_blocks[0]).attn2.project(tokens)

    def forward(self, x: Grid, tokens: Tokens, key_value: KeyValue | None = None) -> Grid:
        """Condition x on the tokens; `key_value` is the cached result of `project(tokens)`, if available."""
        h = self.proj_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        h = self.transformer_blocks[0](h, self.project(tokens) if key_value is None else key_value)
        return x + rearrange(self.proj_out(h), "b (h w) c -> b c h w", h=x.shape[2])


def context_layers(plan: tuple[Stage, ...], *, width: int, heads: int, norm_groups: int) -> nn.ModuleList:
    """Build a context stream: one block per attention of the plan, for tokens of width `width`."""
    return nn.ModuleList(
        ContextBlock(stage.wide_out, width, heads, norm_groups) for stage in plan if stage.attention is not None
    )
