"""The diffuser: one network for all flows (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float
from torch import Tensor, nn

from versatile_diffusion.diffuser.context import Context, Mix, mix_by_attention
from versatile_diffusion.diffuser.deep import Deep
from versatile_diffusion.layers.on_use import LoadsOnUse
from versatile_diffusion.layers.plan import unet_plan
from versatile_diffusion.layers.timestep import TimestepEmbedding
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.printable import shown


class MultiFlowUNet(LoadsOnUse, ConfigMixin, PeftAdapterMixin, CacheMixin):
    """The diffuser. Global layers are shared; data and context layers have one stream per modality.

    Args:
        data_streams: modalities to generate: name to options of the data stream (the latent's size).
        context_streams: conditioning modalities: name to options of the context stream (`width` of its tokens).
        width: channels of the first level.
        multipliers: channels of each level in units of `width`.
        depth: residual blocks per level, one number or one per level.
        attends: whether each level has context blocks.
        heads: attention heads, the same at all levels.
        norm_groups: groups of the group norms.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ConvResidual", "FCResidual", "ContextBlock"]  # noqa: RUF012
    _repeated_blocks = ["ConvResidual", "FCResidual", "ContextBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["norm", "time_embed"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        data_streams: dict[str, dict[str, Any]],
        context_streams: dict[str, dict[str, Any]],
        width: int = 320,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        depth: int | Sequence[int] = 2,
        attends: Sequence[bool] = (True, True, True, False),
        heads: int = 8,
        norm_groups: int = 32,
    ):
        super().__init__()
        self.plan = unet_plan(width, multipliers, depth, attends)
        self.time_embed = TimestepEmbedding(width)
        build = partial(_build_streams, plan=self.plan, norm_groups=norm_groups)
        self.data = build("data_stream", data_streams, time_width=4 * width)
        self.context = build("context_stream", context_streams, heads=heads)
        self.gradient_checkpointing = False

    def forward(
        self,
        latent: Float[Tensor, "b ..."],
        timestep: Tensor | float,
        contexts: Sequence[Context],
        *,
        data: str,
        mix: Mix = mix_by_attention,
        deep: Deep | None = None,
    ) -> Float[Tensor, "b ..."]:
        """Predict the noise in a latent.

        Args:
            latent: noisy latents of modality `data`: image (B, C, H, W), text (B, D).
            timestep: 0..999, one for all or one per item (B,).
            contexts: the contexts, one or several; `project` precomputes their keys and values. With fewer items than
                latents, each item conditions as many adjacent latents.
            data: data stream to run.
            mix: how to mix several contexts: `mix_by_attention` or a `MixByLayer`.
            deep: keeps the output of the deep stages for later passes; None runs them in every pass.

        Raises:
            ValueError: an unknown stream, no context with weight above 0, or a number of latents that is no multiple of
                the number of items.
        """
        self._check(data, contexts)
        _check_shared_out(latent, contexts)
        timestep = torch.as_tensor(timestep, device=latent.device).expand(latent.shape[0])
        time = self.time_embed(timestep)
        skips: list[Tensor] = []
        run = partial(self._stages, time=time, skips=skips, contexts=contexts, data=data, mix=mix)
        if deep is None:
            return run(latent, slice(None))
        h = run(latent, slice(deep.first))
        return run(deep.of(partial(run, h, slice(deep.first, deep.last))), slice(deep.last, None))

    def _stages(
        self,
        h: Tensor,
        part: slice,
        time: Tensor,
        skips: list[Tensor],
        contexts: Sequence[Context],
        data: str,
        mix: Mix,
    ) -> Tensor:
        """A part of the plan, each stage with its context block; `skips` are those that are open."""
        for stage, block in list(zip(self.plan, self.data[data], strict=True))[part]:
            if stage.pops:
                h = torch.cat([h, skips.pop()], dim=1)
            h = self._run(block, h, time)
            if stage.attention is not None:
                blocks = [partial(self._run, self.context[c.stream][stage.attention]) for c in contexts]
                h = mix(blocks, h, contexts, stage.attention)
            if stage.pushes:
                skips.append(h)
        return h

    @apply_forward_hook
    def project(self, contexts: Sequence[Context]) -> list[Context]:
        """Return the contexts with keys and values for every context block. They do not depend on the timestep, so a
        sampling loop computes them once."""
        self._check(None, contexts)
        return [
            replace(c, key_values=tuple(block.project(c.tokens) for block in self.context[c.stream])) for c in contexts
        ]

    def _run(self, module: Callable[..., Tensor], *inputs: Any) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            output: Tensor = self._gradient_checkpointing_func(module, *inputs)
            return output
        return module(*inputs)

    def _check(self, data: str | None, contexts: Sequence[Context]) -> None:
        if data is not None and data not in self.data:
            raise ValueError(f"no data stream {shown(data)}; this model generates {', '.join(self.data)}")
        if not contexts:
            raise ValueError("no context given; for unconditional predictions, pass the task's null context")
        for context in contexts:
            if context.stream not in self.context:
                raise ValueError(
                    f"no context stream {shown(context.stream)}; this model reads {', '.join(self.context)}"
                )


def _check_shared_out(latent: Tensor, contexts: Sequence[Context]) -> None:
    for context in contexts:
        latents, items = latent.shape[0], context.tokens.shape[0]
        if latents % items:
            raise ValueError(
                f"{latents} latents for {context.stream} tokens of {items} items; the number of latents "
                "must be a multiple of the number of items"
            )


def _build_streams(kind: str, streams: Mapping[str, Mapping[str, Any]], **shared: Any) -> Any:
    """Build a ModuleDict of ModuleLists (typed Any, since a ModuleDict is not generic)."""
    built = {}
    for name, options in streams.items():
        maker = getattr(MODALITIES[name], kind) if name in MODALITIES else None
        if maker is None:
            able = [known for known, record in MODALITIES.items() if getattr(record, kind) is not None]
            raise ValueError(f"{shown(name)} has no {kind.replace('_', ' ')}; available: {', '.join(able)}")
        built[name] = maker(**{**shared, **options})
    return nn.ModuleDict(built)
