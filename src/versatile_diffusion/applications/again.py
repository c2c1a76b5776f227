"""Outputs made again from their settings, whatever made them: a task, or an application over tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from versatile_diffusion.applications import disentangle, joint, variation
from versatile_diffusion.choices import unknown
from versatile_diffusion.sampling.output import Output
from versatile_diffusion.sampling.replay import Resolve, item_of
from versatile_diffusion.sampling.run import check_maker

if TYPE_CHECKING:
    from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline

APPLICATIONS: Mapping[str, Callable[..., Output]] = {
    disentangle.RESTYLE: disentangle.restyle_again,
    joint.NAME: joint.again,
}
"""By the name in the settings: makes all items again, `(pipe, settings, resolve)`."""


def replay(pipe: VersatileDiffusionPipeline, settings: Mapping[str, Any], resolve: Resolve | None = None) -> Output:
    """Makes again what settings describe; bit for bit with the same software on the same machine.

    Args:
        pipe: the model that made it.
        settings: of an `Output`. Those of one item (with an `index`) run its whole batch, and give that item alone.
        resolve: see `VersatileDiffusionPipeline.replay`.

    Raises:
        ValueError: this is another model, or a value is missing or no longer the same.
    """
    check_maker(pipe, settings)
    plain = {name: value for name, value in settings.items() if name != variation.COLOURS}
    if "application" in plain:
        output = item_of(_application(plain["application"])(pipe, plain, resolve), plain)
    else:
        output = pipe.replay(plain, resolve)
    return variation.matched_again(output, settings, resolve) if variation.COLOURS in settings else output


def _application(record: Any) -> Callable[..., Output]:
    """What makes an application's output again; ValueError if there is none of that name."""
    name = record.get("name") if isinstance(record, Mapping) else record
    if name not in (names := list(APPLICATIONS)):
        raise ValueError(unknown("application", name, names))
    return APPLICATIONS[name]
