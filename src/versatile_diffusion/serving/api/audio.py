"""`/v1/audio/...`: texts read aloud, and what a recording says, in the form of OpenAI's API."""

from __future__ import annotations

from io import BytesIO
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, Response
from pydantic import ConfigDict, Field, create_model

from versatile_diffusion.choices import unknown
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.modalities.audio.waveform import Waveform, write_sound
from versatile_diffusion.serving.api.fields import NOT_HERE, Sampled, Text, options
from versatile_diffusion.serving.api.service import TheService, options_in

router = APIRouter(prefix="/v1/audio", tags=["audio"])
SPEECH, TRANSCRIPT = Flow("audio", ("text",)), Flow("text", ("audio",))
MEDIA = {"mp3": "audio/mpeg", "wav": "audio/wav", "flac": "audio/flac", "opus": "audio/ogg", "pcm": "audio/pcm"}
"""Formats of recordings, and their media types."""
_FORMATS: Any = Literal["mp3", "wav", "flac", "opus", "pcm"]
_WHOLE: Any = Literal["audio"] | None
ANY_VOICE = "default"
SEED = "x-seed"

Speech: Any = create_model(
    "Speech",
    __base__=Sampled,
    input=(Text, Field(description="What is said.")),
    voice=(
        str | dict[str, Any] | None,
        Field(None, description="A style of the model, such as american-man; default: as the input says."),
    ),
    response_format=(_FORMATS, Field("mp3", description="PCM: 24 kHz, 16 bits.")),
    speed=(float, Field(1.0, ge=1, le=1, description="The model has one speed; name a voice that is slow or fast.")),
    instructions=(Text | None, Field(None, description="The model follows none.", max_length=0)),
    stream_format=(_WHOLE, Field(None, description="The recording comes whole.")),
    **options(SPEECH, leave=(*NOT_HERE, "style")),
)
_Transcript: Any = create_model("_Transcript", __base__=Sampled, **options(TRANSCRIPT))


class Transcription(_Transcript):
    """A recording as the file of a form."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=False, arbitrary_types_allowed=True)

    file: UploadFile = Field(description="The recording: WAV, FLAC, OGG or MP3.")
    response_format: Literal["json", "text"] = Field("json", description="JSON, or the text alone.")
    language: Literal["en"] | None = Field(None, description="The model knows the language of its training alone.")
    prompt: str | None = Field(None, description="The model follows none.", max_length=0)


@router.post("/speech", summary="A text read aloud", response_class=Response)
async def speech(request: Request, service: TheService, fields: Speech) -> Any:
    """The recording as a file; its seed is in the header `x-seed`."""
    service.check_model(fields.model)
    given = options_in(fields) | _voice(fields.voice, service.engine.pipe.config.styles)
    how: dict[str, Any] = {"alone": fields.exact, "seconds": fields.timeout}
    output = await service.generate(request, SPEECH.data, [Condition("text", fields.input)], given, **how)
    content = await run_in_threadpool(sound_of, output.values[0], fields.response_format)
    headers = {SEED: str(output.settings["seeds"][0])}
    return Response(content, media_type=MEDIA[fields.response_format], headers=headers)


@router.post("/transcriptions", summary="What a recording says")
async def transcriptions(request: Request, service: TheService, fields: Annotated[Transcription, Form()]) -> Any:
    """The text as JSON, or plain."""
    service.check_model(fields.model)
    data = await fields.file.read()
    wave = await run_in_threadpool(service.reader.value, "audio", data, "file")
    how: dict[str, Any] = {"alone": fields.exact, "seconds": fields.timeout}
    output = await service.generate(request, TRANSCRIPT.data, [Condition("audio", wave)], options_in(fields), **how)
    (text,) = output.texts
    if fields.response_format == "text":
        return PlainTextResponse(f"{text}\n")
    return {"text": text, "seed": output.settings["seeds"][0]}


def _voice(given: str | dict[str, Any] | None, styles: dict[str, str]) -> dict[str, str]:
    """The voice as a style of the model.

    Raises:
        ValueError: the model has no such style.
    """
    name = given.get("id") if isinstance(given, dict) else given
    if name in (None, ANY_VOICE):
        return {}
    if name not in styles:
        raise ValueError(unknown("voice", str(name), (ANY_VOICE, *styles)))
    return {"style": str(name)}


def sound_of(wave: Waveform, form: str) -> bytes:
    """The file of a recording."""
    stream = BytesIO()
    write_sound(wave, stream, form)
    return stream.getvalue()
