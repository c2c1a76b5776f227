"""Replay of outputs from their settings, for tasks and applications."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from versatile_diffusion.applications import colours, disentangle, joint
from versatile_diffusion.choices import unknown
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.pipeline.replay import Resolve, item_of
from versatile_diffusion.pipeline.run import check_maker

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline

APPLICATIONS: Mapping[str, Callable[..., Output]] = {
    disentangle.RESTYLE: disentangle.restyle_again,
    joint.NAME: joint.again,
}
"""Replay functions by application name, `(pipe, settings, resolve)`."""


def replay(pipe: VersatileDiffusionPipeline, settings: Mapping[str, Any], resolve: Resolve | None = None) -> Output:
    """Reproduce the output of these settings; bit-identical with the same software on the same machine.

    Args:
        pipe: the model that generated it.
        settings: settings of an `Output`. Settings of one item (with an `index`) run the whole batch and return that
            item.
        resolve: see `VersatileDiffusionPipeline.replay`.

    Raises:
        ValueError: another model, or a missing or changed value.
    """
    check_maker(pipe, settings)
    plain = {name: value for name, value in settings.items() if name != colours.COLOURS}
    if "application" in plain:
        output = item_of(_application(plain["application"])(pipe, plain, resolve), plain)
    else:
        output = pipe.replay(plain, resolve)
    return colours.replay(output, settings, resolve) if colours.COLOURS in settings else output


def _application(record: Any) -> Callable[..., Output]:
    """Return the replay function of an application; ValueError if unknown."""
    name = record.get("name") if isinstance(record, Mapping) else record
    if name not in (names := list(APPLICATIONS)):
        raise ValueError(unknown("application", name, names))
    return APPLICATIONS[name]
