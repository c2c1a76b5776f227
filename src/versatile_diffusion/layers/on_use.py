"""Weights that come when they are needed: a network on the meta device whose layers are filled as they first run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from os import PathLike
from typing import Any, Self

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

Weights = Mapping[str, Tensor]


class LoadsOnUse(ModelMixin):
    """A network that can leave its weights in their files until a layer runs for the first time.

    Until then a layer's weights are placeholders on the meta device, which know the dtype that they will have. So what
    no task needs is never read: other streams, the other half of a codec. Moving the network to a device or a dtype
    works at any time; what is read later goes there at once.
    """

    _unread: Weights | None = None
    _home = torch.device("cpu")

    def load_on_use(self, weights: Weights, dtype: torch.dtype | None = None) -> Self:
        """Leaves all weights that are on the meta device in `weights` until their layer runs.

        Args:
            weights: by the names of `state_dict`; tensors mapped from files, so that having them costs nothing.
                Ones at the end of a shape do not count: a linear map may be stored as a 1x1 convolution.
            dtype: that they shall have.

        Raises:
            ValueError: some are missing, unknown, or of another shape.
        """
        expected = self.state_dict()
        if wrong := [f"{name} {what}" for name, what in mismatches(expected, weights)]:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ValueError(f"the weights do not fit the configuration: {'; '.join(wrong[:5])}{more}")
        at_once = {name: weights[name] for name, tensor in expected.items() if not tensor.is_meta and name in weights}
        self.load_state_dict(at_once, strict=False)
        nn.Module.to(self, dtype)  # not ModelMixin's, which warns of layers that there are not
        self._unread = weights
        for name, layer in self.named_modules():
            if any(_placeholders(layer)):
                handles: list[Any] = []
                handles.append(layer.register_forward_pre_hook(partial(self._fill_once, name, handles)))
        return self

    @property
    def unread(self) -> dict[str, Callable[[], Tensor]]:
        """What is still in the files, by the names of `state_dict`, and how to see it: mapped, in the shape and dtype
        of the file."""
        if (weights := self._unread) is None:
            return {}
        waiting = (_join(name, own) for name, layer in self.named_modules() for own, _ in _placeholders(layer))
        return {name: partial(weights.__getitem__, name) for name in waiting}

    @torch.no_grad()
    def load_now(self) -> Self:
        """Reads all that is left, which saving, training and sharding need."""
        for name, layer in self.named_modules():
            self._fill(name, layer)
        self._unread = None
        return self

    @classmethod
    def from_pretrained(cls, folder: Any, *, on_use: Callable[[Any], Weights] | None = None, **options: Any) -> Any:
        """Reads what `save_pretrained` wrote; see diffusers.

        Args:
            folder: where it is.
            on_use: opens the folder's weights, which then stay there until they are used; of the options only `dtype`
                has a meaning then.
            options: of diffusers' method.
        """
        if on_use is None:
            return super().from_pretrained(folder, **options)
        return cls.without_weights(folder).load_on_use(on_use(folder), options.get("dtype")).eval()

    @classmethod
    def without_weights(cls, folder: Any) -> Any:
        """What `from_pretrained` would give, on the meta device but for its buffers."""
        with init_empty_weights(include_buffers=False):
            return cls.from_config(cls.load_config(folder))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
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
        """Writes it, read as a whole; see diffusers, whose pipelines pass on what they find in this signature."""
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
        """What `.to` and its kin do to every tensor: placeholders remember it."""

        if self._unread is None:
            return super()._apply(fn, recurse)
        before, self._home = self._home, fn(torch.empty(0, device=self._home)).device

        def also_placeholders(tensor: Tensor) -> Tensor:
            if not tensor.is_meta:
                return fn(tensor)
            return tensor.to(fn(torch.empty(0, dtype=tensor.dtype, device=before)).dtype)

        return super()._apply(also_placeholders, recurse)


def mismatches(expected: Weights, weights: Weights) -> Iterator[tuple[str, str]]:
    """Names, and what is wrong with them: those missing (placeholders must be there), unknown, or of another shape."""
    for name, tensor in expected.items():
        if name not in weights:
            if tensor.is_meta:
                yield name, "is missing"
        elif plain_shape(shape := weights[name].shape) != plain_shape(tensor.shape):
            yield name, f"is {tuple(shape)}, not {tuple(tensor.shape)}"
    yield from ((name, "is unknown") for name in weights if name not in expected)


def plain_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones at its end."""
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def unread(module: nn.Module) -> dict[str, Callable[[], Tensor]]:
    """What a network and its parts have still in their files, by the names of `module.state_dict()`."""
    parts = [(name, part) for name, part in module.named_modules() if isinstance(part, LoadsOnUse)]
    return {_join(name, own): see for name, part in parts for own, see in part.unread.items()}


def _placeholders(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The layer's own tensors that have no numbers yet."""
    for own in (layer.named_parameters, layer.named_buffers):
        yield from ((name, tensor) for name, tensor in own(recurse=False) if tensor.is_meta)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
