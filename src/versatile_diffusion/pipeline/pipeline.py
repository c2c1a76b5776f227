"""The pipeline: all tasks of a model through one method, `generate`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor, nn

from versatile_diffusion.choices import chosen, unknown
from versatile_diffusion.controls import REQUEST, other_words
from versatile_diffusion.diffuser.adapters import active_loras
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.numeric import switch
from versatile_diffusion.pipeline.adapters import AdapterMethods
from versatile_diffusion.pipeline.callback import TENSORS, StepCallback, with_inputs
from versatile_diffusion.pipeline.distilled import DistilledMethods, forms_in
from versatile_diffusion.pipeline.encoding import EncodingMethods
from versatile_diffusion.pipeline.hub import HubMethods
from versatile_diffusion.pipeline.inputs import check_conditions, start_latents, unwrap_embeddings
from versatile_diffusion.pipeline.interrupt import present_flag, under_way
from versatile_diffusion.pipeline.loading import (
    OFFICIAL,
    LoadOptions,
    OfficialOptions,
    checked_options,
    found_variant,
    mapped_device,
    weights_file,
)
from versatile_diffusion.pipeline.memory import MemoryMethods
from versatile_diffusion.pipeline.models import (
    CLASS_NAME,
    READ_AT_ONCE,
    check_index,
    fetch_model,
    find_model,
    is_ours,
    loading_dtype,
    precision_of,
    register_classes,
    size_of,
)
from versatile_diffusion.pipeline.names import arguments, own_names
from versatile_diffusion.pipeline.options import Options
from versatile_diffusion.pipeline.output import OUTPUT_TYPES, Output
from versatile_diffusion.pipeline.precision import Precision
from versatile_diffusion.pipeline.replay import arguments_of, item_of
from versatile_diffusion.pipeline.request import Request
from versatile_diffusion.pipeline.run import begin, check_maker, finish, prepare
from versatile_diffusion.pipeline.signature import lists_options
from versatile_diffusion.pipeline.task_methods import TaskMethods
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import reading
from versatile_diffusion.records.record import Fingerprints
from versatile_diffusion.sampling import seeds
from versatile_diffusion.sampling.denoise import StepState, latents_from_callback, replacement
from versatile_diffusion.sampling.schedulers import SCHEDULERS
from versatile_diffusion.tasks import NAMED, task_of

register_classes()
Dtype = torch.dtype | str | Mapping[str, torch.dtype | str]


class VersatileDiffusionPipeline(  # type: ignore[misc] # save_pretrained, narrower
    TaskMethods, EncodingMethods, AdapterMethods, DistilledMethods, MemoryMethods, HubMethods, DiffusionPipeline
):
    """Versatile Diffusion pipeline for all flows of a model.

    Args:
        unet: the diffuser.
        bank: codecs and context encoders.
        scheduler: scheduler with the noise schedule of training.
        styles: style id to the phrase that `style=` appends to a prompt.
        defaults: per task, default arguments of `generate` for this model.
        vocabulary: concepts the model was trained on, with synonyms, if there are few.
    """

    model_cpu_offload_seq = "bank->unet"
    _callback_tensor_inputs = list(TENSORS)  # noqa: RUF012 # as diffusers has it

    def __init__(
        self,
        unet: MultiFlowUNet,
        bank: ModalityBank,
        scheduler: SchedulerMixin,
        styles: dict[str, str] | None = None,
        defaults: dict[str, dict[str, Any]] | None = None,
        vocabulary: dict[str, list[str]] | None = None,
    ):
        super().__init__()
        self.register_modules(unet=unet, bank=bank, scheduler=scheduler)
        self.register_to_config(
            styles=dict(styles or {}), defaults=dict(defaults or {}), vocabulary=dict(vocabulary or {})
        )
        self.model_name = type(self).__name__
        self._fingerprints, self._forms, self._distilled = Fingerprints(), {}, None

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        name: str | PathLike[str],
        dtype: Dtype = torch.float32,
        *,
        device: str | torch.device | None = None,
        on_use: bool | None = None,
        **options: Unpack[LoadOptions],
    ) -> VersatileDiffusionPipeline:
        """Load a model in any layout known to `versatile_diffusion.interop.read.layouts.recognise`.

        Args:
            name: shipped model (`"emoji"`), folder, checkpoint or hub id.
            dtype: dtype of the weights in memory; alias `torch_dtype`. `"auto"` chooses what suits the device for the
                diffuser (see `precision.suited`), and float32 for codecs and context encoders; `{"unet": ..., "bank":
                ...}` names one for each.
            device: device to run on; default: the CPU.
            on_use: keep weights on disk until a task needs them; by default for folders above 1 GB.
            options: as in diffusers: `torch_dtype`, `variant` (`"fp16"`: those weights, if the folder has them),
                `device_map` (a device; `"balanced"` is the GPU if available), components instead of those in the files.
                For other layouts those of `load_official`, e.g. `tasks`. For hub ids `revision`, `cache_dir`, `token`,
                ...

        Raises:
            ValueError: no such model or option, or damaged files.
        """
        given = checked_options(options)
        dtype = loading_dtype(dtype, given)
        device = mapped_device(given.pop("device_map", None)) or device
        folder = fetch_model(find_model(name), given)
        if not is_ours(folder):
            if (variant := given.pop("variant", None)) is not None:
                raise ValueError(f"variant={shown(variant)}: {folder} is in another layout; omit it")
            reads: dict[str, Any] = {} if on_use is None else {"on_use": on_use}
            return cls.from_official(folder, dtype, device=device, **reads, **given)
        given["variant"] = found_variant(folder, given.get("variant"))
        with reading(folder, "a model"):
            check_index(folder)
            precision = precision_of(dtype, folder, device)
            return cls._ours(folder, name, precision.bank, on_use, given)._settled(precision, device)

    @classmethod
    def _ours(
        cls, folder: str, name: str | PathLike[str], dtype: torch.dtype, on_use: bool | None, options: dict[str, Any]
    ) -> VersatileDiffusionPipeline:
        """Load a model folder in our layout; see `from_pretrained`."""
        reads: dict[str, Any] = {}
        variant = options.pop("variant")
        if on_use or (on_use is None and size_of(folder) > READ_AT_ONCE):
            from versatile_diffusion.interop.read.tensors import open_tensors

            def opened(place: Any) -> Any:
                return open_tensors(weights_file(place, variant))

            reads["on_use"] = opened
        if variant is not None:
            reads["variant"] = variant
        for part, kind in (("unet", MultiFlowUNet), ("bank", ModalityBank)):
            if reads and part not in options:
                options[part] = kind.from_pretrained(Path(folder, part), dtype=dtype, **reads)
        pipe = super().from_pretrained(folder, dtype=dtype, **options)
        pipe.model_name, pipe._forms = Path(name).name, forms_in(folder)
        return pipe

    @classmethod
    def from_official(
        cls,
        path: str | PathLike[str],
        dtype: Dtype = torch.float32,
        *,
        device: str | torch.device | None = None,
        on_use: bool = True,
        **options: Unpack[OfficialOptions],
    ) -> VersatileDiffusionPipeline:
        """Load published weights in any layout: a checkpoint with its companion files, or a folder.

        Args:
            path: see `versatile_diffusion.interop.read.layouts.recognise`.
            dtype, device: as in `from_pretrained`; float32 by default, since people compare numbers.
            on_use: keep weights on disk until a task needs them.
            options: options of `load_official`, e.g. the `tasks` to load.

        Raises:
            ValueError: an unknown option, or missing or damaged files.
        """
        from versatile_diffusion.interop.read.official_files import load_official

        given = checked_options(options)
        dtype = loading_dtype(dtype, given)
        if is_ours(path):
            return cls.from_pretrained(path, dtype, device=device, on_use=on_use, **given)
        if strange := given.keys() - set(OFFICIAL):
            raise ValueError(unknown("option of from_official", min(strange), OFFICIAL))
        precision = precision_of(dtype, path, device)
        loaded = load_official(path, dtype=precision.bank, on_use=on_use, **given)
        pipe = cls(**loaded, scheduler=SCHEDULERS["ddim"]())
        pipe.model_name = Path(path).name
        return pipe._settled(precision, device)

    def _settled(self, precision: Precision, device: str | torch.device | None) -> VersatileDiffusionPipeline:
        """Itself on its device, the diffuser in its own dtype; before, all is in that of the bank."""
        if precision.unet != precision.bank:
            nn.Module.to(self.unet, precision.unet)  # not ModelMixin's, which warns of layers that there are not
        return self if device is None else self.to(device)

    def load_now(self) -> VersatileDiffusionPipeline:
        """Load all weights still on disk; for training, quantising or compiling the model."""
        for part in (self.unet, *self.bank.parts.values()):
            part.load_now()
        return self

    def to_json_string(self) -> str:
        """Return the index of a saved model. It names a class that diffusers lacks, so that its `DiffusionPipeline`
        cannot mistake the model for its deprecated `VersatileDiffusionPipeline`."""
        return super().to_json_string().replace(f'"{VersatileDiffusionPipeline.__name__}"', f'"{CLASS_NAME}"', 1)

    def can(self, flow: Flow) -> bool:
        """Return whether the model has the streams, codec and context encoders of a flow."""
        able = flow.data in self.unet.data and flow.data in self.bank.codecs
        return able and all(c in self.unet.context and c in self.bank.encoders for c in flow.contexts)

    def fingerprint(self) -> str:
        """Return the hash of the model's weights (see `records.record.fingerprint`) and its active adapters."""
        acting = "".join(f"+{name}:{weight:g}" for name, weight in active_loras(self.unet).items())
        return self._fingerprints.of(self.unet, self.bank) + acting

    @torch.no_grad()
    def generate(
        self,
        data: str,
        conditions: Sequence[Condition],
        *,
        seed: seeds.Seed = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Any = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
        return_dict: bool = True,
        **options: Unpack[Options],
    ) -> Output:
        """Generate `data` from conditions; all other generation methods call this.

        Args:
            data: modality to generate.
            conditions: the conditions. Instead of a raw value, each accepts context tokens (L, D) or (B, L, D), or
                `Embeddings`: tokens or latents of this model.
            seed: int from 0 to 2**64 - 1; item k of the batch uses `seed + k`. Or a list with one per item. An item
                depends on its seed alone, up to rounding, which may vary with the batch size. Random by default.
            generator: instead of a seed: one generator to draw the items' seeds from, or one per item.
            latents: initial noise (B, ...), a tensor or an array; drawn from the seed by default.
            output_type: for images `"pil"`, `"np"` or `"pt"` (in [0, 1]). For all modalities `"latent"` to skip
                decoding, or `"context"` for the context tokens (B, L, D) of the result. Alias `output`.
            callback_on_step_end: `(pipeline, step, timestep, {"latents", "pred_x0"})` after each step; returned latents
                replace the current ones. Setting `pipeline._interrupt = True` stops this run (and no other, in any
                thread) and returns the current estimate.
            callback_on_step_end_tensor_inputs: which of these tensors to pass; default: both.
            return_dict: if False, return a tuple with the values only, as diffusers' pipelines do.
            options: options of `controls.Controls`, e.g. `num_inference_steps`, `guidance_scale`, `mixing`,
                `scheduler`, `style` and `num_outputs` (alias `num_images_per_prompt`). The init value is `start` with
                `fidelity`, or, as in image-to-image pipelines, `init_latent` with `strength` (1 - fidelity).

        Raises:
            ValueError: an invalid request, raised before any expensive work.
        """
        callback = with_inputs(callback_on_step_end, callback_on_step_end_tensor_inputs)
        whole = switch("return_dict", return_dict)
        own = own_names(options)
        output_type = own.pop("output_type", output_type)
        chosen("output_type", output_type, (*OUTPUT_TYPES, "latent", "context"))
        if output_type == "context" and data not in self.bank.encoders:
            raise ValueError(f"this model has no context encoder for {shown(data)}, so it cannot return context tokens")
        run = prepare(self, self.request(data, conditions, own), seed, generator, latents)
        sources = seeds.generators(run.candidates)
        latent, states, guidance = begin(self, run, sources)
        final = self._consume(latent, states, run.total, callback)
        output = finish(self, run, final, sources, guidance, output_type)
        self.maybe_free_model_hooks()
        return output if whole else (output.values,)  # type: ignore[return-value]

    def replay(self, settings: dict[str, Any], resolve: Callable[[dict[str, Any]], Any] | None = None) -> Output:
        """Reproduce the output of `Output.settings`; bit-identical with the same software on the same machine.

        Settings of one item (with an `index`) run the whole batch and return that item, since rounding depends on the
        batch size.

        Args:
            settings: settings of an Output.
            resolve: returns the value of a record without text (a dict with its `sha256`); by default the recorded
                file is read.

        Raises:
            ValueError: another model, or a missing or changed value.
        """
        check_maker(self, settings)
        if "application" in settings or "match_colours" in settings:
            raise ValueError("generated by an application; use versatile_diffusion.applications.again.replay")
        return item_of(self.generate(**arguments_of(settings, resolve)), settings)

    def request(self, data: str, conditions: Sequence[Condition], options: dict[str, Any]) -> Request:
        """Build the request of `generate`, with this model's defaults for the task."""
        conditions = tuple(unwrap_embeddings(self, condition) for condition in check_conditions(conditions))
        options = {**options, "start": start_latents(self, data, options.get("start"))}
        flow = Flow(data, tuple(condition.modality for condition in conditions))
        form = self.form_of(options.get("fast"))
        usual = self._usual(flow) | ({} if form is None else dict(form.usual(flow)))
        given = {name: value for name, value in options.items() if value is not None}
        if "candidates" in usual:  # of all outputs together; tokens cannot be compared with results
            alone = any(condition.value is None for condition in conditions)
            count = given.get("num_outputs", 1)
            shared = usual["candidates"] // count if isinstance(count, int) and count > 0 else 1
            usual = {**usual, "candidates": 1 if alone else max(1, shared)}
        if strange := given.keys() - REQUEST.keys():
            raise ValueError(unknown("argument", min(strange), arguments(), also=other_words()))
        return Request(data, conditions, **{**usual, **given})

    def _usual(self, flow: Flow) -> dict[str, Any]:
        """Return this model's defaults for the task of a flow; without such a task, those of the task with the fewest
        contexts among those that share a context."""
        flows = [flow] if task_of(flow) else [Flow(flow.data, (context,)) for context in flow.contexts]
        tasks = [task for one in flows if (task := task_of(one))]
        usual = [{"guidance_scale": task.guidance_scale} | self.config.defaults.get(task.name, {}) for task in tasks]
        if flows != [flow] or not task_of(flow):
            usual = [{name: value for name, value in one.items() if name != "candidates"} for one in usual]
        return min(usual, key=lambda options: options["guidance_scale"], default={})

    @property
    def _interrupt(self) -> bool:
        """Whether the active run in this thread should stop after its current step."""
        flag = present_flag(self)
        return flag is not None and flag.raised

    @_interrupt.setter
    def _interrupt(self, raised: bool) -> None:
        flag = present_flag(self)
        if flag is not None:
            flag.raised = bool(raised)
        elif raised:
            raise ValueError("no active run of this pipeline in this thread; set it in callback_on_step_end")

    def _consume(
        self,
        latent: Tensor,
        states: Generator[StepState, Tensor | None, None],
        total: int,
        callback: StepCallback | None,
    ) -> Tensor:
        """Run all steps with a progress bar; return the final latents."""
        sent = None
        with under_way(self) as flag, self.progress_bar(total=total) as bar:
            while not flag.raised:
                try:
                    state = states.send(sent)
                except StopIteration:
                    break
                bar.update()
                if callback is not None:
                    tensors = {"latents": state.latent, "pred_x0": state.pred_x0}
                    sent = latents_from_callback(callback(self, state.index, state.timestep, tensors))
                latent = state.latent if sent is None else replacement(state.latent, sent)
                latent = state.pred_x0 if flag.raised else latent
        return latent


lists_options()(VersatileDiffusionPipeline.generate)
for _method in (VersatileDiffusionPipeline.__call__, VersatileDiffusionPipeline.run):
    lists_options(None, VersatileDiffusionPipeline.generate)(_method)
for _task in NAMED.values():
    _method = getattr(VersatileDiffusionPipeline, _task.name.replace("-", "_"))
    lists_options(_task.flow, VersatileDiffusionPipeline.generate)(_method)
MultiFlowPipeline = VersatileDiffusionPipeline
"""The same class under the name that the index of a saved model has for it."""
