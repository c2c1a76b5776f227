"""What to say of a name that there is none of: what was probably meant, and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable


def unknown(what: str, given: object, allowed: Iterable[str], rest: str = "") -> str:
    """A message for a ValueError.

    Args:
        what: kind of thing, such as `scheduler`.
        given: the name that there is none of.
        allowed: all names that there are.
        rest: said after them.
    """
    from difflib import get_close_matches

    names = list(allowed)
    small = {name.lower(): name for name in names}
    close = get_close_matches(str(given).lower(), small, n=1)
    meant = f"did you mean {small[close[0]]!r}? " if close else ""
    return f"unknown {what} {given!r}; {meant}allowed: {', '.join(names) or 'none'}{rest}"
