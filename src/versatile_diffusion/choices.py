"""Error messages for unknown names, with the closest match and the allowed ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from versatile_diffusion.printable import MOST_SHOWN, shown


def chosen(what: str, given: Any, allowed: Collection[str], rest: str = "") -> str:
    """Return the given name if it is allowed.

    Raises:
        ValueError: unknown, or not a string; see `unknown`.
    """
    if not isinstance(given, str) or given not in allowed:
        raise ValueError(unknown(what, given, allowed, rest))
    return given


def unknown(
    what: str, given: object, allowed: Iterable[str], rest: str = "", also: Mapping[str, str] | None = None
) -> str:
    """Return the error message for an unknown name.

    Args:
        what: kind of name, e.g. `scheduler`.
        given: the unknown name.
        allowed: all allowed names.
        rest: appended to the message.
        also: names used elsewhere, mapped to ours; only for the guess.
    """
    from difflib import get_close_matches

    names = list(allowed)
    small = dict(also or {}) | {name.lower(): name for name in names}
    wanted = given[:MOST_SHOWN].lower() if isinstance(given, str) else ""
    words = [name for name in small if wanted and wanted in name.split("_")]  # steps: num_inference_steps
    close = [wanted] if wanted in small else words or get_close_matches(wanted, small, n=1)
    meant = f"did you mean {shown(small[close[0]])}? " if close else ""
    return f"unknown {what} {shown(given)}; {meant}allowed: {', '.join(names) or 'none'}{rest}"
