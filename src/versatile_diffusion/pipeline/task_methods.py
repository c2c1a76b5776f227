"""Task methods of the pipeline; each calls `generate` with the conditions of the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from PIL.Image import Image

from versatile_diffusion.choices import unknown
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.numeric import number
from versatile_diffusion.pipeline.options import TaskOptions
from versatile_diffusion.tasks import TASKS, Task

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.output import Output


class TaskMethods:
    """Methods named after tasks."""

    if TYPE_CHECKING:
        generate: Callable[..., Output]  # provided by the pipeline

        def can(self, flow: Flow) -> bool: ...

    def tasks(self) -> list[Task]:
        """Return the tasks this model supports: every flow of its data and context streams, and those of two
        contexts."""
        return [task for task in TASKS.values() if self.can(task.flow)]

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        *,
        prompt_embeds: Any = None,
        negative_prompt_embeds: Any = None,
        **options: Unpack[TaskOptions],
    ) -> Output:
        """Generate images from a prompt, an image or both: `text_to_image`, `image_variation` or `dual_guided`.

        Args:
            prompt: one or several.
            image: a condition, as in `image_variation`; an image to start from is `start=` with `strength=`.
            prompt_embeds, negative_prompt_embeds: context tokens instead of `prompt` and `negative_prompt`, as returned
                by `encode_prompt`.
            options: as in `generate`.

        Raises:
            ValueError: no input, or a prompt in two forms.
        """
        if prompt is not None and prompt_embeds is not None:
            raise ValueError("prompt and prompt_embeds are aliases; give one of them")
        if negative_prompt_embeds is not None and (prompt_embeds is None or options.get("negative_prompt") is not None):
            raise ValueError("negative_prompt_embeds goes with prompt_embeds, instead of negative_prompt")
        if image is not None and options.get("strength") is not None and options.get("start") is None:
            raise ValueError("strength belongs to an image to start from: start=...; image=... is a condition")
        text: Any = prompt
        if isinstance(text[0] if isinstance(text, list | tuple) and text else text, Image):
            raise ValueError("the first argument is the prompt; give images as image=...")
        if prompt_embeds is not None:
            text = Condition("text", tokens=prompt_embeds, negative=negative_prompt_embeds)
        if text is None and image is None:
            raise ValueError("give a prompt, an image or both; to generate text, call image_to_text or text_variation")
        if text is None:
            return self.image_variation(image, **options)
        return self.text_to_image(text, **options) if image is None else self.dual_guided(text, image, **options)

    def text_to_image(self, prompt: str | Sequence[str] | Condition, **options: Unpack[TaskOptions]) -> Output:
        """Generate images from a prompt.

        Args:
            prompt: a prompt, or a list: the output then has `num_outputs` images for each, next to each other.
                `text_to_image(["a", "b"])[1]` is the Output of the second, `.images[1]` its image.
            options: as in `generate`.
        """
        return self.run("text-to-image", prompt, **options)

    def image_variation(self, image: Any, *, mask: Any = None, **options: Unpack[TaskOptions]) -> Output:
        """Vary an image.

        Args:
            image: one or a list: PIL images, paths, arrays (H, W, C), tensors (C, H, W), or a batch of these.
            mask: white where the image is used; default: all of it.
            options: as in `generate`.
        """
        return self.run("image-variation", {"image": Condition("image", image, mask=mask)}, **options)

    def image_to_text(self, image: Any, *, mask: Any = None, **options: Unpack[TaskOptions]) -> Output:
        """Caption an image; `image`, `mask` and options as in `image_variation`."""
        return self.run("image-to-text", {"image": Condition("image", image, mask=mask)}, **options)

    def run(self, task: str | Task, values: Any, **options: Unpack[TaskOptions]) -> Output:
        """Run a task by name, e.g. `"text-to-image"`; every flow of the model has one (see `tasks`).

        Args:
            task: name, or the task.
            values: the value or `Condition` of each context, by modality; for a task with one context also the value
                itself. Lists are batches, as in `generate`.
            options: as in `generate`.

        Raises:
            ValueError: an unknown task, or values for other contexts.
        """
        if not isinstance(task, Task):
            if task not in TASKS:
                raise ValueError(unknown("task", task, [known.name for known in self.tasks()]))
            task = TASKS[task]
        contexts = task.flow.contexts
        given = values if isinstance(values, Mapping) else dict.fromkeys(contexts[:1], values)
        if set(given) != set(contexts):
            raise ValueError(f"{task.name} needs values of {', '.join(contexts)}; given: {', '.join(given)}")
        conditions = [given[m] if isinstance(given[m], Condition) else Condition(m, given[m]) for m in contexts]
        return self.generate(task.flow.data, conditions, **options)

    def text_variation(self, text: str | Sequence[str], **options: Unpack[TaskOptions]) -> Output:
        """Rephrase a text, or a list of texts; options as in `generate`."""
        return self.run("text-variation", text, **options)

    def dual_guided(
        self,
        prompt: str | Sequence[str] | Condition,
        image: Any,
        text_to_image_strength: float = 0.5,
        **options: Unpack[TaskOptions],
    ) -> Output:
        """Generate images from a prompt and an image.

        Args:
            prompt, image: as in `text_to_image` and `image_variation`.
            text_to_image_strength: weight of the prompt, 0 to 1; the image has the rest.
            options: as in `generate`.
        """
        share = number("text_to_image_strength", text_to_image_strength, most=1)
        text = prompt if isinstance(prompt, Condition) else Condition("text", prompt)
        given = {
            "text": replace(text, weight=share),
            "image": Condition("image", image, weight=1 - share),
        }
        return self.run("dual-guided", given, **options)
