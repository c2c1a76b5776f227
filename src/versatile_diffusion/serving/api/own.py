"""`/v1/generate` and `/v1/replay`: whole requests of this library, and records made again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from versatile_diffusion.applications import again
from versatile_diffusion.applications.colours import COLOURS
from versatile_diffusion.flow import Condition
from versatile_diffusion.numeric import is_number
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.pipeline.replay import arguments_of, item_of
from versatile_diffusion.pipeline.run import check_maker
from versatile_diffusion.printable import shown
from versatile_diffusion.sampling.focus import Focus
from versatile_diffusion.serving.api.fields import Generate, Replay
from versatile_diffusion.serving.api.results import items_of
from versatile_diffusion.serving.api.service import Service, TheService, options_in
from versatile_diffusion.serving.api.values import Reader, bytes_of, resolver, tensor_of, tensor_text

router = APIRouter(prefix="/v1", tags=["whole requests"])
OUTPUT_TYPES = {"value": "pil", "latent": "latent", "context": "context"}
FOCUS = ("level", "convention", "components", "drop_global", "on_null")


@router.post("/generate", summary="Any conditions to any output")
async def generate(request: Request, service: TheService, fields: Generate) -> Any:
    """Values with their hashes, the latents, and the complete record, which `/v1/replay` takes."""
    service.check_model(fields.model)
    conditions, options = await run_in_threadpool(_read_request, service.reader, fields)
    output_type = OUTPUT_TYPES[fields.output]
    how = {"alone": fields.exact, "seconds": fields.timeout, "output_type": output_type}
    output = await service.generate(request, fields.data, conditions, options, **how)
    return await run_in_threadpool(_answer, service, output, fields.output_format, fields.output)


@router.post("/replay", summary="An output made again from its record")
async def replay(request: Request, service: TheService, fields: Replay) -> Any:
    """It shares no pass with other requests, so it is the same to the last bit (same software and machine)."""
    service.check_model(fields.model)
    settings, pipe = fields.settings, service.engine.pipe
    _check_settings(service, settings)
    resolve = await run_in_threadpool(resolver, fields.inputs, service.engine.limits.pixels)
    if "application" in settings or COLOURS in settings:
        _check_size(service, settings)
        job = await run_in_threadpool(
            service.engine.call,
            lambda between: again.replay(pipe, settings, resolve),
            client=request.state.client,
            seconds=fields.timeout,
        )
        output = await service.result(request, job)
    else:
        given = await run_in_threadpool(arguments_of, settings, resolve)
        data, conditions = given.pop("data"), given.pop("conditions")
        how = {"alone": True, "seconds": fields.timeout}
        output = item_of(await service.generate(request, data, conditions, given, **how), settings)
    return await run_in_threadpool(_answer, service, output, fields.output_format, "value")


def _check_settings(service: Service, settings: Mapping[str, Any]) -> None:
    check_maker(service.engine.pipe, settings)
    if "sweep" in settings:
        raise ValueError("the settings are of a sweep; send those of one of its cells")


def _check_size(service: Service, settings: Mapping[str, Any]) -> None:
    """ValueError where an application would take more than is allowed."""
    limits = service.engine.limits
    seeds: Any = settings.get("seeds")
    steps: Any = settings.get("num_inference_steps")
    if not isinstance(seeds, list) or not 1 <= len(seeds) <= limits.items:
        raise ValueError(f"seeds of the settings is {shown(seeds)}; it must be a list of 1 to {limits.items}")
    if not is_number(steps) or not 1 <= steps <= limits.steps:
        raise ValueError(f"num_inference_steps of the settings is {shown(steps)}; it must be 1 to {limits.steps}")
    for name in ("height", "width"):
        side: Any = settings.get(name)
        if side is not None and not (is_number(side) and 1 <= side <= limits.side):
            raise ValueError(f"{name} of the settings is {shown(side)}; it must be 1 to {limits.side}")


def _read_request(reader: Reader, fields: Any) -> tuple[list[Condition], dict[str, Any]]:
    """The conditions and options of a whole request."""
    options = options_in(fields)
    options |= {
        "start": reader.start(fields.data, fields.start),
        "repaint": reader.part(fields.repaint, "repaint"),
        "latents": None if fields.latents is None else tensor_of(bytes_of(fields.latents, "latents"), "latents"),
    }
    return [_condition(reader, one, f"conditions.{k}") for k, one in enumerate(fields.conditions)], options


def _condition(reader: Reader, fields: Any, what: str) -> Condition:
    modality, plain = fields.modality, ("weight", "guidance_scale", "start", "end")
    given = {name: value for name in plain if (value := getattr(fields, name)) is not None}
    if fields.value is not None:
        given["value"] = reader.values(modality, fields.value, f"{what}.value")
    if fields.tokens is not None:
        given["tokens"] = tensor_of(bytes_of(fields.tokens, f"{what}.tokens"), f"{what}.tokens")
    if fields.negative is not None:
        given["negative"] = reader.values(modality, fields.negative, f"{what}.negative")
    if fields.mask is not None:
        given["mask"] = reader.mask(fields.mask, f"{what}.mask")
    if fields.region is not None:
        given["region"] = reader.part(fields.region, f"{what}.region")
    if isinstance(fields.focus, dict):
        if strange := fields.focus.keys() - {*FOCUS}:
            raise ValueError(f"{what}.focus has {shown(min(strange))}; it may have {', '.join(FOCUS)}")
        given["focus"] = Focus(**{"level": None, **fields.focus})
    elif fields.focus is not None:
        given["focus"] = fields.focus
    return Condition(modality, **given)


def _answer(service: Service, output: Output, form: str, kind: str) -> dict[str, Any]:
    """The response: values (or tensors), and the record."""
    record = service.record(output)
    tensors = {"latents": tensor_text("latent", output.latents)}
    rows: list[dict[str, Any]] = []
    if kind == "value":
        rows = items_of(output, form, record)
    elif kind == "context":
        tensors["tokens"] = tensor_text("context", output.values)
    told = {"object": "generation", "data": output.data, "items": rows, **tensors, "settings": record}
    return {"id": f"gen-{uuid4().hex}", **told}
