"""`/v1/chat/completions`: captions of images and variations of texts, in the form of OpenAI's API.

The model follows no instructions and remembers no conversation: the last message of the user counts. Images in it are
captioned (several act together), and text beside them is ignored; a text alone is rephrased. The `warnings` of the
response name what was ignored.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from versatile_diffusion.flow import Condition
from versatile_diffusion.printable import shown
from versatile_diffusion.serving.api.fields import ChatCompletion, Message
from versatile_diffusion.serving.api.images import EVENTS, MOST_IMAGES
from versatile_diffusion.serving.api.service import TheService, event, options_in
from versatile_diffusion.serving.api.values import Reader
from versatile_diffusion.serving.jobs import Job

router = APIRouter(prefix="/v1", tags=["texts"])
PARTS = ("text", "image_url")


@router.post("/chat/completions", summary="A caption of an image, or other words for a text")
async def completions(request: Request, service: TheService, fields: ChatCompletion) -> Any:
    """The last message of the user counts: images in it are captioned; a text alone is rephrased."""
    service.check_model(fields.model)
    conditions, warnings = await run_in_threadpool(_read, service.reader, fields.messages)
    options = options_in(fields) | {"num_outputs": fields.n or 1}
    lengths = [fields.max_length, fields.max_completion_tokens, fields.max_tokens]
    options["max_length"] = next((length for length in lengths if length is not None), None)
    how = {"alone": fields.exact, "seconds": fields.timeout}
    head = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": service.name}
    if fields.stream:
        job = await service.submitted(request, "text", conditions, options, **how)
        return StreamingResponse(_events(job, head | {"object": "chat.completion.chunk"}), media_type=EVENTS)
    output = await service.generate(request, "text", conditions, options, **how)
    choices = [
        {"index": k, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": None}
        for k, text in enumerate(output.texts)
    ]
    told = {"warnings": warnings} if warnings else {}
    return {**head, "object": "chat.completion", "choices": choices, "seeds": output.settings["seeds"], **told}


async def _events(job: Job, head: dict[str, Any]) -> AsyncIterator[str]:
    """The texts as events. A text is decoded at the end of its generation, so each comes whole."""

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> str:
        return (
            f"data: {json.dumps({**head, 'choices': [{'index': index, 'delta': delta, 'finish_reason': reason}]})}\n\n"
        )

    try:
        for index in range(job.items):  # type: ignore[attr-defined]
            yield chunk(index, {"role": "assistant", "content": ""})
        try:
            output = await asyncio.wrap_future(job.future)
        except Exception as error:
            yield f"data: {json.dumps(event(error))}\n\n"
            return
        for index, text in enumerate(output.texts):
            yield chunk(index, {"content": text})
            yield chunk(index, {}, "stop")
        yield "data: [DONE]\n\n"
    finally:
        if not job.over:
            job.cancel()


def _read(reader: Reader, messages: Sequence[Message]) -> tuple[list[Condition], list[str]]:
    """Return the conditions, and what of the messages was ignored.

    Raises:
        ValueError: no message is of the user, it is empty, or a part of it cannot be read.
    """
    last = next((message for message in reversed(messages) if message.role == "user"), None)
    if last is None:
        raise ValueError("messages has none of the user; its last one is what is read")
    parts: list[Any] = [{"type": "text", "text": last.content}] if isinstance(last.content, str) else last.content or []
    texts, images = [], []
    for part in parts:
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url" and isinstance(part.get("image_url"), dict):
            images.append(reader.value("image", part["image_url"].get("url"), "image_url"))
        else:
            raise ValueError(f"a part of a message is {shown(kind)}; it must be {' or '.join(PARTS)}, with its value")
    warnings = [] if len(messages) == 1 else ["only the last message of the user is read"]
    if len(images) > MOST_IMAGES:
        raise ValueError(f"{len(images)} images are given; at most {MOST_IMAGES} are allowed")
    if images:
        beside = ["text beside an image is not read: the model captions images"] if any(map(str.strip, texts)) else []
        return [Condition("image", image) for image in images], warnings + beside
    if not (text := "\n".join(texts).strip()):
        raise ValueError("the last message of the user is empty; it must have a text or an image")
    return [Condition("text", text)], warnings
