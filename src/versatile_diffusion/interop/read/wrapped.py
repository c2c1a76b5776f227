"""Checkpoints wrapped by trainers: choice of the state dict, and removal of wrapper prefixes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from versatile_diffusion.interop.read.pickled import StoredTensor

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Name parts of DataParallel, DistributedDataParallel, torch.compile, FSDP, activation checkpointing and Fabric."""
AVERAGES = ("ema", "shadow", "averaged", "average")
"""Words in names of averaged weights (EMA)."""
TRAINING = ("optim", "scaler", "scheduler", "callback", "loops")
"""Words in names of training-only state."""
DEEPEST = 8

State = Mapping[str, StoredTensor]
Path = tuple[str, ...]


def find_state(content: Any) -> tuple[State, tuple[str, ...]]:
    """Return the state dict in a file's content, and notes on the choice.

    It is the one with the most tensors, at any depth. If EMA weights and raw weights both exist, the EMA is used if
    complete, since it gives better images.

    Raises:
        ValueError: several candidates.
    """
    states = {path: state for path, state in _states(content) if not _has_word(path, TRAINING)}
    if not states:
        return {}, ()
    most = max(map(len, states.values()))
    names = {path: frozenset(unwrap_name(name)[0] for name in state) for path, state in states.items()}
    first = [path for path in states if len(states[path]) == most and not is_average(path)]
    averages = [p for p in states if is_average(p) and all(names[p] >= names[other] for other in first)]
    if not first:
        averages = [path for path in averages if len(states[path]) == most]
    chosen = averages or first
    if len(chosen) > 1:
        found = " and ".join(sorted(map(_format_path, chosen)))
        raise ValueError(f"it contains several state dicts of {most} tensors, {found}; save one to a separate file")
    (path,) = chosen
    others = sorted(_format_path(other) for other in states if other != path)
    notes = [f"using the weights in {_format_path(path)}"] if path else []
    if others and (len(others) > 1 or averages or any(map(is_average, states))):
        notes.append(f"not those in {', '.join(others[:3])}{f' and {len(others) - 3} more' if others[3:] else ''}")
    return states[path], (", ".join(notes),) if notes else ()


def is_average(path: Iterable[str]) -> bool:
    """Return whether keys or name parts indicate averaged weights."""
    return _has_word(path, AVERAGES)


def unwrap_name(name: str) -> tuple[str, list[str]]:
    """Return a name without wrapper parts, and these parts."""
    parts = name.split(".")
    added = [part for part in parts if part in WRAPPERS]
    return (".".join(part for part in parts if part not in WRAPPERS), added) if added else (name, added)


def _states(content: Any) -> Iterator[tuple[Path, State]]:
    """Yield every state dict in a file's content, with its path."""
    level: list[tuple[Path, Any]] = [((), content)]
    seen: set[int] = set()
    for _ in range(DEEPEST):
        inner: list[tuple[Path, Any]] = []
        for path, value in level:
            if not isinstance(value, Mapping) or id(value) in seen:
                continue
            seen.add(id(value))
            named = {key: one for key, one in value.items() if isinstance(key, str)}
            if state := {key: one for key, one in named.items() if isinstance(one, StoredTensor)}:
                yield path, state
            inner += [((*path, key), one) for key, one in named.items()]
        level = inner


def _has_word(path: Iterable[str], words: tuple[str, ...]) -> bool:
    return any(word.startswith(words) for part in path for word in re.split("[^a-z]", part.lower()))


def _format_path(path: Path) -> str:
    return ".".join(path) or "the file itself"
