"""Lazy loading: a network on the meta device whose layers load their weights on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from versatile_diffusion.reading import check_shards, reading

Weights = Mapping[str, Tensor]
_WRONG = {"missing": "missing_keys", "unknown": "unexpected_keys"}
"""Mismatch of a weight, by diffusers' name for it."""


class LoadsOnUse(ModelMixin):
    """Network that can keep weights on disk until a layer runs for the first time.

    Until then a layer's weights are placeholders on the meta device, with their final dtype. Parts that no task needs
    are
    never read: other streams, or the unused half of a codec. The network can be moved to a device or dtype at any time;
    weights loaded later go there directly.
    """

    _unread: Weights | None = None
    _home = torch.device("cpu")

    def load_on_use(self, weights: Weights, dtype: torch.dtype | None = None) -> Self:
        """Load all meta-device weights lazily from `weights`, when their layer first runs.

        Args:
            weights: tensors by `state_dict` name, memory-mapped. Trailing dimensions of size 1 are ignored: a linear
                layer may be stored as a 1x1 convolution.
            dtype: dtype to load in.

        Raises:
            ValueError: missing or unknown weights, or wrong shapes.
        """
        expected = self.state_dict()
        if wrong := [f"{name} {what}" for name, what in mismatches(expected, weights)]:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ValueError(f"the weights do not fit the configuration: {'; '.join(wrong[:5])}{more}")
        at_once = {name: weights[name] for name, tensor in expected.items() if not tensor.is_meta and name in weights}
        self.load_state_dict(at_once, strict=False)
        nn.Module.to(self, dtype)  # not ModelMixin.to, which warns about missing layers
        self._unread = weights
        for name, layer in self.named_modules():
            if any(_placeholders(layer)):
                handles: list[Any] = []
                handles.append(layer.register_forward_pre_hook(partial(self._fill_once, name, handles)))
        return self

    @property
    def unread(self) -> dict[str, Callable[[], Tensor]]:
        """Return the weights not loaded yet by `state_dict` name, as functions that return the mapped tensor in its
        stored shape and dtype."""
        if (weights := self._unread) is None:
            return {}
        waiting = (_join(name, own) for name, layer in self.named_modules() for own, _ in _placeholders(layer))
        return {name: partial(weights.__getitem__, name) for name in waiting}

    @torch.no_grad()
    def load_now(self) -> Self:
        """Load all remaining weights; required for saving, training and sharding."""
        for name, layer in self.named_modules():
            self._fill(name, layer)
        self._unread = None
        return self

    @classmethod
    def from_pretrained(cls, folder: Any, *, on_use: Callable[[Any], Weights] | None = None, **options: Any) -> Self:
        """Load a network written by `save_pretrained`; see diffusers.

        Args:
            folder: its folder.
            on_use: opens the folder's weights for lazy loading; then only the option `dtype` applies.
            options: options of diffusers' method.

        Raises:
            ValueError: missing or damaged files, or weights that do not match the configuration.
        """
        with reading(folder, f"a {cls.__name__}"):
            path = Path(folder, options.get("subfolder") or "")
            if on_use is not None:
                network = cls.without_weights(folder).load_on_use(on_use(folder), options.get("dtype")).eval()
            else:
                check_shards(path)
                network, found = super().from_pretrained(folder, output_loading_info=True, **options)
                if wrong := [f"{name} is {what}" for what, key in _WRONG.items() for name in sorted(found[key])]:
                    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
                    raise ValueError(f"the weights do not fit the configuration: {'; '.join(wrong[:5])}{more}")
            network.read_beside(path)
        return network

    def read_beside(self, folder: Path) -> None:
        """Load what `save_pretrained` of the subclass wrote besides configuration and weights, e.g. a tokenizer."""

    @classmethod
    def without_weights(cls, folder: Any) -> Any:
        """Build the network as `from_pretrained` does, but on the meta device except for buffers."""
        with init_empty_weights(include_buffers=False):
            return cls.from_config(cls.load_config(folder))

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return super().device if self._unread is None else self._home

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        *args: Any,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        **options: Any,
    ) -> None:
        """Save the network after loading all weights; see diffusers, whose pipelines inspect this signature."""
        self.load_now()
        named = {"safe_serialization": safe_serialization, "variant": variant, "max_shard_size": max_shard_size}
        super().save_pretrained(save_directory, *args, **named, **options)

    def _fill_once(self, name: str, handles: list[Any], layer: nn.Module, _inputs: Any) -> None:
        self._fill(name, layer)
        while handles:
            handles.pop().remove()

    def _fill(self, name: str, layer: nn.Module) -> None:
        for own, placeholder in list(_placeholders(layer)):
            assert self._unread is not None
            value = self._unread[_join(name, own)].to(self._home, placeholder.dtype)
            layer.load_state_dict({own: value.reshape(placeholder.shape)}, strict=False, assign=True)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Apply `.to` and similar to all tensors; placeholders remember it."""

        if self._unread is None:
            return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]  # torch's own, untyped
        before, self._home = self._home, fn(torch.empty(0, device=self._home)).device

        def also_placeholders(tensor: Tensor) -> Tensor:
            if not tensor.is_meta:
                return fn(tensor)
            return tensor.to(fn(torch.empty(0, dtype=tensor.dtype, device=before)).dtype)

        return super()._apply(also_placeholders, recurse)  # type: ignore[no-any-return, no-untyped-call]


def mismatches(expected: Weights, weights: Weights) -> Iterator[tuple[str, str]]:
    """Yield names and problems of weights: missing (placeholders are required), unknown, or of another shape."""
    for name, tensor in expected.items():
        if name not in weights:
            if tensor.is_meta:
                yield name, "is missing"
        elif plain_shape(shape := weights[name].shape) != plain_shape(tensor.shape):
            yield name, f"is {tuple(shape)}, not {tuple(tensor.shape)}"
    yield from ((name, "is unknown") for name in weights if name not in expected)


def plain_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without trailing ones."""
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def unread(module: nn.Module) -> dict[str, Callable[[], Tensor]]:
    """Return the weights not loaded yet of a network and its parts, by the names of `module.state_dict()`."""
    parts = [(name, part) for name, part in module.named_modules() if isinstance(part, LoadsOnUse)]
    return {_join(name, own): see for name, part in parts for own, see in part.unread.items()}


def _placeholders(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the layer's own tensors that are not loaded yet."""
    for own in (layer.named_parameters, layer.named_buffers):
        yield from ((name, tensor) for name, tensor in own(recurse=False) if tensor.is_meta)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
