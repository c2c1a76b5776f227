"""`versatile doctor`: check the installation."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from versatile_diffusion.cli.io.console import show, show_json, working
from versatile_diffusion.cli.io.mistakes import one_line
from versatile_diffusion.cli.options import Json
from versatile_diffusion.version import __version__

LEAST_PYTHON = (3, 11)
LITTLE_SPACE = 1_000_000_000  # bytes
GIGA = 1e9


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Args:
        part: section of the report.
        name: what was checked.
        value: what was found, as text.
        problem: what is wrong and how to fix it; empty if fine.
        needed: whether the program cannot work with this problem.
    """

    part: str
    name: str
    value: str
    problem: str = ""
    needed: bool = True


def doctor(json: Json = False) -> int:
    """Check versions, extras, devices, models and disk space; exit code 1 if anything required is broken."""
    with working("checking the installation"):
        findings = [*software(), *devices(), *models(), *disk()]
    broken = [finding for finding in findings if finding.problem and finding.needed]
    show_json(as_json(findings)) if json else show_findings(findings)
    return int(bool(broken))


def software() -> Iterator[Check]:
    """Check Python, our version, the requirements and the extras."""
    from versatile_diffusion.cli.io.extras import needs

    old = "" if sys.version_info >= LEAST_PYTHON else f"Python {'.'.join(map(str, LEAST_PYTHON))} or newer is needed"
    yield Check("versions", "python", platform.python_version(), old)
    yield Check("versions", "versatile-diffusion", __version__)
    extras: dict[str, list[str]] = {}
    for one in needs():
        wanted = f"{one.name}{one.wanted}"
        if one.extra:
            extras.setdefault(one.extra, []).extend([] if one.met else [wanted])
        else:
            problem = _does_not_import(one.name) if one.met else f"{wanted} is needed: pip install '{wanted}'"
            yield Check("versions", one.name, one.found or "missing", problem)
    for extra, unmet in extras.items():
        remedy = f"pip install 'versatile-diffusion[{extra}]' installs {', '.join(unmet)}" if unmet else ""
        yield Check("extras", extra, "missing" if unmet else "installed", remedy, needed=False)


def _does_not_import(name: str) -> str:
    """Return the error of importing an installed distribution; empty if it imports."""
    try:
        import_module(name.replace("-", "_") if name != "pillow" else "PIL")
    except Exception as error:
        return f"it cannot be imported ({one_line(error)}); reinstall it"
    return ""


def devices() -> Iterator[Check]:
    """List devices, and report a GPU that torch cannot use."""
    try:
        from versatile_diffusion.cli.io.model import devices as found
        from versatile_diffusion.pipeline.precision import suitable_dtype

        for name, what in found().items():
            dtype = str(suitable_dtype(name)).removeprefix("torch.")
            yield Check("devices", name, f"{what}, large models in {dtype}")
    except Exception as error:
        yield Check("devices", "cpu", "unknown", one_line(error))
        return
    import torch

    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        why = "NVIDIA driver found, but torch cannot use it; install a CUDA build of torch"
        yield Check("devices", "cuda", "unused", why, needed=False)


def models() -> Iterator[Check]:
    """Check the headers of installed models' files; list models in the hub cache."""
    from versatile_diffusion.shipped import OWN, damaged_models, find_model, not_installed, shipped_models

    shipped, cached = shipped_models(), cached_models()
    damaged = damaged_models()
    for name in damaged:
        yield Check("models", name, "damaged", "its distribution is installed, but files are missing; reinstall it")
    for name, folder in shipped.items():
        try:
            from versatile_diffusion.interop.verify import verify

            report = verify(Path(find_model(name)), numbers=False)
            problem = "" if report.ok else f"its files are damaged; `versatile verify {folder}` says how"
        except Exception as error:
            problem = f"it cannot be read ({one_line(error)})"
        yield Check("models", name, f"{_size(folder) / 1e6:.1f} MB in {folder}", problem)
    for name, folder in cached.items():
        yield Check("models", name, f"{_size(folder) / GIGA:.2f} GB in {folder}")
    for name in (name for name in OWN if name not in (*shipped, *damaged)):
        # The default model; with another model available, all commands still work.
        yield Check("models", name, "not installed", not_installed(name), needed=not shipped and not cached)


def cached_models() -> dict[str, Path]:
    """Return the folders of this library's models in the hub cache, by hub id."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from versatile_diffusion.pipeline.models import CLASS_NAME

    indexes = sorted(Path(HF_HUB_CACHE).glob("models--*/snapshots/*/model_index.json"))
    names = (CLASS_NAME, "VersatileDiffusion")
    told = {index: index.read_text(encoding="utf-8", errors="replace") for index in indexes}
    ours = (index for index, text in told.items() if any(name in text for name in names))
    return {index.parents[2].name.removeprefix("models--").replace("--", "/"): index.parent for index in ours}


def disk() -> Iterator[Check]:
    """Check free space for results and downloads."""
    from huggingface_hub.constants import HF_HUB_CACHE

    for name, folder in {"here": Path.cwd(), "hub cache": Path(HF_HUB_CACHE)}.items():
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(place).free
        problem = "" if free >= LITTLE_SPACE else f"low disk space; {LITTLE_SPACE / GIGA:.0f} GB should be free"
        yield Check("disk", name, f"{free / GIGA:.1f} GB free at {folder}", problem, needed=False)
    if not os.access(Path.cwd(), os.W_OK):
        yield Check("disk", "here", "read-only", "results go to ./out; give --out FOLDER", needed=False)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def as_json(findings: list[Check]) -> dict[str, Any]:
    """Plain JSON: values by section and name, and the problems."""
    parts: dict[str, Any] = {}
    for one in findings:
        parts.setdefault(one.part, {})[one.name] = one.value
    problems = [{"name": one.name, "problem": one.problem, "needed": one.needed} for one in findings if one.problem]
    return {**parts, "problems": problems}


def show_findings(findings: list[Check]) -> None:
    """Print the findings by section."""
    width = max(len(one.name) for one in findings)
    for part in dict.fromkeys(one.part for one in findings):
        show(part)
        for one in findings:
            if one.part == part:
                show(f"  {one.name:<{width}}  {one.value}")
        show("")
    problems = [one for one in findings if one.problem]
    for one in problems:
        show(f"{'broken' if one.needed else 'remark'}: {one.name}: {one.problem}")
    if not any(one.needed for one in problems):
        show("everything required is installed")
