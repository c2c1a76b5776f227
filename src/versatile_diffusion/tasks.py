"""The tasks: a flow with its defaults. A new task is one more row here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from versatile_diffusion.flow import Flow


@dataclass(frozen=True)
class Task:
    """A flow plus what the original uses for it.

    Args:
        name: as on the command line.
        flow: what is generated from what.
        null: per context modality, what stands for "no guidance" in classifier-free guidance: `"zeros"`, or
            the name of one of the modality's blanks (`"empty"` text, `"black"` or `"grey"` image).
        guidance_scale: default scale.
        help: one line for people.
    """

    name: str
    flow: Flow
    null: Mapping[str, str] = field(default_factory=dict, hash=False)
    guidance_scale: float = 7.5
    help: str = ""


NULLS: Mapping[str, Mapping[str, str]] = {"2023": {}, "2022": {"image": "grey"}}
"""Named choices of null contexts, by what differs from the tasks' own, which are those of the release of 2023: zeros or
a black picture, and the empty text. The release of 2022 had a mid-grey picture."""

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("text-to-image", Flow("image", ("text",)), {"text": "empty"}, help="Pictures from a text."),
        Task("image-variation", Flow("image", ("image",)), {"image": "zeros"}, help="Variations of a picture."),
        Task("image-to-text", Flow("text", ("image",)), {"image": "black"}, help="Captions for a picture."),
        Task("text-variation", Flow("text", ("text",)), {"text": "empty"}, help="Other words for a text."),
        Task(
            "dual-guided",
            Flow("image", ("text", "image")),
            {"text": "empty", "image": "zeros"},
            help="Pictures from a text and a picture together.",
        ),
    )
}
