"""Dependencies of the installed distribution and of its extras."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

DISTRIBUTION = "versatile-diffusion"
META = ("all", "dev")
"""Extras that combine others, or serve development."""


@dataclass(frozen=True)
class Need:
    """A required distribution: always (`extra` is empty) or by an extra.

    Args:
        name: of the distribution.
        wanted: version specifier, e.g. `>=2.11`.
        extra: the extra that requires it.
        found: the installed version; None if not installed.
        met: whether the installed version satisfies `wanted`.
    """

    name: str
    wanted: str
    extra: str
    found: str | None
    met: bool


def needs() -> Iterator[Need]:
    """Yield all requirements in the distribution's metadata."""
    from packaging.requirements import Requirement

    for line in requires(DISTRIBUTION) or ():
        one = Requirement(line)
        extra = str(one.marker).partition("extra == ")[2].strip("\"'") if one.marker else ""
        if one.name != DISTRIBUTION and extra not in META:
            found = _version(one.name)
            met = found is not None and one.specifier.contains(found, prereleases=True)
            yield Need(one.name, str(one.specifier), extra, found, met)


def extra_of(module: str) -> str | None:
    """Return the extra that installs a module; None if there is none."""
    wanted = module.partition(".")[0].lower()
    return next((one.extra for one in needs() if one.extra and one.name.lower().replace("-", "_") == wanted), None)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
