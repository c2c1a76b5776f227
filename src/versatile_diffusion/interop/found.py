"""The answer to "what does this path hold": one record for every layout, and where parts have files of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.interop.tensors import SUFFIXES, Tensors, open_tensors

PARTS = ("diffuser", "image-codec", "text-codec", "text-encoder", "image-encoder")
STREAM_PARTS = {
    "data.image": "image-codec",
    "data.text": "text-codec",
    "context.text": "text-encoder",
    "context.image": "image-encoder",
}
"""The part without which a stream is of no use."""
OURS = "ours"
CONFIG_FILE = "vd-config.json"
"""Written beside official files of ours: per part the original's configuration, which weights do not tell."""
HIDDEN_TEXT_ENCODER = "hidden-text-encoder"
"""The kind of text encoder that Stable Diffusion has: CLIP's last hidden states, neither projected nor normalised."""
_STREAM = re.compile(r"diffuser\.(\w+)\.(data|context)_blocks\.")


@dataclass(frozen=True)
class OwnFiles:
    """Files that a part may have for itself, each under any of several patterns: its weights (without suffix), and
    what else it needs."""

    weights: tuple[str, ...]
    others: tuple[tuple[str, ...], ...] = ()


_CLIP = OwnFiles(("*clip*/model", "*clip*/pytorch_model"), (("*clip*/config.json",),))
OWN_FILES = {
    "diffuser": OwnFiles(("vd-four-flow-v1-0", "vd-four-flow-v1-0-fp16", "vd-*", "vd*", "sd-*", "v1-*")),
    "image-codec": OwnFiles(("kl-f8",)),
    "text-codec": OwnFiles(
        ("optimus-vae",),
        (
            ("bert-base-cased-vocab.txt", "bert-base-cased/vocab.txt"),
            ("gpt2-vocab.json", "gpt2/vocab.json"),
            ("gpt2-merges.txt", "gpt2/merges.txt"),
        ),
    ),
    "text-encoder": _CLIP,
    "image-encoder": _CLIP,
}


@dataclass(frozen=True)
class Found:
    """What a path holds.

    Args:
        layout: its name.
        title: for people.
        path: the checkpoint, or the folder.
        streams: of the diffuser, as `("data.image", "context.text", ...)`.
        tensors: per part, its entries under the names of 2023 (the diffuser's with their `diffuser.`, those of other
            parts without a prefix), not yet read. Empty for our own layout, which diffusers reads.
        configs: per part, the original's configuration, where it is known.
        files: per part, further files: vocabularies, or the file whose folder has the tokenizer.
        kinds: per part, the row of `official_files.BLUEPRINTS` that builds it, where it is not the part's own.
        lacks: parts for which the layout has no place.
        aside: names in the checkpoint that belong to no part, such as schedule buffers.
        hint: what else it may be, where parts are lacking.
    """

    layout: str
    title: str
    path: Path
    streams: tuple[str, ...]
    tensors: Mapping[str, Tensors] = field(default_factory=dict)
    configs: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    aside: tuple[str, ...] = ()
    hint: str = ""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def dtype(self) -> torch.dtype:
        """Of the diffuser's weights in the files."""
        held = self.tensors.get("diffuser") or open_tensors(self.path / "unet")
        return next(iter(held.entries.values())).dtype

    @property
    def needed(self) -> tuple[str, ...]:
        """Parts without which some stream is of no use; of those that the layout cannot hold, the ones that lie beside
        it and are whole."""
        wanted = {"diffuser", *(STREAM_PARTS[s] for s in self.streams if s in STREAM_PARTS)}
        return tuple(p for p in PARTS if p in wanted and not (p in self.lacks and self.lacking(p)))

    def with_own_files(self) -> Found:
        """The same with every part that is absent taken from files of its own in the folder, where they are."""
        absent = [part for part in PARTS if part not in self.tensors]
        own = {part: file for part in absent if (file := own_weights(self.folder, part)) is not None}
        return replace(
            self,
            tensors={**self.tensors, **{part: open_tensors(file) for part, file in own.items()}},
            configs={**told_configs(self.folder), **self.configs},
            files={**{part: other_files(self.folder, part) for part in PARTS}, **self.files},
        )

    def limited_to(self, streams: Collection[str]) -> Found:
        """The same without the diffuser's other streams.

        Raises:
            ValueError: it lacks one of these.
        """
        if lacking := sorted(set(streams) - set(self.streams)):
            raise ValueError(f"{self.path} has no {', '.join(lacking)}; it is {self}")
        kept = self.tensors["diffuser"].renamed(lambda name: name if set(streams_of([name])) <= set(streams) else None)
        return replace(self, streams=tuple(streams), tensors={**self.tensors, "diffuser": kept})

    def lacking(self, part: str) -> list[str]:
        """The files that a part lacks, by the names that they may have."""
        own, lacks = OWN_FILES[part], []
        if part not in self.tensors:
            lacks.append(f"the {part} ({' or '.join(own.weights)}, .safetensors or .pth; or in the checkpoint)")
        if len(self.files.get(part, ())) < len(own.others):
            lacks += [" or ".join(names) for names in own.others if first_file(self.folder, names) is None]
        return lacks

    def check(self, parts: Collection[str]) -> None:
        """Raises ValueError naming everything that some of `parts` lack, before anything large is built."""
        if lacks := list(dict.fromkeys(file for part in parts for file in self.lacking(part))):
            found = f"Found: {contents(self.folder)}; it is {self}"
            raise ValueError(f"{self.folder} lacks: {'; '.join(lacks)}. {found}{self.hint and f'. {self.hint}'}")

    def __str__(self) -> str:
        held = [f"{part} ({len(tensors)} entries)" for part, tensors in self.tensors.items()]
        streams = ", ".join(stream.replace(".", " ") for stream in self.streams)
        line = f"{self.title} ({self.layout}): streams {streams or 'none'}; {', '.join(held) or 'every part'}"
        unknown = ", ".join(beginnings(self.aside)[:3])
        return f"{line}; left aside: {len(self.aside)} entries ({unknown})" if self.aside else line


def told_configs(folder: Path) -> dict[str, Any]:
    """What `CONFIG_FILE` says, where there is one."""
    file = folder / CONFIG_FILE
    return read_json(file) if file.is_file() else {}


def read_json(file: Path) -> dict[str, Any]:
    """A configuration.

    Raises:
        ValueError: there is no such file, or it is no JSON.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def streams_of(names: Iterable[str]) -> tuple[str, ...]:
    """The streams that names of 2023 speak of, as `data.image`; data before contexts."""
    seen = {f"{match[2]}.{match[1]}" for name in names if (match := _STREAM.match(name))}
    return tuple(sorted(seen, key=lambda stream: (stream.startswith("context"), stream)))


def own_weights(folder: Path, part: str) -> Path | None:
    """A part's own file of weights in a folder, or one level below it."""
    return first_file(folder, [stem + suffix for stem in OWN_FILES[part].weights for suffix in SUFFIXES])


def other_files(folder: Path, part: str) -> tuple[Path, ...]:
    """The further files of a part, in the order of its row."""
    found = (first_file(folder, names) for names in OWN_FILES[part].others)
    return tuple(file for file in found if file is not None)


def first_file(folder: Path, patterns: Iterable[str]) -> Path | None:
    """The first file that fits, in a folder or one level below it."""
    return next((file for p in patterns for start in ("", "*/") for file in sorted(folder.glob(start + p))), None)


def contents(folder: Path) -> str:
    """The files in a folder and one level below it, for messages."""
    files = [*folder.glob("*"), *folder.glob("*/*")]
    return ", ".join(sorted(str(file.relative_to(folder)) for file in files if file.is_file())[:40]) or "nothing"


def beginnings(names: Iterable[str]) -> list[str]:
    """How names begin, each once."""
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
