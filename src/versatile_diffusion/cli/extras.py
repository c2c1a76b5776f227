"""What the installed distribution needs, and what each of its extras brings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

DISTRIBUTION = "versatile-diffusion"
META = ("all", "dev")
"""Extras that are made of others, or for working on the code."""


@dataclass(frozen=True)
class Need:
    """A distribution that is needed: always (`extra` is empty) or by an extra.

    Args:
        name: of the distribution.
        wanted: versions that will do, such as `>=2.11`.
        extra: that needs it.
        found: the version that is installed; None where there is none.
        met: whether that one will do.
    """

    name: str
    wanted: str
    extra: str
    found: str | None
    met: bool


def needs() -> Iterator[Need]:
    """All of them, as the metadata of the distribution names them."""
    from packaging.requirements import Requirement

    for line in requires(DISTRIBUTION) or ():
        one = Requirement(line)
        extra = str(one.marker).partition("extra == ")[2].strip("\"'") if one.marker else ""
        if one.name != DISTRIBUTION and extra not in META:
            found = _version(one.name)
            met = found is not None and one.specifier.contains(found, prereleases=True)
            yield Need(one.name, str(one.specifier), extra, found, met)


def extra_of(module: str) -> str | None:
    """The extra that brings a module; None if none does."""
    wanted = module.partition(".")[0].lower()
    return next((one.extra for one in needs() if one.extra and one.name.lower().replace("-", "_") == wanted), None)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
