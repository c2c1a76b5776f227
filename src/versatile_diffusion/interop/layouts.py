"""What a path holds: one entry point for every published layout and for ours.

Whatever the layout, the answer is the same record, `Found`: for each part of the model its tensors under the names of
2023, mapped and not yet read, with the configuration and the further files that it comes with.
`official_files.load_official` builds a model from it, so what holds for one layout holds for all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from versatile_diffusion.interop import hub_layout
from versatile_diffusion.interop.found import (
    HIDDEN_TEXT_ENCODER,
    OURS,
    OWN_FILES,
    PARTS,
    Found,
    beginnings,
    contents,
    own_weights,
    streams_of,
    told_configs,
)
from versatile_diffusion.interop.keymap import Rule, find_ours
from versatile_diffusion.interop.official import FULL_SIZE, diffuser_plan
from versatile_diffusion.interop.tensors import SUFFIXES, Tensors, open_tensors
from versatile_diffusion.interop.unet_names import (
    BASIC_2022,
    DUAL_CONTEXT_2022,
    FOUR_FLOW_2022,
    ORIGINAL,
    STABLE_DIFFUSION,
    UNet,
    original_rules,
)

Configs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Checkpoint:
    """One row: a layout whose diffuser lies in one file, with the rest of the model in it or beside it.

    Args:
        name: by which it is asked for.
        title: for people.
        sign: what some name of an entry has, unlike those of the rows below.
        diffuser: how the names of the diffuser begin.
        unets: where its streams are; none for names of 2023.
        prefixes: of the entries of the other parts, where they are in the same file.
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

    def rules(self, config: Mapping[str, Any]) -> tuple[Rule, ...]:
        """Its names and those of 2023, for a diffuser of the original's configuration `config`."""
        return original_rules(diffuser_plan(config), self.unets) if self.unets else (Rule("{rest}", "{rest}"),)


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
"""The first row whose sign is seen counts. Without its CLIP, VD basic has the very names of Stable Diffusion: then the
layout must be told."""


def recognise(path: str | PathLike[str], layout: str | None = None, config: Configs | None = None) -> Found:
    """Says what a path holds; only headers and configurations are read.

    Args:
        path: a checkpoint, a folder with the published files, or a folder in diffusers' layout or in ours.
        layout: a name in `CHECKPOINTS`, where the file does not tell (VD basic without its CLIP).
        config: per part, the original's configuration, where it is not that of the published weights.

    Raises:
        ValueError: there is nothing, or nothing known; it names what was found and what is allowed.
    """
    place = Path(path)
    if not place.exists():
        raise ValueError(f"{place}: no such file or folder; give a folder of weights, or a checkpoint")
    if layout is not None and layout not in {row.name for row in CHECKPOINTS}:
        raise ValueError(f"unknown layout {layout!r}; known are {', '.join(row.name for row in CHECKPOINTS)}")
    found = hub_layout.recognise(place) if place.is_dir() and layout is None else None
    found = found or _checkpoint(place, layout, config or {})
    return found if found.layout == OURS else found.with_own_files()


def _checkpoint(place: Path, layout: str | None, config: Configs) -> Found:
    file = place if place.is_file() else _diffuser_file(place)
    whole = open_tensors(file)
    row = next((row for row in CHECKPOINTS if layout == row.name or (not layout and _signed(whole, row))), None)
    if row is None:
        raise _unknown(place, f"{file.name} holds: {', '.join(beginnings(whole)[:10])}")
    configs = {"diffuser": FULL_SIZE, **told_configs(file.parent), **config}
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


def _signed(tensors: Tensors, row: Checkpoint) -> bool:
    return any(re.match(row.sign, name) for name in tensors)


def _diffuser_file(folder: Path) -> Path:
    """The checkpoint in a folder: by its name, else the only file of weights that is no other part's."""
    if (named := own_weights(folder, "diffuser")) is not None:
        return named
    others = {own_weights(folder, part) for part in PARTS[1:]}
    rest = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES and file not in others]
    if len(rest) == 1:
        return rest[0]
    if rest:
        raise ValueError(f"{folder}: several checkpoints ({', '.join(file.name for file in rest)}); give one of them")
    names = ", ".join(OWN_FILES["diffuser"].weights)
    raise _unknown(folder, f"no checkpoint of a diffuser ({names}); it holds {contents(folder)}")


def _unknown(place: Path, found: str) -> ValueError:
    known = "; ".join(f"{row.title} ({row.name})" for row in CHECKPOINTS)
    return ValueError(f"{place}: {found}. Known are checkpoints ({known}) and folders ({hub_layout.TITLES})")
