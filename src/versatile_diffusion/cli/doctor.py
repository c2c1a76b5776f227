"""`versatile doctor`: whether all that is needed is here, and works."""

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

from versatile_diffusion.cli.console import show, show_json, working
from versatile_diffusion.cli.mistakes import one_line
from versatile_diffusion.cli.options import Json
from versatile_diffusion.version import __version__

LEAST_PYTHON = (3, 11)
LITTLE_SPACE = 1_000_000_000  # bytes
GIGA = 1e9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        part: of the report.
        name: of the thing.
        value: what there is, for people.
        problem: what is wrong, and what to do; empty where nothing is.
        needed: whether nothing works with that problem.
    """

    part: str
    name: str
    value: str
    problem: str = ""
    needed: bool = True


def doctor(json: Json = False) -> int:
    """Look at versions, extras, devices, models and disk space; exit code 1 if something that is needed is broken."""
    with working("looking around"):
        findings = [*software(), *devices(), *models(), *disk()]
    broken = [finding for finding in findings if finding.problem and finding.needed]
    show_json(as_json(findings)) if json else show_findings(findings)
    return int(bool(broken))


def software() -> Iterator[Finding]:
    """Python, our own version, what is needed, and the extras."""
    from versatile_diffusion.cli.extras import needs

    old = "" if sys.version_info >= LEAST_PYTHON else f"Python {'.'.join(map(str, LEAST_PYTHON))} or newer is needed"
    yield Finding("versions", "python", platform.python_version(), old)
    yield Finding("versions", "versatile-diffusion", __version__)
    extras: dict[str, list[str]] = {}
    for one in needs():
        wanted = f"{one.name}{one.wanted}"
        if one.extra:
            extras.setdefault(one.extra, []).extend([] if one.met else [wanted])
        else:
            problem = _does_not_import(one.name) if one.met else f"{wanted} is needed: pip install '{wanted}'"
            yield Finding("versions", one.name, one.found or "missing", problem)
    for extra, unmet in extras.items():
        remedy = f"pip install 'versatile-diffusion[{extra}]' brings {', '.join(unmet)}" if unmet else ""
        yield Finding("extras", extra, "missing" if unmet else "installed", remedy, needed=False)


def _does_not_import(name: str) -> str:
    """What happens where a distribution is there, and broken; empty where all is well."""
    try:
        import_module(name.replace("-", "_") if name != "pillow" else "PIL")
    except Exception as error:
        return f"it cannot be imported ({one_line(error)}); install it again"
    return ""


def devices() -> Iterator[Finding]:
    """What can compute. A GPU that torch does not see is worth a word."""
    try:
        from versatile_diffusion.cli.model import devices as found

        for name, what in found().items():
            yield Finding("devices", name, what)
    except Exception as error:
        yield Finding("devices", "cpu", "unknown", one_line(error))
        return
    import torch

    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        why = "there is an NVIDIA driver, but torch cannot use it; install a build of torch for CUDA"
        yield Finding("devices", "cuda", "unused", why, needed=False)


def models() -> Iterator[Finding]:
    """Models that are installed, each looked at by the headers of its files; and those in the hub's cache."""
    from versatile_diffusion.shipped import shipped_models

    shipped = shipped_models()
    if not shipped:
        yield Finding("models", "shipped", "none", "pip install ./models/emoji brings one", needed=False)
    for name, folder in shipped.items():
        try:
            from versatile_diffusion.interop.verify import verify

            report = verify(folder, numbers=False)
            problem = "" if report.ok else f"its files are damaged; `versatile verify {folder}` says how"
        except Exception as error:
            problem = f"it cannot be read ({one_line(error)})"
        yield Finding("models", name, f"{_size(folder) / 1e6:.1f} MB in {folder}", problem)
    for name, folder in cached_models().items():
        yield Finding("models", name, f"{_size(folder) / GIGA:.2f} GB in {folder}")


def cached_models() -> dict[str, Path]:
    """Folders of models of this kind in the cache of the hub, by hub id."""
    from huggingface_hub.constants import HF_HUB_CACHE

    indexes = sorted(Path(HF_HUB_CACHE).glob("models--*/snapshots/*/model_index.json"))
    ours = (index for index in indexes if "VersatileDiffusion" in index.read_text(encoding="utf-8", errors="replace"))
    return {index.parents[2].name.removeprefix("models--").replace("--", "/"): index.parent for index in ours}


def disk() -> Iterator[Finding]:
    """Space where results and downloads go."""
    from huggingface_hub.constants import HF_HUB_CACHE

    for name, folder in {"here": Path.cwd(), "hub cache": Path(HF_HUB_CACHE)}.items():
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(place).free
        problem = "" if free >= LITTLE_SPACE else f"there is little space; {LITTLE_SPACE / GIGA:.0f} GB should be free"
        yield Finding("disk", name, f"{free / GIGA:.1f} GB free at {folder}", problem, needed=False)
    if not os.access(Path.cwd(), os.W_OK):
        yield Finding("disk", "here", "read-only", "results go to ./out; give --out FOLDER", needed=False)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """Plain JSON: values by part and name, and the problems."""
    parts: dict[str, Any] = {}
    for one in findings:
        parts.setdefault(one.part, {})[one.name] = one.value
    problems = [{"name": one.name, "problem": one.problem, "needed": one.needed} for one in findings if one.problem]
    return {**parts, "problems": problems}


def show_findings(findings: list[Finding]) -> None:
    """For people."""
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
        show("all that is needed is here")
