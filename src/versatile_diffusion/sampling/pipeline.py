"""The pipeline: every task of a model through one method, `generate`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.sampling import seeds
from versatile_diffusion.sampling.denoise import StepState
from versatile_diffusion.sampling.models import find_model, register_classes
from versatile_diffusion.sampling.output import OUTPUT_TYPES, Output, converted, fingerprint
from versatile_diffusion.sampling.replay import arguments_of
from versatile_diffusion.sampling.request import Request, task_of
from versatile_diffusion.sampling.run import Run, begin, prepare
from versatile_diffusion.sampling.schedulers import SCHEDULERS
from versatile_diffusion.tasks import TASKS, Task
from versatile_diffusion.version import __version__

register_classes()

StepCallback = Callable[["VersatileDiffusionPipeline", int, int, dict[str, Tensor]], "dict[str, Tensor] | None"]


class VersatileDiffusionPipeline(DiffusionPipeline):
    """Versatile Diffusion: every flow of a model.

    Args:
        unet: the diffuser.
        bank: its codecs and context encoders.
        scheduler: of the noise schedule that the diffuser was trained with.
        styles: style id to the phrase that `style=` adds to a text.
        defaults: per task, arguments of `generate` that suit this model where the user says nothing.
    """

    model_cpu_offload_seq = "bank->unet"

    def __init__(
        self,
        unet: MultiFlowUNet,
        bank: ModalityBank,
        scheduler: SchedulerMixin,
        styles: dict[str, str] | None = None,
        defaults: dict[str, dict[str, Any]] | None = None,
    ):
        super().__init__()
        self.register_modules(unet=unet, bank=bank, scheduler=scheduler)
        self.register_to_config(styles=dict(styles or {}), defaults=dict(defaults or {}))
        self.model_name = type(self).__name__

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, name: str | PathLike[str], dtype: torch.dtype = torch.float32, **options: Any
    ) -> VersatileDiffusionPipeline:
        """Loads a model.

        Args:
            name: of a shipped model (`"emoji"`), or a folder written by `save_pretrained`, or a hub id.
            dtype: of the weights in memory, whatever they are stored in.
            options: of diffusers' `from_pretrained`.

        Raises:
            ValueError: there is no such model.
        """
        pipe = super().from_pretrained(find_model(name), dtype=dtype, **options)
        pipe.model_name = Path(name).name
        return pipe

    @classmethod
    def from_official(
        cls, path: str | PathLike[str], dtype: torch.dtype = torch.float32, **options: Any
    ) -> VersatileDiffusionPipeline:
        """Loads published weights: a folder with the published files, or the diffuser's checkpoint in it.

        Args:
            path: see `versatile_diffusion.interop.official_files.load_official`.
            dtype: of the weights in memory.
            options: of `load_official`, such as which `parts` to load.
        """
        from versatile_diffusion.interop.official_files import load_official

        pipe = cls(**load_official(path, dtype=dtype, **options), scheduler=SCHEDULERS["ddim"]())
        pipe.model_name = Path(path).name
        return pipe

    def can(self, flow: Flow) -> bool:
        """Whether this model has the streams, codec and context encoders of a flow."""
        able = flow.data in self.unet.data and flow.data in self.bank.codecs
        return able and all(c in self.unet.context and c in self.bank.encoders for c in flow.contexts)

    def tasks(self) -> list[Task]:
        """The tasks that this model can do."""
        return [task for task in TASKS.values() if self.can(task.flow)]

    def text_to_image(self, prompt: str | Sequence[str], **options: Any) -> Output:
        """Pictures from a text (or one of several texts each); options as in `generate`."""
        return self.generate("image", [Condition("text", prompt)], **options)

    def image_variation(self, image: Any, *, mask: Any = None, **options: Any) -> Output:
        """Variations of a picture; with a mask, of the part that is white in it. Options as in `generate`."""
        return self.generate("image", [Condition("image", image, mask=mask)], **options)

    def image_to_text(self, image: Any, *, mask: Any = None, **options: Any) -> Output:
        """Captions for a picture; options as in `generate`."""
        return self.generate("text", [Condition("image", image, mask=mask)], **options)

    def text_variation(self, text: str | Sequence[str], **options: Any) -> Output:
        """Other words for a text; options as in `generate`."""
        return self.generate("text", [Condition("text", text)], **options)

    def dual_guided(
        self, prompt: str | Sequence[str], image: Any, text_to_image_strength: float = 0.5, **options: Any
    ) -> Output:
        """Pictures from a text and a picture; `text_to_image_strength` (0..1) is the share of the text."""
        if not 0 <= text_to_image_strength <= 1:
            raise ValueError(f"text_to_image_strength is {text_to_image_strength}; it must be from 0 to 1")
        text = Condition("text", prompt, weight=text_to_image_strength)
        return self.generate("image", [text, Condition("image", image, weight=1 - text_to_image_strength)], **options)

    @torch.no_grad()
    def generate(
        self,
        data: str,
        conditions: Sequence[Condition],
        *,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
        **options: Any,
    ) -> Output:
        """Generates `data` from conditions: what every other method does.

        Args:
            data: the modality to generate.
            conditions: what guides.
            seed: item k of the batch has seed `seed + k` (or the k-th of a list), and is what that seed alone gives.
                Drawn afresh if left out.
            generator: in place of a seed: one that the items' seeds are drawn from, or one per item.
            latents: the noise (B, ...) to begin from, in place of drawing it.
            output_type: of pictures: `"pil"`, `"np"` or `"pt"` (in [0, 1]), or `"latent"` for no decoding at all.
            callback_on_step_end: `(pipeline, step, timestep, {"latents", "pred_x0"})` after each step; latents that it
                returns take the place of the current ones. It ends the run early by `pipeline._interrupt = True`; the
                result is then the estimate so far.
            options: the other fields of `Request`, such as `num_inference_steps`, `guidance_scale`, `mixing`,
                `scheduler`, `style` and `num_outputs` (also as `num_images_per_prompt`).

        Raises:
            ValueError: what is asked is not possible, found before any heavy work.
        """
        if output_type not in (*OUTPUT_TYPES, "latent"):
            raise ValueError(f"unknown output_type {output_type!r}; allowed: {', '.join((*OUTPUT_TYPES, 'latent'))}")
        run = prepare(self, self._request(data, conditions, options), seed, generator, latents)
        sources = seeds.generators(run.seeds)
        final = self._consume(*begin(self, run, sources), run.total, callback_on_step_end)
        values: Any = final
        if output_type != "latent":
            decoded = self.bank.codecs[data].decode(final, sources, **run.request.decoding)
            values = converted(decoded, output_type)
        return Output(data, values, final, self._settings(run), run.prompts)

    def replay(self, settings: dict[str, Any], resolve: Callable[[dict[str, Any]], Any] | None = None) -> Output:
        """Makes again what `Output.settings` describe; bit for bit with the same software on the same machine.

        Settings of one item (those with an `index`) run its whole batch and give that item alone, since a batch of
        another size may round differently.

        Args:
            settings: of an Output.
            resolve: finds the value of a record that holds no text (a dict with its `sha256`); by default the file that
                the record names is read.

        Raises:
            ValueError: this is another model, or a value is missing or no longer the same.
        """
        if (made_by := settings["model"]["fingerprint"]) != fingerprint(self.unet, self.bank):
            raise ValueError(
                f"made by model {settings['model']['name']!r} ({made_by}); the one loaded has other weights"
            )
        output = self.generate(**arguments_of(settings, resolve))
        return output[settings["index"]] if "index" in settings else output

    def _request(self, data: str, conditions: Sequence[Condition], options: dict[str, Any]) -> Request:
        """The request with this model's defaults for the task filled in."""
        if "num_images_per_prompt" in options:  # diffusers' name
            options = {**options, "num_outputs": options["num_images_per_prompt"]}
            del options["num_images_per_prompt"]
        task = task_of(Flow(data, tuple(condition.modality for condition in conditions)))
        usual = {"guidance_scale": task.guidance_scale} | self.config.defaults.get(task.name, {}) if task else {}
        given = {name: value for name, value in options.items() if value is not None}
        return Request(data, tuple(conditions), **{**usual, **given})

    def _consume(
        self,
        latent: Tensor,
        states: Generator[StepState, Tensor | None, None],
        total: int,
        callback: StepCallback | None,
    ) -> Tensor:
        """Runs all steps with a progress bar; the final latents."""
        self._interrupt, sent = False, None
        with self.progress_bar(total=total) as bar:
            while not self._interrupt:
                try:
                    state = states.send(sent)
                except StopIteration:
                    break
                bar.update()
                if callback is not None:
                    sent = (callback(self, state.index, state.timestep, _tensors(state)) or {}).get("latents")
                latent = state.latent if sent is None else sent
                latent = state.pred_x0 if self._interrupt else latent
        return latent

    def _settings(self, run: Run) -> dict[str, Any]:
        """All that is needed to make the output again, plain JSON."""
        return {
            "library": f"versatile-diffusion {__version__}",
            "model": {"name": self.model_name, "fingerprint": fingerprint(self.unet, self.bank)},
            **run.record(),
        }


def _tensors(state: StepState) -> dict[str, Tensor]:
    return {"latents": state.latent, "pred_x0": state.pred_x0}
