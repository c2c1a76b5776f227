"""Named run settings for `versatile train OBJECTIVE --settings NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from versatile_diffusion.choices import unknown
from versatile_diffusion.recipes.emoji.settings import EMOJI
from versatile_diffusion.recipes.speech.settings import SPEECH
from versatile_diffusion.training.diffuser.own_data import own_data
from versatile_diffusion.training.engine.loop import Settings

SETTINGS: Mapping[str, Mapping[str, Settings]] = {
    objective: {**EMOJI.get(objective, {}), **SPEECH.get(objective, {})} for objective in (*EMOJI, *SPEECH)
}
"""Settings by objective and name."""

OWN_DATA = "own-data"
"""Objective for fine-tuning a whole model on other data; its settings are named after the model."""


def find_settings(objective: str, settings: str, options: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of an objective by name.

    Args:
        objective: a key of `SETTINGS`, or `OWN_DATA`.
        settings: a key below it; with `OWN_DATA` the model to start from.
        options: keywords of `own_data` with `OWN_DATA`.

    Raises:
        ValueError: an unknown objective or settings name.
    """
    if objective == OWN_DATA:
        return partial(own_data, settings, **(options or {}))
    if objective not in SETTINGS:
        raise ValueError(unknown("objective", objective, SETTINGS))
    if settings not in SETTINGS[objective]:
        raise ValueError(unknown(f"settings of {objective}", settings, SETTINGS[objective]))
    return SETTINGS[objective][settings]
