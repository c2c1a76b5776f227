"""The pipeline: every task of a model through one method, `generate`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.sampling import seeds
from versatile_diffusion.sampling.conditions import GivenCondition
from versatile_diffusion.sampling.denoise import StepState
from versatile_diffusion.sampling.embeddings import Embeddings, injected, latent_modality, read_values, start_latents
from versatile_diffusion.sampling.models import READ_AT_ONCE, fetched, find_model, is_ours, register_classes, size_of
from versatile_diffusion.sampling.names import own_names
from versatile_diffusion.sampling.output import OUTPUT_TYPES, Output, converted
from versatile_diffusion.sampling.replay import arguments_of, item_of
from versatile_diffusion.sampling.request import Request, task_of
from versatile_diffusion.sampling.run import begin, check_maker, finish, prepare
from versatile_diffusion.sampling.schedulers import SCHEDULERS
from versatile_diffusion.tasks import TASKS, Task

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
        cls,
        name: str | PathLike[str],
        dtype: torch.dtype = torch.float32,
        *,
        on_use: bool | None = None,
        **options: Any,
    ) -> VersatileDiffusionPipeline:
        """Loads a model in any layout that `versatile_diffusion.interop.layouts.recognise` knows.

        Args:
            name: of a shipped model (`"emoji"`), or a folder or a checkpoint, or a hub id.
            dtype: of the weights in memory, whatever they are stored in.
            on_use: leave weights in their files until a task needs them; if left out, for folders above a gigabyte.
            options: of diffusers' `from_pretrained`; for other layouts than ours, of `load_official`. Those of the hub
                (`revision`, `cache_dir`, `token`, ...) for a hub id.

        Raises:
            ValueError: there is no such model.
        """
        folder = fetched(find_model(name), options)
        if not is_ours(folder):
            return cls.from_official(folder, dtype, **({} if on_use is None else {"on_use": on_use}), **options)
        if on_use or (on_use is None and size_of(folder) > READ_AT_ONCE):
            from versatile_diffusion.interop.tensors import open_tensors

            for part, kind in (("unet", MultiFlowUNet), ("bank", ModalityBank)):
                if part not in options:
                    options[part] = kind.from_pretrained(Path(folder, part), dtype=dtype, on_use=open_tensors)
        pipe = super().from_pretrained(folder, dtype=dtype, **options)
        pipe.model_name = Path(name).name
        return pipe

    @classmethod
    def from_official(
        cls, path: str | PathLike[str], dtype: torch.dtype = torch.float32, *, on_use: bool = True, **options: Any
    ) -> VersatileDiffusionPipeline:
        """Loads published weights in any layout: a checkpoint with what lies beside it, or a folder.

        Args:
            path: see `versatile_diffusion.interop.layouts.recognise`.
            dtype: of the weights in memory.
            on_use: whether weights stay in their files until a task needs them.
            options: of `load_official`, such as the `tasks` that are wanted, if not all.
        """
        from versatile_diffusion.interop.official_files import load_official

        if is_ours(path):
            return cls.from_pretrained(path, dtype, on_use=on_use, **options)
        pipe = cls(**load_official(path, dtype=dtype, on_use=on_use, **options), scheduler=SCHEDULERS["ddim"]())
        pipe.model_name = Path(path).name
        return pipe

    def load_now(self) -> VersatileDiffusionPipeline:
        """Reads all weights that are still in their files; for training, quantising or compiling the model."""
        for part in (self.unet, *self.bank.parts.values()):
            part.load_now()
        return self

    def enable_sequential_cpu_offload(self, *args: Any, **options: Any) -> None:
        """See diffusers; it has its own way of leaving weights aside, and needs them all."""
        self.load_now()
        super().enable_sequential_cpu_offload(*args, **options)

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
            conditions: what guides. In place of a raw value each takes context tokens (L, D) or (B, L, D), or
                `Embeddings`: tokens or latents that this model made.
            seed: item k of the batch has seed `seed + k` (or the k-th of a list), and is what that seed alone gives.
                Drawn afresh if left out.
            generator: in place of a seed: one that the items' seeds are drawn from, or one per item.
            latents: the noise (B, ...) to begin from, in place of drawing it.
            output_type: of pictures: `"pil"`, `"np"` or `"pt"` (in [0, 1]). Of everything: `"latent"` for no decoding
                at all, or `"context"` for the context tokens (B, L, D) of what was generated. Also as `output`.
            callback_on_step_end: `(pipeline, step, timestep, {"latents", "pred_x0"})` after each step; latents that it
                returns take the place of the current ones. It ends the run early by `pipeline._interrupt = True`; the
                result is then the estimate so far.
            options: the other fields of `Request`, such as `num_inference_steps`, `guidance_scale`, `mixing`,
                `scheduler`, `style` and `num_outputs` (also as `num_images_per_prompt`). What to begin from is `start`
                with `fidelity`, or as image-to-image pipelines say `init_latent` with `strength` (1 - fidelity).

        Raises:
            ValueError: what is asked is not possible, found before any heavy work.
        """
        options = own_names(options)
        output_type = options.pop("output_type", output_type)
        if output_type not in (allowed := (*OUTPUT_TYPES, "latent", "context")):
            raise ValueError(f"unknown output_type {output_type!r}; allowed: {', '.join(allowed)}")
        if output_type == "context" and data not in self.bank.encoders:
            raise ValueError(f"this model has no context encoder for {data!r}, so there are no tokens of it")
        run = prepare(self, self.request(data, conditions, options), seed, generator, latents)
        sources = seeds.generators(run.candidates)
        latent, states, guidance = begin(self, run, sources)
        final = self._consume(latent, states, run.total, callback_on_step_end)
        output = finish(self, run, final, sources, guidance, output_type)
        self.maybe_free_model_hooks()
        return output

    @torch.no_grad()
    def encode_context(self, value: Any, modality: str | None = None, *, mask: Any = None) -> Float[Tensor, "*b l d"]:
        """Context tokens: (L, D) of one value, (B, L, D) of a list of values.

        Args:
            value: a raw value (a picture, a path, an array, a text), or a list of values of one modality.
            modality: of it; found by what the value is where left out.
            mask: which part of it counts, as in `Condition`; a list for a list.

        Raises:
            ValueError: the value can be read as no modality, or as several; or the model has no encoder for it.
        """
        modality, raw = read_values(value, modality, list(self.bank.encoders))
        checked = GivenCondition.check(Condition(modality, raw, mask=mask))
        tokens = self.bank.encoders[modality].encode(raw, checked.masks).contiguous()
        return tokens if isinstance(value, list | tuple) else tokens[0]

    @torch.no_grad()
    def encode_latent(
        self, value: Any, modality: str | None = None, *, seed: int | Sequence[int] | None = None
    ) -> Float[Tensor, "..."]:
        """Latents: (...) of one value, (B, ...) of a list of values, as `decode_latent` and `init_latent` take them.

        Args:
            value, modality: as in `encode_context`.
            seed: samples the codec's posterior, item k of a list with `seed + k`; its mean is taken without.
        """
        modality, raw = read_values(value, modality, list(self.bank.codecs))
        sources = None if seed is None else seeds.generators(seeds.item_seeds(len(raw), seed))
        latents = self.bank.codecs[modality].encode(raw, sources).contiguous()
        return latents if isinstance(value, list | tuple) else latents[0]

    @torch.no_grad()
    def decode_latent(
        self,
        latent: Float[Tensor, "..."] | Embeddings,
        modality: str | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        output_type: str = "pil",
        **decoding: Any,
    ) -> Any:
        """The raw value of one latent (...), or a list of values of latents (B, ...).

        Args:
            latent: at the codec's scale, as `encode_latent` and generation with `output="latent"` give it.
            modality: of it; found by the number of its axes where left out.
            seed: samples texts, item k with `seed + k`; the likeliest tokens are taken without.
            output_type: of pictures: `"pil"`, `"np"` or `"pt"`.
            decoding: `temperature`, `top_k`, `top_p` of texts.

        Raises:
            ValueError: the latent has another shape, or belongs to another codec.
        """
        if isinstance(latent, Embeddings):
            given, modality = start_latents(self, latent.modality, latent), latent.modality
        else:
            given = latent
        modality = modality or latent_modality(self.bank, given)
        codec = self.bank.codecs[modality]
        axes = len(codec.latent_shape())
        if given.ndim not in (axes, axes + 1):
            raise ValueError(f"{modality} latents have {axes} axes, or one more for a batch; not {tuple(given.shape)}")
        batch = given if given.ndim > axes else given[None]
        sources = None if seed is None else seeds.generators(seeds.item_seeds(len(batch), seed))
        values = converted(codec.decode(batch, sources, **decoding), output_type)
        return values if given.ndim > axes else values[0]

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
        check_maker(self, settings)
        if "application" in settings or "match_colours" in settings:
            raise ValueError("made by an application; versatile_diffusion.applications.again.replay makes it again")
        return item_of(self.generate(**arguments_of(settings, resolve)), settings)

    def request(self, data: str, conditions: Sequence[Condition], options: dict[str, Any]) -> Request:
        """What `generate` is asked for, with this model's defaults for the task filled in."""
        conditions = tuple(injected(self, condition) for condition in conditions)
        options = {**options, "start": start_latents(self, data, options.get("start"))}
        usual = self._usual(Flow(data, tuple(condition.modality for condition in conditions)))
        given = {name: value for name, value in options.items() if value is not None}
        return Request(data, conditions, **{**usual, **given})

    def _usual(self, flow: Flow) -> dict[str, Any]:
        """This model's defaults for the task of a flow; where there is none, of those tasks that have one of its
        contexts, the one that guides least."""
        flows = [flow] if task_of(flow) else [Flow(flow.data, (context,)) for context in flow.contexts]
        tasks = [task for one in flows if (task := task_of(one))]
        usual = [{"guidance_scale": task.guidance_scale} | self.config.defaults.get(task.name, {}) for task in tasks]
        return min(usual, key=lambda options: options["guidance_scale"], default={})

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


def _tensors(state: StepState) -> dict[str, Tensor]:
    return {"latents": state.latent, "pred_x0": state.pred_x0}
