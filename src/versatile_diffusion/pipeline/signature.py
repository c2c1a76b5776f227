"""Methods of the pipeline that list every option at run time, for `inspect.signature`, notebooks and `help`; editors
and type checkers use the class in `options.py`, written by `scripts/option_types.py`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from inspect import Parameter
from typing import Any, TypeVar, get_args, get_type_hints

from versatile_diffusion.controls import REQUEST, Controls, of_flow
from versatile_diffusion.flow import Flow

Method = TypeVar("Method", bound=Callable[..., Any])


def kinds() -> dict[str, Any]:
    """Return the type of every request option, by name."""
    hints = get_type_hints(Controls, include_extras=True)
    return {name: get_args(hints[name])[0] for name in REQUEST}


def type_name(kind: Any) -> str:
    """A type as one writes it."""
    plain = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return re.sub(r"(collections\.abc|typing)\.", "", plain)


def lists_options(flow: Flow | None = None, also: Callable[..., Any] | None = None) -> Callable[[Method], Method]:
    """Replace `**options` in a signature by the options of a flow (of all if None) and keywords of another method."""

    def decorate(method: Method) -> Method:
        signature = inspect.signature(method)
        own = [p for p in signature.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        names = {p.name for p in own}
        more = [p for p in _keywords(also) if p.name not in names]
        known = kinds()
        options = [
            Parameter(c.name, Parameter.KEYWORD_ONLY, default=c.default, annotation=type_name(known[c.name]))
            for c in of_flow(flow, REQUEST)
            if c.name not in names
        ]
        method.__signature__ = signature.replace(parameters=[*own, *more, *options])  # type: ignore[attr-defined]
        method.__doc__ = f"{inspect.getdoc(method)}\n\nOptions:\n{_describe(flow)}\n"
        return method

    return decorate


def _describe(flow: Flow | None) -> str:
    """The options of a flow, a line each."""
    usual = {control.name: "" if control.default is None else f" ({control.default})" for control in REQUEST.values()}
    return "\n".join(f"    {c.name}{usual[c.name]}: {c.help}" for c in of_flow(flow, REQUEST) if not c.hidden)


def _keywords(method: Callable[..., Any] | None) -> Iterator[Parameter]:
    if method is not None:
        parameters = inspect.signature(inspect.unwrap(method), follow_wrapped=False).parameters.values()
        yield from (p for p in parameters if p.kind is Parameter.KEYWORD_ONLY and p.name not in REQUEST)
