"""Recognition of what a path contains, for every published layout and ours.

The result is always a `Found` record: for each part its tensors under 2023 names, mapped but not read, with
configuration and further files. `official_files.load_official` builds a model from it, for all layouts alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from versatile_diffusion.interop.names.keymap import NameRule, find_ours
from versatile_diffusion.interop.names.unet import (
    BASIC_2022,
    DUAL_CONTEXT_2022,
    FOUR_FLOW_2022,
    ORIGINAL,
    STABLE_DIFFUSION,
    UNet,
    original_rules,
)
from versatile_diffusion.interop.official import FULL_SIZE, diffuser_plan
from versatile_diffusion.interop.read import folders as hub_layout
from versatile_diffusion.interop.read.found import (
    HIDDEN_TEXT_ENCODER,
    OURS,
    OWN_FILES,
    PARTS,
    Found,
    beginnings,
    configs_beside,
    contents,
    own_weights,
    streams_of,
)
from versatile_diffusion.interop.read.tensors import SUFFIXES, Tensors, open_tensors
from versatile_diffusion.interop.read.wrapped import is_average
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import INDEX_SUFFIX, reading, shards_of

Configs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Checkpoint:
    """A layout whose diffuser is one file, with other parts in it or beside it.

    Args:
        name: name of the layout.
        title: title for users.
        sign: pattern in entry names that distinguishes it from the rows below.
        diffuser: prefix of the diffuser's entries.
        unets: UNets with its streams; empty for 2023 names.
        prefixes: prefixes of other parts in the same file.
        kinds, hint: as in `Found`.
    """

    name: str
    title: str
    sign: str
    diffuser: str
    unets: tuple[UNet, ...]
    prefixes: Mapping[str, str]
    kinds: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""

    def rules(self, config: Mapping[str, Any]) -> tuple[NameRule, ...]:
        """Return its name rules for a diffuser with the original configuration `config`."""
        return original_rules(diffuser_plan(config), self.unets) if self.unets else (NameRule("{rest}", "{rest}"),)


def _prefixes(*prefixes: str) -> dict[str, str]:
    return {part: prefix for part, prefix in zip(PARTS[1:], prefixes, strict=True) if prefix}


CHECKPOINTS = (
    Checkpoint(
        "official-2023",
        "Versatile Diffusion, names of 2023",
        r"diffuser\.\w+\.(time_embed|data_blocks|context_blocks)\.",
        "diffuser.",
        (),
        _prefixes("vae.image.", "vae.text.", "ctx.text.model.", "ctx.image.model."),
    ),
    Checkpoint(
        "official-2022",
        "Versatile Diffusion, names of 2022",
        r"model\.diffusion_model\.unet_(image|text)\.",
        ORIGINAL,
        FOUR_FLOW_2022,
        _prefixes("autokl.", "optimus.", "clip.model.", "clip.model."),
    ),
    Checkpoint(
        "dual-context-2022",
        "VD dual-context, names of 2022",
        r"model\.diffusion_model\..+\.transformer_blocks_1\.",
        ORIGINAL,
        DUAL_CONTEXT_2022,
        _prefixes("first_stage_model.", "", "cond_stage_model.model.", "cond_stage_model.model."),
    ),
    Checkpoint(
        "basic-2022",
        "VD basic, names of 2022",
        r"cond_stage_model\..*vision_model\.",
        ORIGINAL,
        BASIC_2022,
        _prefixes("first_stage_model.", "", "", "cond_stage_model.model."),
    ),
    Checkpoint(
        "stable-diffusion",
        "Stable Diffusion v1",
        r"model\.diffusion_model\.input_blocks\.",
        ORIGINAL,
        STABLE_DIFFUSION,
        _prefixes("first_stage_model.", "", "cond_stage_model.transformer.", ""),
        {"text-encoder": HIDDEN_TEXT_ENCODER},
        "If it is VD basic, which has the same names without its CLIP, say so: layout basic-2022",
    ),
)
"""The first row whose sign matches is used. Without its CLIP, VD basic has exactly Stable Diffusion's names; then the
layout must be given."""


def recognise(path: str | PathLike[str], layout: str | None = None, config: Configs | None = None) -> Found:
    """Recognise what a path contains; reads only headers and configurations.

    Args:
        path: checkpoint, folder with the published files, or folder in diffusers' layout or ours.
        layout: name in `CHECKPOINTS`, if ambiguous (VD basic without its CLIP).
        config: original configuration per part, if not that of the published weights.

    Raises:
        ValueError: nothing recognised; names what exists and what is supported.
    """
    place = Path(path)
    if not place.exists():
        raise ValueError(f"{place}: no such file or folder; give a folder of weights, or a checkpoint")
    if layout is not None and layout not in {row.name for row in CHECKPOINTS}:
        raise ValueError(f"unknown layout {shown(layout)}; known: {', '.join(row.name for row in CHECKPOINTS)}")
    with reading(place, "a model"):
        found = hub_layout.recognise(place) if place.is_dir() and layout is None else None
        found = found or _checkpoint(place, layout, config or {})
        return found if found.layout == OURS else found.with_own_files()


def _checkpoint(place: Path, layout: str | None, config: Configs) -> Found:
    file = place if place.is_file() else _diffuser_file(place)
    with reading(file, "a checkpoint"):
        whole = open_tensors(file).unwrapped()
    if prefix := _prefix(whole):
        rest = len(whole) - len(inner := whole.select(prefix))
        whole = inner.noted(f"using the weights with prefix {prefix}, ignoring {rest} others")
    row = next((row for row in CHECKPOINTS if layout == row.name or (not layout and _has_sign(whole, row))), None)
    if row is None:
        said = "; ".join([", ".join(beginnings(whole)[:10]), *whole.notes])
        raise _unknown(place, f"{file.name} contains: {said}")
    configs = {"diffuser": FULL_SIZE, **configs_beside(file.parent), **config}
    rules = row.rules(configs["diffuser"])
    inside = {part: whole.select(prefix) for part, prefix in row.prefixes.items()}
    try:
        diffuser = whole.renamed(lambda name: find_ours(name, rules) if name.startswith(row.diffuser) else None)
    except ValueError as error:
        raise ValueError(f"{file} has names of {row.title} ({row.name}), but does not fit it: {error}") from error
    known = (row.diffuser, *row.prefixes.values())
    return Found(
        layout=row.name,
        title=row.title,
        path=file,
        streams=streams_of(diffuser),
        tensors={"diffuser": diffuser, **{part: tensors for part, tensors in inside.items() if tensors}},
        configs={part: dict(numbers) for part, numbers in configs.items()},
        kinds=row.kinds,
        aside=tuple(name for name in whole if not name.startswith(known)),
        hint=row.hint,
    )


def _has_sign(tensors: Tensors, row: Checkpoint) -> bool:
    return any(re.match(row.sign, name) for name in tensors)


def _prefix(tensors: Tensors) -> str:
    """Return the prefix of known names, e.g. added by a trainer's class; usually empty. If EMA weights and raw weights
    both match, that of the EMA."""
    known = re.compile("|".join(rf"(?:{row.sign})" for row in CHECKPOINTS))
    counts = Counter(prefix for name in tensors if (prefix := _before(known, name)) is not None)
    most = max(counts.values(), default=0)
    return min((p for p in counts if counts[p] == most), key=lambda p: (not is_average(p.split(".")), p), default="")


def _before(known: re.Pattern[str], name: str) -> str | None:
    """Return the part of a name before a known one; None if it is not known."""
    starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
    return next((name[:start] for start in starts if known.match(name, start)), None)


def _diffuser_file(folder: Path) -> Path:
    """Return the checkpoint of a folder: by name, else the only weight file of no other part."""
    if (named := own_weights(folder, "diffuser")) is not None:
        return named
    indexes = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    shards = {folder / name for index in indexes for name in shards_of(index).values()}
    others = {own_weights(folder, part) for part in PARTS[1:]} | shards
    weights = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES] + indexes
    rest = [file for file in weights if file not in others]
    if len(rest) == 1:
        return rest[0]
    if rest:
        raise ValueError(f"{folder}: several checkpoints ({', '.join(file.name for file in rest)}); give one of them")
    names = ", ".join(OWN_FILES["diffuser"].weights)
    raise _unknown(folder, f"no checkpoint of a diffuser ({names}); it contains {contents(folder)}")


def _unknown(place: Path, found: str) -> ValueError:
    known = "; ".join(f"{row.title} ({row.name})" for row in CHECKPOINTS)
    return ValueError(f"{place}: {found}. Supported: checkpoints ({known}) and folders ({hub_layout.TITLES})")
