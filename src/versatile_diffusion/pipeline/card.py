"""The page of a model on the Hugging Face hub: metadata that the hub reads, and what people should know."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

from versatile_diffusion.diffuser.groups import parameter_counts
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.sampling.schedulers import scheduler_name
from versatile_diffusion.tasks import NAMED, Task

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline

LIBRARY = "versatile-diffusion"
HUB_TASKS: Mapping[str, str] = {
    "text-to-image": "text-to-image",
    "image-to-text": "image-to-text",
    "image-variation": "image-to-image",
    "dual-guided": "image-text-to-image",
}
"""What the hub calls a task; it has no name for others."""
IMAGES = "images"
"""Folder of the images on the page."""


@dataclass(frozen=True)
class About:
    """What a model does not know of itself.

    Args:
        license: id of its licence on the hub, such as `apache-2.0`.
        base_model: hub id of what it was trained from.
        datasets: hub ids of what it was trained on.
        language: of its prompts, such as `en`.
        prompts: that the page shows, and offers to try.
        text: what people should know, in place of the text that is written here.
    """

    license: str | None = None
    base_model: str | None = None
    datasets: Sequence[str] = ()
    language: str | None = None
    prompts: Sequence[str] = ()
    text: str | None = None


def file_of(prompt: str) -> str:
    """Name of the image of a prompt, in the folder of the model."""
    return f"{IMAGES}/{'-'.join(re.findall(r'[a-z0-9]+', prompt.lower()))[:60] or 'image'}.png"


def card_of(pipe: VersatileDiffusionPipeline, repo_id: str, about: About, drawn: bool) -> ModelCard:
    """The page of a model.

    Args:
        pipe: the model.
        repo_id: hub id that it will have.
        about: what else is known.
        drawn: whether there are images of the prompts.
    """
    text = _text(pipe, repo_id, about, drawn) if about.text is None else about.text
    return ModelCard(f"---\n{_metadata(pipe, about, drawn).to_yaml()}\n---\n\n{text.strip()}\n")


def _metadata(pipe: VersatileDiffusionPipeline, about: About, drawn: bool) -> ModelCardData:
    on_hub = [HUB_TASKS[task.name] for task in pipe.tasks() if task.name in HUB_TASKS]
    images: list[dict[str, Any]] = [{"output": {"url": file_of(prompt)}} if drawn else {} for prompt in about.prompts]
    widget = [dict(text=prompt, **image) for prompt, image in zip(about.prompts, images, strict=True)]
    more: Any = {"widget": widget} if widget else {}
    return ModelCardData(
        library_name=LIBRARY,
        license=about.license,
        base_model=about.base_model,
        datasets=list(about.datasets) or None,
        language=about.language,
        pipeline_tag=next(iter(on_hub), None),
        tags=[LIBRARY, "diffusion", "multimodal", *on_hub[1:]],
        **more,
    )


def _text(pipe: VersatileDiffusionPipeline, repo_id: str, about: About, drawn: bool) -> str:
    groups = parameter_counts(pipe.unet)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in pipe.bank.parts.items()}
    rows = [(f"diffuser, {name}", count) for name, count in groups.items()] + list(parts.items())
    tasks = "\n".join(f"| {task.name} | {', '.join(task.flow.contexts)} | {task.flow.data} |" for task in pipe.tasks())
    images = "\n".join(f"![{prompt}]({file_of(prompt)})" for prompt in about.prompts) if drawn else ""
    styles = f"Styles: {', '.join(pipe.config.styles)}." if pipe.config.styles else ""
    facts = [
        f"Scheduler: {scheduler_name(pipe.scheduler) or type(pipe.scheduler).__name__}. {styles}".strip(),
        f"Fingerprint of the weights: `{pipe.fingerprint()}`.",
    ]
    return f"""# {repo_id.rpartition("/")[2]}

A [Versatile Diffusion](https://arxiv.org/abs/2211.08332) model: one diffusion network with interchangeable streams for
every modality that it generates and every modality that conditions it.

{images}

| task | from | to |
|---|---|---|
{tasks}

```
pip install {LIBRARY}
```

{usage(pipe.tasks(), repo_id)}
The weights are safetensors; nothing in this repository is executed (`trust_remote_code` is not needed).

| parameters | |
|---|---:|
{chr(10).join(f"| {name} | {count:,} |" for name, count in rows)}

{chr(10).join(facts)}
"""


def usage(tasks: Sequence[Task], repo_id: str) -> str:
    """How each named task is called, as a block of Python."""
    named = [task for task in tasks if task.name in NAMED]
    lines = [
        f"pipe.{task.name.replace('-', '_')}({', '.join(map(_example, task.flow.contexts))})"
        f".{MODALITIES[task.flow.data].plural}[0]"
        for task in named
    ]
    return "\n".join(
        [
            "```python",
            "from versatile_diffusion import VersatileDiffusionPipeline",
            "",
            f'pipe = VersatileDiffusionPipeline.from_pretrained("{repo_id}")',
            *lines,
            "```",
            "",
        ]
    )


def _example(modality: str) -> str:
    """An example of a value, as Python."""
    example = MODALITIES[modality].example
    return example if example.startswith('"') else f'"{example}"'
