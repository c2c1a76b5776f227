"""Names of samplers and their classes, for what must not import them."""

from __future__ import annotations

CLASSES = {
    "ddim": "OfficialDDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def scheduler_of_class(name: str) -> str | None:
    """The sampler whose class has a name; None if there is none."""
    return next((sampler for sampler, kind in CLASSES.items() if kind == name), None)
