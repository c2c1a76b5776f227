"""Verification of model files: names, shapes, dtypes and values."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.read.found import OURS, Found
from versatile_diffusion.interop.read.layouts import recognise
from versatile_diffusion.interop.read.official_files import load_official, plan_part
from versatile_diffusion.interop.read.tensors import Tensors, open_tensors
from versatile_diffusion.layers.on_use import mismatches
from versatile_diffusion.modalities.bank import classes_of, known_class
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.reading import reading

CHUNK = 1 << 24  # values per chunk
OFTEN = 100.0  # ratio to similar weights that is suspicious
LARGE = 1e4  # close to the float16 limit
Network = tuple[nn.Module, Callable[[str], "str | None"]]


@dataclass(frozen=True)
class Finding:
    """A finding about an entry.

    Args:
        entry: name in the file; our name if missing, empty for a whole part.
        what: the finding.
        serious: whether the weights are unusable; otherwise only unusual.
    """

    entry: str
    what: str
    serious: bool = True

    def __str__(self) -> str:
        return f"{'' if self.serious else '(unusual) '}{self.entry} {self.what}".replace("  ", " ").strip()


@dataclass(frozen=True)
class PartReport:
    """Report on one part.

    Args:
        name: name of the part.
        files: its files.
        entries, numbers, bytes: its size.
        dtypes: number of entries per dtype.
        findings: errors and unusual values.
    """

    name: str
    files: tuple[str, ...] = ()
    entries: int = 0
    numbers: int = 0
    bytes: int = 0
    dtypes: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Verification:
    """Result of `verify`.

    Args:
        path: verified path.
        layout: its layout.
        parts: one report per part.
        aside: number of entries that belong to no part.
        numbers_read: whether values were checked, or only headers.
        unwrapped: wrappers that were removed.
    """

    path: str
    layout: str
    parts: tuple[PartReport, ...]
    aside: int
    numbers_read: bool
    unwrapped: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there are no serious findings."""
        return not any(finding.serious for part in self.parts for finding in part.findings)

    def record(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"ok": self.ok, **asdict(self)}


def verify(
    path: str | PathLike[str],
    *,
    layout: str | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    numbers: bool = True,
) -> Verification:
    """Compare files with the model they should contain, tensor by tensor with little memory; then build the model, so
    that files that pass can be loaded.

    Args:
        path, layout, config: see `layouts.recognise`.
        numbers: whether to check values (NaN, infinity, suspicious scales), or only headers.

    Raises:
        ValueError: no such path.
    """
    if not Path(path).exists():
        raise ValueError(f"{path}: no such file or folder")
    try:
        with reading(path, "a model"):
            return _report(recognise(path, layout, config), numbers)
    except ValueError as error:
        return Verification(
            str(path), "not recognised", (PartReport("files", findings=(Finding("", str(error)),)),), 0, False
        )


def _report(found: Found, numbers: bool) -> Verification:
    parts = _our_parts(found.path) if found.layout == OURS else _published_parts(found)
    reports = tuple(_examine(name, tensors, plan, numbers) for name, tensors, plan in parts)
    reports += tuple(_missing_parts(found)) if found.layout != OURS else ()
    title = f"{found.title} ({found.layout})"
    report = Verification(str(found.path), title, reports, len(found.aside), numbers, found.unwrapped)
    if report.ok and (wrong := _loading_error(found, numbers)):
        return replace(report, parts=(*reports, PartReport("model", findings=(Finding("", wrong),))))
    return report


def _loading_error(found: Found, numbers: bool) -> str:
    """Return the error of loading the model; empty if it loads."""
    try:
        if found.layout == OURS:
            VersatileDiffusionPipeline.from_pretrained(found.path, on_use=None if numbers else True)
        else:
            load_official(found, on_use=True)
    except ValueError as error:
        return str(error)
    return ""


def _published_parts(found: Found) -> Iterator[tuple[str, Tensors, Callable[[], Network]]]:
    for part, tensors in found.tensors.items():
        if not found.lacking(part):
            yield part, tensors, partial(plan_part, found, part)


def _our_parts(folder: Path) -> Iterator[tuple[str, Tensors, Callable[[], Network]]]:
    kinds: dict[str, Any] = {"unet": MultiFlowUNet}
    kinds |= {f"bank/{name}": known_class(kind).load() for name, kind in classes_of(folder / "bank").items()}
    for name, kind in kinds.items():
        yield name, open_tensors(folder / name), partial(_our_network, kind, folder / name)


def _our_network(kind: Any, folder: Path) -> Network:
    return kind.without_weights(folder), lambda name: name


def _missing_parts(found: Found) -> Iterator[PartReport]:
    """Report incomplete parts; parts that the layout cannot hold may be missing."""
    for part in dict.fromkeys([*found.needed, *found.tensors]):
        if lacks := found.lacking(part):
            yield PartReport(part, findings=(Finding("", f"lacks {'; '.join(lacks)}", part in found.needed),))


def _examine(part: str, tensors: Tensors, plan: Callable[[], Network], numbers: bool) -> PartReport:
    findings = []
    try:
        with reading(part, "a part of a model"):
            network, names = plan()
        ours, unknown = _sort_tensors(tensors, names)
        findings += [Finding(name, "is unknown") for name in unknown]
        for name, what in mismatches(network.state_dict(), ours):
            findings.append(Finding(ours.entries[name].name if name in ours else name, what))
    except ValueError as error:
        ours = tensors
        findings.append(Finding("", str(error)))
    findings += _dtypes(ours)
    if numbers:
        findings += _numbers(ours)
    sizes = {name: math.prod(entry.shape) for name, entry in ours.entries.items()}
    return PartReport(
        part,
        tuple(dict.fromkeys(str(entry.file) for entry in ours.entries.values())),
        len(ours),
        sum(sizes.values()),
        sum(sizes[name] * entry.dtype.itemsize for name, entry in ours.entries.items()),
        dict(Counter(_short(entry.dtype) for entry in ours.entries.values())),
        tuple(findings),
    )


def _sort_tensors(tensors: Tensors, names: Callable[[str], str | None]) -> tuple[Tensors, list[str]]:
    """Return the tensors by the network's names, and the unknown names."""
    known, unknown = {}, []
    for name in tensors:
        try:
            known[name] = names(name)
        except ValueError:
            unknown.append(name)
    return tensors.renamed(known.get), unknown


def _dtypes(tensors: Tensors) -> Iterator[Finding]:
    floating = {name: e for name, e in tensors.entries.items() if e.dtype.is_floating_point}
    usual, _ = Counter(entry.dtype for entry in floating.values()).most_common(1)[0] if floating else (None, 0)
    for entry in tensors.entries.values():
        if not entry.dtype.is_floating_point and entry.name.endswith(("weight", "bias")):
            yield Finding(entry.name, f"is {_short(entry.dtype)}; weights are floating-point numbers")
        elif entry.dtype.is_floating_point and entry.dtype != usual:
            yield Finding(entry.name, f"is {_short(entry.dtype)}, most others are {_short(usual)}", serious=False)


def _numbers(tensors: Tensors) -> Iterator[Finding]:
    """Report NaN, infinity, and weights much larger or smaller than similar ones."""
    scales: dict[str, dict[str, float]] = {}
    for name, entry in tensors.entries.items():
        if not entry.dtype.is_floating_point:
            continue
        bad, largest, scale = _measure(tensors[name])
        if bad:
            yield Finding(entry.name, f"has {bad:,} values that are NaN or infinite")
        elif largest > LARGE:
            yield Finding(entry.name, f"reaches {largest:.3g}", serious=False)
        elif len(entry.shape) > 1 and not scale:
            yield Finding(entry.name, "is all zero", serious=False)
        elif len(entry.shape) > 1:
            scales.setdefault(re.sub(r"\d+", "*", name), {})[entry.name] = scale
    for kind in scales.values():
        middle = median(kind.values())
        for name, scale in kind.items():
            if len(kind) > 3 and not middle / OFTEN < scale < middle * OFTEN:
                yield Finding(name, f"has the scale {scale:.2g}, others of its kind {middle:.2g}", serious=False)


def _measure(tensor: Tensor) -> tuple[int, float, float]:
    """Return the number of non-finite values, the largest magnitude and the RMS of the others."""
    bad, largest, squares = 0, 0.0, 0.0
    for chunk in torch.split(tensor.flatten(), CHUNK):
        numbers = chunk.float()
        finite = numbers.isfinite()
        if not finite.all():
            bad += int((~finite).sum())
            numbers = numbers[finite]
        if numbers.numel():
            largest = max(largest, numbers.abs().max().item())
            squares += numbers.square().sum(dtype=torch.float64).item()
    return bad, largest, math.sqrt(squares / max(tensor.numel() - bad, 1))


def _short(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")
