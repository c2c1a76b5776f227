"""What a pipeline can do to need less memory or time, under the names of diffusers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch

from versatile_diffusion.modalities import MODALITIES


class CompileOptions(TypedDict, total=False):
    """Options of `torch.compile`."""

    fullgraph: bool
    dynamic: bool | None
    backend: str | Callable[..., Any]
    mode: str | None
    options: Mapping[str, Any] | None
    disable: bool


class MemoryMethods:
    """Slicing and tiling of the image codec, offload, and regional compilation of the diffuser."""

    if TYPE_CHECKING:
        bank: Any  # ModalityBank; its parts are of many kinds

    def enable_vae_slicing(self) -> None:
        """Decodes one image of a batch at a time: less memory, the same images up to rounding."""
        self._codecs("slicing", True)

    def disable_vae_slicing(self) -> None:
        """Decodes the images of a batch together, as is the default."""
        self._codecs("slicing", False)

    def enable_vae_tiling(self) -> None:
        """Encodes and decodes large images in overlapping tiles: less memory, and small differences where tiles meet.

        A codec without tiling (LiteVAE) stays as it is, and a warning says so.
        """
        self._codecs("tiling", True)

    def disable_vae_tiling(self) -> None:
        """Encodes and decodes images as a whole, as is the default."""
        self._codecs("tiling", False)

    def _codecs(self, way: str, on: bool) -> None:
        """Switches a way of saving memory in the codecs of grids."""
        codecs: Any = self.bank.codecs
        for name, codec in codecs.items():
            if MODALITIES[name].grid and not codec.save_memory(way, on) and on:
                warnings.warn(f"the {name} codec of this model ({type(codec).__name__}) has no {way}", stacklevel=3)

    def compile_repeated_blocks(self, **options: Unpack[CompileOptions]) -> None:
        """Compiles the diffuser's blocks one kind at a time, which takes much less time than compiling it as a whole;
        arguments are those of `torch.compile`. The first run compiles, and outputs stay the same up to rounding."""
        pipe: Any = self
        pipe.load_now()
        pipe.unet.compile_repeated_blocks(**options)

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """See diffusers. It needs all weights in memory, so those still in their files are read."""
        pipe: Any = self
        pipe.load_now()
        given = {} if device is None else {"device": device}
        super().enable_sequential_cpu_offload(gpu_id, **given)  # type: ignore[misc]
