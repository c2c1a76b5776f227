"""Distilled forms of a model: a few steps without guidance, by an adapter beside its weights or by the weights
themselves. `training/diffuser/distill.py` makes them, `fast` uses them."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from safetensors import safe_open
from torch import Tensor, nn

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.flow import Flow
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import read_json, reading
from versatile_diffusion.sampling.fast import FAST
from versatile_diffusion.tasks import task_of

FOLDER, INDEX, ADAPTER = "distilled", "form.json", "pytorch_lora_weights.safetensors"
"""In a model's folder: `distilled/NAME/form.json`, and beside it the adapter, if there is one."""


@dataclass(frozen=True)
class DistilledForm:
    """A distilled form of a model.

    Args:
        name: of the preset that uses it, see `sampling.fast.FAST`.
        defaults: default arguments of `generate` by task; it can do no other tasks.
        timestep_spacing: of the scheduler; None leaves it as it is.
        adapter: file of low-rank matrices that are added to the weights; None where the weights are distilled.
        scale: of what the adapter adds.
    """

    name: str
    defaults: Mapping[str, Mapping[str, Any]]
    timestep_spacing: str | None = None
    adapter: Path | None = None
    scale: float = 1.0

    @classmethod
    def read(cls, folder: Path) -> DistilledForm:
        """From its folder; ValueError where it is damaged."""
        told = read_json(folder / INDEX)
        defaults, scale = told.get("defaults"), told.get("scale", 1.0)
        spacing = told.get("timestep_spacing")
        fits = type(scale) in (int, float) and spacing in (None, "leading", "trailing", "linspace")
        if not isinstance(defaults, dict) or not all(isinstance(t, dict) for t in defaults.values()) or not fits:
            raise ValueError(f"{folder / INDEX} is damaged: it needs defaults by task, a scale and a timestep_spacing")
        adapter = folder / ADAPTER if (folder / ADAPTER).is_file() else None
        if told.get("adapter") and adapter is None:
            raise ValueError(f"{folder} lacks its adapter ({ADAPTER})")
        return cls(folder.name, defaults, spacing, adapter, scale)

    def save(self, folder: Path) -> None:
        """Into a folder of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        told = {
            "defaults": {name: dict(table) for name, table in self.defaults.items()},
            "timestep_spacing": self.timestep_spacing,
            "adapter": self.adapter is not None,
            "scale": self.scale,
        }
        (folder / INDEX).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        if self.adapter is not None and self.adapter.absolute() != (folder / ADAPTER).absolute():
            shutil.copyfile(self.adapter, folder / ADAPTER)

    def spaced(self, scheduler: Any) -> Any:
        """A scheduler of the same kind with this form's timesteps."""
        if self.timestep_spacing is None:
            return scheduler
        return type(scheduler).from_config(scheduler.config, timestep_spacing=self.timestep_spacing)

    def usual(self, flow: Flow) -> Mapping[str, Any]:
        """Default arguments for a flow; with several contexts, what those share that it has for each alone.

        Raises:
            ValueError: it was not distilled for the flow.
        """
        task = task_of(flow)
        if task is not None and task.name in self.defaults:
            return self.defaults[task.name]
        alone = [task_of(Flow(flow.data, (context,))) for context in flow.contexts]
        tables = [self.defaults.get(task.name) if task else None for task in alone]
        if not tables or any(table is None for table in tables):
            raise ValueError(f"fast {shown(self.name)} of this model was distilled for {', '.join(self.defaults)} only")
        return {k: v for k, v in (tables[0] or {}).items() if all(table and table.get(k) == v for table in tables)}

    def digest(self) -> str | None:
        """A short hash of the adapter."""
        return None if self.adapter is None else hashlib.sha256(self.adapter.read_bytes()).hexdigest()[:16]


def forms_in(folder: str | PathLike[str]) -> dict[str, DistilledForm]:
    """The forms in a model's folder, by name; no weights are read."""
    indexes = sorted(Path(folder, FOLDER).glob(f"*/{INDEX}"))
    return {index.parent.name: DistilledForm.read(index.parent) for index in indexes if index.parent.name in FAST}


@torch.no_grad()
def with_adapter(unet: MultiFlowUNet, file: Path, scale: float = 1.0) -> MultiFlowUNet:
    """A copy of a diffuser with an adapter in its weights. Layers that the adapter leaves alone share their weights
    with the original, so that only the others take memory.

    Raises:
        ValueError: the adapter is of another model, or damaged.
    """
    with reading(file, "an adapter"), safe_open(file, framework="pt") as tensors:
        matrices = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    layers = sorted({name.partition(".lora_")[0] for name in matrices})
    known = dict(unet.named_modules())
    if strange := [layer for layer in layers if not isinstance(known.get(layer), nn.Linear | nn.Conv2d)]:
        raise ValueError(f"the adapter {file} belongs to another model: it has a layer {shown(strange[0])}")
    own = {id(known[layer].weight) for layer in layers}
    shared = {id(t): t for t in (*unet.parameters(), *unet.buffers()) if id(t) not in own}
    changed = copy.deepcopy(unet, shared)
    for layer in layers:
        weight = changed.get_submodule(layer).weight
        assert isinstance(weight, Tensor)
        down, up = (matrices.get(f"{layer}.lora_{side}.weight") for side in "AB")
        if down is None or up is None or (len(up), down[0].numel()) != (len(weight), weight[0].numel()):
            raise ValueError(f"the adapter {file} belongs to another model: {layer} has other shapes")
        product = up.float().flatten(1) @ down.float().flatten(1)
        weight += (scale * product).view(weight.shape).to(weight)
    return changed


class UploadOptions(TypedDict, total=False):
    """Options of `save_pretrained` with `push_to_hub`, see diffusers."""

    repo_id: str
    private: bool | None
    token: str | bool | None
    commit_message: str | None
    create_pr: bool


class DistilledMethods:
    """The distilled forms of a pipeline."""

    unet: MultiFlowUNet
    _forms: dict[str, DistilledForm]
    _distilled: tuple[Any, MultiFlowUNet] | None

    def add_form(self, form: DistilledForm | str | PathLike[str]) -> None:
        """Adds a distilled form, in place of an earlier one of its name; `fast=NAME` uses it.

        Args:
            form: the form, or its folder (`distilled/NAME` in what `versatile train --distill` exports).

        Raises:
            ValueError: it is damaged, or no preset has its name.
        """
        found = form if isinstance(form, DistilledForm) else DistilledForm.read(Path(form))
        if found.name not in FAST or not FAST[found.name].distilled:
            allowed = ", ".join(name for name, fast in FAST.items() if fast.distilled)
            raise ValueError(f"{shown(found.name)} is no name of a distilled form; allowed: {allowed}")
        self._forms, self._distilled = {**self._forms, found.name: found}, None

    def form_of(self, fast: Any) -> DistilledForm | None:
        """The form that a preset uses; None for presets without one.

        Raises:
            ValueError: the model lacks it.
        """
        if not isinstance(fast, str) or fast not in FAST or not FAST[fast].distilled:
            return None
        if fast not in self._forms:
            has = f"it has {', '.join(self._forms)}" if self._forms else "it has none"
            raise ValueError(
                f"fast {shown(fast)} needs a distilled form of the model, and {has}; `versatile train --distill MODEL "
                f"--distill-steps {fast if fast.isdigit() else 0}` makes one"
            )
        return self._forms[fast]

    def network(self, fast: str) -> MultiFlowUNet:
        """The diffuser of a preset: the model's own, or that of a distilled form.

        Raises:
            ValueError: the model lacks the form, or has adapters or is offloaded while the form has an adapter.
        """
        form = self.form_of(fast)
        if form is None or form.adapter is None:
            return self.unet
        if getattr(self.unet, "peft_config", {}):
            raise ValueError(f"fast {shown(fast)} and adapters do not go together; fuse or unload the adapters")
        if getattr(self.unet, "_hf_hook", None) is not None:
            raise ValueError(f"fast {shown(fast)} needs the whole diffuser on one device, without offload")
        self.unet.load_now()
        first = next(self.unet.parameters())
        key = fast, self.fingerprint(), first.device, first.dtype  # type: ignore[attr-defined]
        if self._distilled is None or self._distilled[0] != key:
            self._distilled = key, with_adapter(self.unet, form.adapter, form.scale)
        return self._distilled[1]

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **options: Unpack[UploadOptions],
    ) -> None:
        """Writes the model, as diffusers does, with its distilled forms."""
        for name, form in self._forms.items():  # first, as diffusers uploads the folder at its end
            form.save(Path(save_directory, FOLDER, name))
        super().save_pretrained(  # type: ignore[misc]
            os.fspath(save_directory), safe_serialization, variant, max_shard_size, push_to_hub, **options
        )
