"""LoRA adapters of a pipeline, under the names of diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Unpack

from versatile_diffusion.diffuser.adapters import (
    active_loras,
    check_adapters,
    load_lora,
    require_peft,
    save_lora,
    use_loras,
)
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.numeric import number, sequence
from versatile_diffusion.pipeline.models import HubOptions, fetch_model
from versatile_diffusion.shipped import HUB_ID

MOST_WEIGHT = 100


class AdapterMethods:
    """Loading, weighting and merging of adapters. `versatile_diffusion.training.diffuser.lora` trains them."""

    unet: MultiFlowUNet

    def load_lora_weights(
        self,
        source: str | PathLike[str],
        adapter_name: str | None = None,
        *,
        weight_name: str | None = None,
        **options: Unpack[HubOptions],
    ) -> None:
        """Adds an adapter, which acts at once and alone; `set_adapters` combines several.

        Args:
            source: a `.safetensors` file, a folder that holds one, or a hub id.
            adapter_name: `default_0`, `default_1`, ... if omitted.
            weight_name: file name in the folder, where it is not `pytorch_lora_weights.safetensors`.
            options: of the hub, such as `revision` and `token`, for a hub id.

        Raises:
            ValueError: there is no such file, it belongs to another model, the name is taken, or peft is not installed.
        """
        place = str(source)
        if not Path(place).exists():
            if not HUB_ID.fullmatch(place):
                raise ValueError(f"{place}: no such file; an adapter is a .safetensors file, a folder or a hub id")
            place = fetch_model(place, dict(options))
        self.unet.load_now()  # an adapter wraps weights that are there
        load_lora(self.unet, place, adapter_name or self._free_name(), weight_name)

    def _free_name(self) -> str:
        taken = getattr(self.unet, "peft_config", {})
        return next(name for k in range(len(taken) + 1) if (name := f"default_{k}") not in taken)

    def save_lora_weights(self, folder: str | PathLike[str], adapter_name: str | None = None) -> None:
        """Writes an adapter (the one that acts if omitted) as `pytorch_lora_weights.safetensors` into a folder.

        Raises:
            ValueError: there is no such adapter, or several act and none is named.
        """
        acting = self.get_active_adapters()
        if adapter_name is None and len(acting) != 1:
            raise ValueError(f"give adapter_name; adapters that act: {', '.join(acting) or 'none'}")
        name = adapter_name or acting[0]
        save_lora(self.unet, folder, name)

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None
    ) -> None:
        """Lets these adapters act together and the others rest.

        Args:
            adapter_names: one or several.
            adapter_weights: one for all or one each; 1 if omitted.

        Raises:
            ValueError: there is no adapter of a name, or not one weight for each.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        given = sequence(adapter_weights)
        weights = [1.0 if adapter_weights is None else adapter_weights] * len(names) if given is None else given
        if len(weights) != len(names):
            raise ValueError(f"{len(weights)} adapter_weights for {len(names)} adapters; give one for all, or one each")
        check_adapters(self.unet, names)
        checked = [number("adapter_weights", weight, -MOST_WEIGHT, MOST_WEIGHT) for weight in weights]
        use_loras(self.unet, dict(zip(names, checked, strict=True)))

    def get_active_adapters(self) -> list[str]:
        """Names of the adapters that act."""
        return list(active_loras(self.unet))

    def get_list_adapters(self) -> dict[str, list[str]]:
        """Names of all adapters, by component."""
        names = list(getattr(self.unet, "peft_config", {}))
        return {"unet": names} if names else {}

    def disable_lora(self) -> None:
        """Lets all adapters rest; `enable_lora` lets them act again."""
        self._require_adapters()
        self.unet.disable_lora()

    def enable_lora(self) -> None:
        """Lets adapters act again after `disable_lora`."""
        self._require_adapters()
        self.unet.enable_lora()

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Removes adapters."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        check_adapters(self.unet, names)
        self.unet.delete_adapters(names)
        if not getattr(self.unet, "peft_config", {}):
            self.unload_lora_weights()

    def fuse_lora(
        self, *, lora_scale: float = 1.0, safe_fusing: bool = False, adapter_names: Sequence[str] | None = None
    ) -> None:
        """Adds adapters (those that act if omitted) to the weights, times `lora_scale`. Sampling is then as fast as
        without them; `unfuse_lora` undoes it.

        Raises:
            ValueError: there is no such adapter; with `safe_fusing`, or a result that is not finite.
        """
        self._require_adapters()
        check_adapters(self.unet, adapter_names or ())
        scale = number("lora_scale", lora_scale, -MOST_WEIGHT, MOST_WEIGHT)
        self.unet.fuse_lora(
            lora_scale=scale, safe_fusing=safe_fusing, adapter_names=list(adapter_names) if adapter_names else None
        )

    def unfuse_lora(self) -> None:
        """Undoes `fuse_lora`, up to rounding."""
        self._require_adapters()
        self.unet.unfuse_lora()

    def unload_lora_weights(self) -> None:
        """Removes all adapters; what was fused stays in the weights."""
        if find_spec("peft") is not None:
            self.unet.unload_lora()

    def _require_adapters(self) -> None:
        require_peft()
        if not getattr(self.unet, "peft_config", {}):
            raise ValueError("this pipeline has no adapter; add one with load_lora_weights")
