"""All codecs and context encoders of a model, as one pipeline component."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from versatile_diffusion.modalities import MODALITIES, Modality
from versatile_diffusion.modalities.base import Codec, ContextEncoder
from versatile_diffusion.modalities.records import IMAGE, TEXT
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import has_variant, read_json, reading

INDEX = "bank.json"
PARTS_GROUP = "versatile_diffusion.parts"
_PART = re.compile(r"(codec|encoder)-\w+")
_BASES: dict[str, type[Codec | ContextEncoder]] = {"codec": Codec, "encoder": ContextEncoder}


def part_classes() -> dict[str, EntryPoint]:
    """Return all part classes by name, without importing them.

    Those of a modality are in its record; others are added through the entry point group `versatile_diffusion.parts`.
    """
    return {point.name: point for point in entry_points(group=PARTS_GROUP)} | classes_in(MODALITIES.values())


def classes_in(records: Iterable[Modality]) -> dict[str, EntryPoint]:
    """Return the part classes of these modalities."""
    parts = ((name, where) for record in records for name, where in record.parts.items())
    return {name: EntryPoint(name, where, PARTS_GROUP) for name, where in parts}


def known_class(name: str) -> EntryPoint:
    """Return the class of a part by name.

    Raises:
        ValueError: an unknown name.
    """
    if name in (ours := classes_in((IMAGE, TEXT))):  # skip the search of other distributions
        return ours[name]
    known = part_classes()
    if name not in known:
        raise ValueError(
            f"unknown class of codec or context encoder {shown(name)}; known: {', '.join(sorted(known))}. "
            f"Add others through the entry point group {shown(PARTS_GROUP)}"
        )
    return known[name]


def classes_of(folder: str | PathLike[str]) -> dict[str, str]:
    """Return the class name of each part in a bank folder, by part folder.

    Raises:
        ValueError: no bank in the folder, or a damaged index.
    """
    index = Path(folder) / INDEX
    if not index.is_file():
        raise ValueError(f"{folder} has no {INDEX}, so it is not a bank of codecs and context encoders")
    parts = read_json(index).get("parts")
    if not isinstance(parts, dict) or not all(isinstance(kind, str) for kind in parts.values()):
        raise ValueError(f"{index} is damaged: it needs `parts`, the class name of each part")
    if odd := [name for name in parts if not _PART.fullmatch(name)]:
        raise ValueError(f"{index} has part {shown(odd[0])}; allowed: codec-MODALITY and encoder-MODALITY")
    return parts


class _Parts(nn.ModuleDict):
    """Parts of one kind by modality; a missing part raises an error that lists the available ones."""

    def __init__(self, kind: str, use: str, modules: Mapping[str, nn.Module], wake: Callable[[], None]) -> None:
        super().__init__(modules)
        self.kind, self.use, self.wake = kind, use, wake

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise ValueError(f"this model has no {key} {self.kind}; it can {self.use}: {', '.join(self) or 'nothing'}")
        self.wake()
        return super().__getitem__(key)


class ModalityBank(ModelMixin):
    """Codecs and context encoders of a model: a codec per generated modality, an encoder per conditioning modality.

    On disk each part has a folder (`codec-image/`, `encoder-text/`, ...); `bank.json` has each part's class.

    Args:
        codecs: codecs by modality.
        encoders: context encoders by modality.
    """

    def __init__(
        self, codecs: Mapping[str, Codec] | None = None, encoders: Mapping[str, ContextEncoder] | None = None
    ) -> None:
        super().__init__()
        self.codecs = _Parts("codec", "generate", codecs or {}, self._wake)
        self.encoders = _Parts("context encoder", "be conditioned on", encoders or {}, self._wake)

    @apply_forward_hook
    def _wake(self) -> None:
        """Do nothing; `enable_model_cpu_offload` hooks it to move the bank to the device when a part is accessed."""

    @property
    def device(self) -> torch.device:
        """Device of its parts."""
        return next((part.device for part in self.parts.values()), torch.device("cpu"))

    @property
    def parts(self) -> dict[str, Any]:
        """Codecs and context encoders by folder name."""
        return {f"codec-{m}": part for m, part in self.codecs.items()} | {
            f"encoder-{m}": part for m, part in self.encoders.items()
        }

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        max_shard_size: int | str = "10GB",
        variant: str | None = None,
        **options: Any,
    ) -> None:
        """Write each part to its folder below `save_directory`, and `bank.json`.

        Raises:
            ValueError: a part's class cannot be found by name on loading.
        """
        classes = {name: type(part).__name__ for name, part in self.parts.items()}
        for class_name in classes.values():
            known_class(class_name)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in self.parts.items():
            part.save_pretrained(folder / name, max_shard_size=max_shard_size, variant=variant, **options)
        (folder / INDEX).write_text(json.dumps({"parts": classes}, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        folder: str | PathLike[str],
        dtype: torch.dtype | None = None,
        parts: Iterable[str] | None = None,
        torch_dtype: torch.dtype | None = None,
        on_use: Callable[[Any], Mapping[str, Tensor]] | None = None,
        variant: str | None = None,
        **_loading: Any,
    ) -> ModalityBank:
        """Load a bank written by `save_pretrained`.

        Args:
            folder: folder with `bank.json`.
            dtype: dtype of the weights; None keeps the saved dtype (or each class's own).
            parts: names of the parts to load, e.g. `["codec-image", "encoder-text"]`; None loads all.
            torch_dtype: alias of `dtype` used by diffusers pipelines; other loading options do not apply.
            on_use: opens a part's folder; its weights are then loaded on first use.
            variant: variant of the weight files, e.g. `"fp16"`, of parts that have it.

        Raises:
            ValueError: no bank in the folder, or a missing or unknown part.
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
            with reading(Path(folder) / name, f"a {classes[name]}"):  # also classes of other distributions
                given = {"variant": variant} if variant and has_variant(Path(folder) / name, variant) else {}
                module = part.from_pretrained(str(Path(folder) / name), **loading, **given)
            base = _BASES[kind]
            if not isinstance(module, base) or module.modality != modality:
                raise ValueError(f"{folder}: {name} is a {classes[name]}, not a {base.__name__} of {modality}")
            found[kind][modality] = module
        return cls(found["codec"], found["encoder"]).eval()
