"""Result of layout recognition: one record for all layouts, and patterns of parts in separate files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.interop.read.tensors import SUFFIXES, Tensors, open_tensors
from versatile_diffusion.reading import INDEX_SUFFIX, read_json

PARTS = ("diffuser", "image-codec", "text-codec", "text-encoder", "image-encoder")
STREAM_PARTS = {
    "data.image": "image-codec",
    "data.text": "text-codec",
    "context.text": "text-encoder",
    "context.image": "image-encoder",
}
"""Part that a stream requires."""
OURS = "ours"
CONFIG_FILE = "vd-config.json"
"""File written beside official files: the original configuration per part, which weights do not imply."""
HIDDEN_TEXT_ENCODER = "hidden-text-encoder"
"""Stable Diffusion's text encoder: CLIP's last hidden states, neither projected nor normalised."""
_STREAM = re.compile(r"diffuser\.(\w+)\.(data|context)_blocks\.")


@dataclass(frozen=True)
class OwnFiles:
    """Separate files of a part, each under any of several patterns: its weights (without suffix), and other required
    files."""

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
    """Recognised content of a path.

    Args:
        layout: name of the layout.
        title: title for users.
        path: checkpoint or folder.
        streams: diffuser streams, `("data.image", "context.text", ...)`.
        tensors: entries per part under 2023 names (the diffuser's with `diffuser.`, those of other parts without
            prefix), not read yet. Empty for our own layout, which diffusers reads.
        configs: original configuration per part, if known.
        files: further files per part: vocabularies, or the file whose folder has the tokenizer.
        kinds: row of `official_files.BLUEPRINTS` that builds a part, if not its own.
        lacks: parts that the layout cannot hold.
        aside: names in the checkpoint that belong to no part, e.g. schedule buffers.
        hint: alternative layout, if parts are missing.
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
        """The folder."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the diffuser's weights on disk."""
        held = self.tensors.get("diffuser") or open_tensors(self.path / "unet")
        return next(iter(held.entries.values())).dtype

    @property
    def needed(self) -> tuple[str, ...]:
        """Parts that a stream requires; parts that the layout cannot hold only if complete beside it."""
        wanted = {"diffuser", *(STREAM_PARTS[s] for s in self.streams if s in STREAM_PARTS)}
        return tuple(p for p in PARTS if p in wanted and not (p in self.lacks and self.lacking(p)))

    def with_own_files(self) -> Found:
        """Add missing parts from separate files in the folder."""
        absent = [part for part in PARTS if part not in self.tensors]
        own = {part: file for part in absent if (file := own_weights(self.folder, part)) is not None}
        return replace(
            self,
            tensors={**self.tensors, **{part: open_tensors(file).unwrapped() for part, file in own.items()}},
            configs={**configs_beside(self.folder), **self.configs},
            files={**{part: other_files(self.folder, part) for part in PARTS}, **self.files},
        )

    def keep_streams(self, streams: Collection[str]) -> Found:
        """Keep only these streams of the diffuser.

        Raises:
            ValueError: a stream is missing.
        """
        if lacking := sorted(set(streams) - set(self.streams)):
            raise ValueError(f"{self.path} has no {', '.join(lacking)}; it is {self}")
        kept = self.tensors["diffuser"].renamed(lambda name: name if set(streams_of([name])) <= set(streams) else None)
        return replace(self, streams=tuple(streams), tensors={**self.tensors, "diffuser": kept})

    @property
    def unwrapped(self) -> tuple[str, ...]:
        """Notes on unwrapping, for users."""
        return tuple(dict.fromkeys(note for tensors in self.tensors.values() for note in tensors.notes))

    def lacking(self, part: str) -> list[str]:
        """Return the missing files of a part, by their possible names."""
        own, lacks = OWN_FILES[part], []
        if part not in self.tensors:
            lacks.append(f"the {part} ({' or '.join(own.weights)}, .safetensors or .pth; or in the checkpoint)")
        if len(self.files.get(part, ())) < len(own.others):
            lacks += [" or ".join(names) for names in own.others if first_file(self.folder, names) is None]
        return lacks

    def check(self, parts: Collection[str]) -> None:
        """Raise ValueError listing everything missing for `parts`, before anything large is built."""
        if lacks := list(dict.fromkeys(file for part in parts for file in self.lacking(part))):
            found = f"Found: {contents(self.folder)}; it is {self}"
            raise ValueError(f"{self.folder} lacks: {'; '.join(lacks)}. {found}{self.hint and f'. {self.hint}'}")

    def __str__(self) -> str:
        held = [f"{part} ({len(tensors)} entries)" for part, tensors in self.tensors.items()]
        streams = ", ".join(stream.replace(".", " ") for stream in self.streams)
        line = f"{self.title} ({self.layout}): streams {streams or 'none'}; {', '.join(held) or 'every part'}"
        unknown = ", ".join(beginnings(self.aside)[:3])
        line += f"; ignored: {len(self.aside)} entries ({unknown})" if self.aside else ""
        return "; ".join([line, *self.unwrapped])


def configs_beside(folder: Path) -> dict[str, Any]:
    """Return the content of `CONFIG_FILE`, if it exists."""
    file = folder / CONFIG_FILE
    return read_json(file) if file.is_file() else {}


def streams_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return the streams in these 2023 names, as `data.image`; data before context."""
    seen = {f"{match[2]}.{match[1]}" for name in names if (match := _STREAM.match(name))}
    return tuple(sorted(seen, key=lambda stream: (stream.startswith("context"), stream)))


def own_weights(folder: Path, part: str) -> Path | None:
    """Return a part's separate weight file (or shard index) in a folder, or one level below."""
    endings = [suffix + INDEX_SUFFIX for suffix in SUFFIXES] + list(SUFFIXES)
    return first_file(folder, [stem + ending for stem in OWN_FILES[part].weights for ending in endings])


def other_files(folder: Path, part: str) -> tuple[Path, ...]:
    """Return the further files of a part, in the order of its row."""
    found = (first_file(folder, names) for names in OWN_FILES[part].others)
    return tuple(file for file in found if file is not None)


def first_file(folder: Path, patterns: Iterable[str]) -> Path | None:
    """Return the first matching file in a folder or one level below."""
    return next((file for p in patterns for start in ("", "*/") for file in sorted(folder.glob(start + p))), None)


def contents(folder: Path) -> str:
    """List the files in a folder and one level below, for messages."""
    files = [*folder.glob("*"), *folder.glob("*/*")]
    return ", ".join(sorted(str(file.relative_to(folder)) for file in files if file.is_file())[:40]) or "nothing"


def beginnings(names: Iterable[str]) -> list[str]:
    """Return the unique beginnings of names."""
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
