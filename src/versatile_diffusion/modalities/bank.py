"""All codecs and context encoders of a model, as one component of a pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from versatile_diffusion.modalities.base import Codec, ContextEncoder

INDEX = "bank.json"
PARTS_GROUP = "versatile_diffusion.parts"
PART_CLASSES = {
    "AutoKLCodec": "versatile_diffusion.modalities.autokl:AutoKLCodec",
    "LiteVAE": "versatile_diffusion.modalities.lite_vae:LiteVAE",
    "Optimus": "versatile_diffusion.modalities.optimus:Optimus",
    "CLIPTextContext": "versatile_diffusion.modalities.clip:CLIPTextContext",
    "CLIPHiddenTextContext": "versatile_diffusion.modalities.clip_hidden:CLIPHiddenTextContext",
    "CLIPImageContext": "versatile_diffusion.modalities.clip:CLIPImageContext",
    "DualTextEncoder": "versatile_diffusion.modalities.dual_encoder:DualTextEncoder",
    "DualImageEncoder": "versatile_diffusion.modalities.dual_encoder:DualImageEncoder",
}


def part_classes() -> dict[str, EntryPoint]:
    """Every class that a part may have, by name; nothing is imported before it is asked for.

    Classes of other distributions join through the entry point group `versatile_diffusion.parts`.
    """
    ours = {name: EntryPoint(name, where, PARTS_GROUP) for name, where in PART_CLASSES.items()}
    return {point.name: point for point in entry_points(group=PARTS_GROUP)} | ours


def known_class(name: str) -> EntryPoint:
    """The class of a part by its name.

    Raises:
        ValueError: there is none.
    """
    if name in PART_CLASSES:  # other distributions need not be searched
        return EntryPoint(name, PART_CLASSES[name], PARTS_GROUP)
    known = part_classes()
    if name not in known:
        raise ValueError(
            f"unknown class of codec or context encoder {name!r}; known are {', '.join(sorted(known))}. "
            f"Others join through the entry point group {PARTS_GROUP!r}"
        )
    return known[name]


def classes_of(folder: str | PathLike[str]) -> dict[str, str]:
    """The class names of the parts in a bank's folder, by the name of the part's own folder.

    Raises:
        ValueError: there is no bank in the folder.
    """
    index = Path(folder) / INDEX
    if not index.is_file():
        raise ValueError(f"{folder} holds no {INDEX}, so it is not a bank of codecs and context encoders")
    return json.loads(index.read_text(encoding="utf-8"))["parts"]


class _Parts(nn.ModuleDict):
    """Parts of one kind by modality; asking for one that is absent says what there is."""

    def __init__(self, kind: str, use: str, modules: Mapping[str, nn.Module], wake: Callable[[], None]) -> None:
        super().__init__(modules)
        self.kind, self.use, self.wake = kind, use, wake

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise ValueError(f"this model has no {key} {self.kind}; it can {self.use}: {', '.join(self) or 'nothing'}")
        self.wake()
        return super().__getitem__(key)


class ModalityBank(ModelMixin):
    """What a model reads and writes: a codec per modality it generates, a context encoder per modality that guides it.

    On disk each part has a folder (`codec-image/`, `encoder-text/`, ...), and `bank.json` names each part's class.

    Args:
        codecs: by modality.
        encoders: by modality.
    """

    def __init__(
        self, codecs: Mapping[str, Codec] | None = None, encoders: Mapping[str, ContextEncoder] | None = None
    ) -> None:
        super().__init__()
        self.codecs = _Parts("codec", "generate", codecs or {}, self._wake)
        self.encoders = _Parts("context encoder", "be guided by", encoders or {}, self._wake)

    @apply_forward_hook
    def _wake(self) -> None:
        """Nothing here; under `enable_model_cpu_offload` the bank comes to the device when a part is asked for."""

    @property
    def device(self) -> torch.device:
        """Where its parts compute."""
        return next((part.device for part in self.parts.values()), torch.device("cpu"))

    @property
    def parts(self) -> dict[str, Any]:
        """Codecs and context encoders by the name of their folder."""
        return {f"codec-{m}": part for m, part in self.codecs.items()} | {
            f"encoder-{m}": part for m, part in self.encoders.items()
        }

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | PathLike[str], max_shard_size: int | str = "10GB", **options: Any
    ) -> None:
        """Writes each part to its folder under `save_directory`, and `bank.json`.

        Raises:
            ValueError: a part's class could not be found again when loading.
        """
        classes = {name: type(part).__name__ for name, part in self.parts.items()}
        for class_name in classes.values():
            known_class(class_name)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in self.parts.items():
            part.save_pretrained(folder / name, max_shard_size=max_shard_size, **options)
        (folder / INDEX).write_text(json.dumps({"parts": classes}, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        folder: str | PathLike[str],
        dtype: torch.dtype | None = None,
        parts: Iterable[str] | None = None,
        torch_dtype: torch.dtype | None = None,
        on_use: Callable[[Any], Mapping[str, Tensor]] | None = None,
        **_loading: Any,
    ) -> ModalityBank:
        """Reads what `save_pretrained` wrote.

        Args:
            folder: holds `bank.json`.
            dtype: of the weights; as saved (or as each part's class decides) when None.
            parts: names of the parts to load, e.g. `["codec-image", "encoder-text"]`; all when None.
            torch_dtype: the name under which a diffusers pipeline passes `dtype`; its other loading options do not
                apply here.
            on_use: opens a part's folder, whose weights then stay there until they are used.

        Raises:
            ValueError: there is no bank in the folder, a part asked for is not in it, or its class is unknown.
        """
        classes = classes_of(folder)
        wanted = list(classes if parts is None else parts)
        if missing := [name for name in wanted if name not in classes]:
            raise ValueError(f"{folder} has no {', '.join(missing)}; it has {', '.join(classes)}")
        dtype = dtype or torch_dtype
        loading: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        if on_use is not None:
            loading["on_use"] = on_use
        found: dict[str, dict[str, Any]] = {"codec": {}, "encoder": {}}
        for name in wanted:
            kind, modality = name.split("-", 1)
            part = known_class(classes[name]).load()
            found[kind][modality] = part.from_pretrained(str(Path(folder) / name), **loading)
        return cls(found["codec"], found["encoder"]).eval()
