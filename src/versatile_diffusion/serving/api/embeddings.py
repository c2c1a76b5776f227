"""`/v1/embeddings`: vectors of texts and images in the space that the model's context encoders share."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from torch import Tensor

from versatile_diffusion.serving.api.fields import Embedding
from versatile_diffusion.serving.api.service import TheService
from versatile_diffusion.serving.api.values import is_data_url, vector_text

router = APIRouter(prefix="/v1", tags=["embeddings"])


@router.post("/embeddings", summary="Vectors of texts and images")
async def embeddings(request: Request, service: TheService, fields: Embedding) -> Any:
    """Unit vectors, so that an inner product is the cosine of two of them, whatever they are of."""
    service.check_model(fields.model)
    inputs = [fields.input] if isinstance(fields.input, str) else fields.input
    most = service.engine.limits.inputs
    if not 1 <= len(inputs) <= most:
        raise ValueError(f"input has {len(inputs)} values; it must have 1 to {most}")
    modalities = ["image" if is_data_url(one) else "text" for one in inputs]
    encoders = service.engine.pipe.bank.encoders
    if absent := {*modalities} - {*encoders}:
        raise ValueError(f"this model has no context encoder for {', '.join(sorted(absent))}")
    if len({encoders[name].space for name in modalities}) > 1:
        raise ValueError("the context encoders of this model have no space in common; send texts or images alone")
    reader = service.reader
    values = await run_in_threadpool(
        lambda: [reader.value(name, one, "input") for name, one in zip(modalities, inputs, strict=True)]
    )

    def encode(between: Any) -> list[Tensor]:
        vectors: dict[int, Tensor] = {}
        for name in dict.fromkeys(modalities):
            places = [k for k, other in enumerate(modalities) if other == name]
            vectors |= dict(zip(places, encoders[name].compare([values[k] for k in places]), strict=True))
        return [vectors[k] for k in range(len(values))]

    call = await run_in_threadpool(service.engine.call, encode, client=request.state.client, seconds=fields.timeout)
    vectors = await service.result(request, call)
    size = len(vectors[0])
    if fields.dimensions not in (None, size):
        raise ValueError(f"dimensions is {fields.dimensions}; the vectors of this model have {size}")
    rows = [
        {"object": "embedding", "index": k, "embedding": vector_text(vector, fields.encoding_format)}
        for k, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": 0, "total_tokens": 0}  # clients need it; texts and images are counted by nothing here
    return {"object": "list", "data": rows, "model": service.name, "usage": usage}
