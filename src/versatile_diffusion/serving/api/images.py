"""`/v1/images/...`: images from a prompt, from images, or from both, in the form of OpenAI's API."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from versatile_diffusion.flow import Condition
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.serving.api.fields import ImageEdit, ImageGeneration, ImageVariation
from versatile_diffusion.serving.api.results import image_text
from versatile_diffusion.serving.api.service import Service, TheService, event, options_in, size_of
from versatile_diffusion.serving.jobs import Job, Progress

router = APIRouter(prefix="/v1/images", tags=["images"])
MOST_IMAGES = 8
EVENTS = "text/event-stream"


@router.post("/generations", summary="Images from a prompt")
async def generations(request: Request, service: TheService, fields: ImageGeneration) -> Any:
    """With `stream`, events with partial images and then the image."""
    reader = service.reader
    options = options_in(fields) | {
        "start": await run_in_threadpool(reader.start, "image", fields.start),
        "repaint": await run_in_threadpool(reader.part, fields.repaint, "repaint"),
    }
    return await _images(request, service, fields, [Condition("text", fields.prompt)], options, "image_generation")


@router.post("/edits", summary="Images from a prompt and images")
async def edits(request: Request, service: TheService, fields: Annotated[ImageEdit, Form()]) -> Any:
    """Without a mask the prompt and all images guide together; with one, that part of the image is generated anew."""
    images = await _read(service, fields.files)
    options, prompt = options_in(fields), fields.prompt
    if fields.mask is not None:
        if len(images) > 1:
            raise ValueError(f"{len(images)} images and a mask are given; a mask goes with one image")
        mask = await run_in_threadpool(service.reader.mask, await fields.mask.read())
        conditions = [Condition("text", prompt)]
        options |= {"start": images[0], "repaint": mask}
    elif fields.fidelity or fields.strength is not None:
        raise ValueError(
            "fidelity and strength go with a mask; for the share of the prompt give text_to_image_strength"
        )
    else:
        share = fields.text_to_image_strength
        conditions = [Condition("text", prompt, weight=share)]
        conditions += [Condition("image", image, weight=(1 - share) / len(images)) for image in images]
    return await _images(request, service, fields, conditions, options, "image_edit")


@router.post("/variations", summary="Variations of an image")
async def variations(request: Request, service: TheService, fields: Annotated[ImageVariation, Form()]) -> Any:
    """Several images guide together."""
    conditions = [Condition("image", image) for image in await _read(service, fields.files)]
    return await _images(request, service, fields, conditions, options_in(fields), "image_variation")


async def _read(service: Service, files: Sequence[UploadFile]) -> list[Any]:
    """The images of uploads."""
    if not 1 <= len(files) <= MOST_IMAGES:
        raise ValueError(f"{len(files)} images are given in the field image; it must be 1 to {MOST_IMAGES}")
    data = [await file.read() for file in files]
    return [await run_in_threadpool(service.reader.value, "image", one, "image") for one in data]


async def _images(
    request: Request, service: Service, fields: Any, conditions: list[Condition], options: dict[str, Any], kind: str
) -> Any:
    """The response with the images that are asked for. Args: kind: of the events of a stream."""
    service.check_model(fields.model)
    options = options | size_of(fields) | {"num_outputs": fields.n}
    how: dict[str, Any] = {"alone": fields.exact, "seconds": fields.timeout}
    if not fields.stream:
        output = await service.generate(request, "image", conditions, options, **how)
        data = await run_in_threadpool(_data, service, fields, output)
        width, height = output.values[0].size
        return {
            "created": int(time.time()),
            "data": data,
            "output_format": fields.output_format,
            "size": f"{width}x{height}",
        }
    news: asyncio.Queue[Progress | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def listener(progress: Progress) -> None:
        if progress.value is not None:
            loop.call_soon_threadsafe(news.put_nowait, progress)

    how |= {"listener": listener, "previews": fields.partial_images or 0}
    job = await service.submitted(request, "image", conditions, options, **how)
    job.future.add_done_callback(lambda _: loop.call_soon_threadsafe(news.put_nowait, None))
    return StreamingResponse(_events(service, fields, job, news, kind), media_type=EVENTS)


async def _events(
    service: Service, fields: Any, job: Job, news: asyncio.Queue[Progress | None], kind: str
) -> AsyncIterator[str]:
    """Partial images as they come, and the images at the end; a client that goes away cancels the job."""
    try:
        while (progress := await news.get()) is not None:
            text = await run_in_threadpool(image_text, progress.value, fields.output_format, 95, None)
            more = {"partial_image_index": progress.preview, "index": progress.item}
            yield _event(f"{kind}.partial_image", fields, text, progress.value.size, **more)
        if error := job.future.exception():
            yield f"event: error\ndata: {json.dumps(event(error))}\n\n"
            return
        output: Output = job.future.result()
        for item, row in zip(output, await run_in_threadpool(_data, service, fields, output), strict=True):
            told = {name: value for name, value in row.items() if name != "b64_json"}
            yield _event(f"{kind}.completed", fields, row["b64_json"], item.values[0].size, **told)
    finally:
        if not job.over:
            job.cancel()


def _event(kind: str, fields: Any, text: str, size: tuple[int, int], **more: Any) -> str:
    told = {
        "type": kind,
        "b64_json": text,
        "created_at": int(time.time()),
        "output_format": fields.output_format,
        "size": f"{size[0]}x{size[1]}",
        "quality": "auto",
        "background": "opaque",
        **more,
    }
    return f"event: {kind}\ndata: {json.dumps(told)}\n\n"


def _data(service: Service, fields: Any, output: Output) -> list[dict[str, Any]]:
    """The images of an output; the prompt with its style where it has one."""
    rows = []
    for index, item in enumerate(output):
        record = service.record(item)
        text = image_text(item.values[0], fields.output_format, fields.output_compression, record)
        row: dict[str, Any] = {"b64_json": text, "index": index, "seed": item.settings["seed"]}
        prompt = item.settings["prompt"]
        rows.append(row if prompt in (None, getattr(fields, "prompt", None)) else row | {"revised_prompt": prompt})
    return rows
