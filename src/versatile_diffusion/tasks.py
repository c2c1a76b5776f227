"""Task table: flows with defaults. Five tasks are named; every other flow with one context is a task, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field

from versatile_diffusion.flow import Flow
from versatile_diffusion.modalities import MODALITIES


@dataclass(frozen=True)
class Task:
    """A flow with the defaults of the original.

    Args:
        name: name on the command line.
        flow: its flow.
        null: null context of classifier-free guidance per context modality: `"zeros"`, or a blank of the modality
            (`"empty"` text, `"black"` or `"grey"` image).
        guidance_scale: default scale.
        help: one line for users.
    """

    name: str
    flow: Flow
    null: Mapping[str, str] = field(default_factory=dict, hash=False)
    guidance_scale: float = 7.5
    help: str = ""


NULLS: Mapping[str, Mapping[str, str]] = {"2023": {}, "2022": {"image": "grey"}}
"""Named sets of null contexts, as differences from the tasks' own, which are those of the 2023 release: zeros or a
black image, and the empty text. The 2022 release used a mid-grey image."""

NAMED: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("text-to-image", Flow("image", ("text",)), {"text": "empty"}, help="Generate images from a prompt."),
        Task("image-variation", Flow("image", ("image",)), {"image": "zeros"}, help="Generate variations of an image."),
        Task("image-to-text", Flow("text", ("image",)), {"image": "black"}, help="Generate captions for an image."),
        Task("text-variation", Flow("text", ("text",)), {"text": "empty"}, help="Rephrase a text."),
        Task(
            "dual-guided",
            Flow("image", ("text", "image")),
            {"text": "empty", "image": "zeros"},
            help="Generate images from a prompt and an image.",
        ),
    )
}
"""The paper's tasks, with command-line names and defaults."""


def name_of(flow: Flow) -> str:
    """Return the name of a flow with one context."""
    (context,) = flow.contexts
    return f"{context}-variation" if context == flow.data else f"{context}-to-{flow.data}"


def derived_task(flow: Flow) -> Task:
    """Return the task of a flow with one context that is not named, with the modality's null context."""
    (context,) = flow.contexts
    made, given = MODALITIES[flow.data], MODALITIES[context]
    help = f"Generate {given.noun} variations." if made is given else f"Generate {made.plural} from {given.plural}."
    return Task(name_of(flow), flow, {context: given.null}, help=help)


class TaskTable(MutableMapping[str, Task]):
    """All tasks by name: the named ones, then one for each other pair of modalities (paper section 3.2: with data
    streams D and context streams C a model has every flow of D x C). Tasks with several contexts can be added."""

    def __init__(self, named: Mapping[str, Task]):
        self._named = dict(named)

    def _flows(self) -> Iterator[Flow]:
        named = [task.flow for task in self._named.values()]
        flows = (
            Flow(data, (context,))
            for data, made in MODALITIES.items()
            for context, given in MODALITIES.items()
            if made.data_stream is not None and given.context_stream is not None
        )
        return (flow for flow in flows if flow not in named)

    def __getitem__(self, name: str) -> Task:
        if name in self._named:
            return self._named[name]
        for flow in self._flows():
            if name_of(flow) == name:
                return derived_task(flow)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter([*self._named, *map(name_of, self._flows())])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __setitem__(self, name: str, task: Task) -> None:
        self._named[name] = task

    def __delitem__(self, name: str) -> None:
        del self._named[name]

    def of(self, flow: Flow) -> Task | None:
        """Return the task of a flow, in any order of contexts; None for several contexts without a named task."""
        for task in self._named.values():
            if task.flow.data == flow.data and set(task.flow.contexts) == set(flow.contexts):
                return task
        known = {flow.data, *flow.contexts} <= set(MODALITIES)
        return derived_task(flow) if known and len(flow.contexts) == 1 else None


TASKS = TaskTable(NAMED)
task_of = TASKS.of
