"""The fields of requests. Options of a generation come from the one table of them, `controls.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator

from versatile_diffusion.choices import unknown
from versatile_diffusion.controls import CONDITION, REQUEST, Control, of_flow
from versatile_diffusion.flow import Flow
from versatile_diffusion.pipeline.signature import kinds
from versatile_diffusion.sampling.seeds import SEED_LIMIT

MOST_CONDITIONS = 16
MOST_TEXT = 100_000
"""Characters of a prompt or message."""
IMAGE_FORMATS = Literal["png", "jpeg", "webp"]
SEVERAL = ("guidance_interval", "layer_plan", "null", "repaint")
"""Options whose value a form holds as JSON, or as a name."""
NOT_HERE = ("num_outputs",)
"""Options that these endpoints have under another name."""
Text = Annotated[str, Field(max_length=MOST_TEXT)]
Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT)]


class Fields(BaseModel):
    """The body of a request: unknown fields are refused, and nothing is taken for what it is not."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def known(cls, given: Any) -> Any:
        """Names what was probably meant by a field that there is none of."""
        return known_fields(cls, given)


def known_fields(declared: type[BaseModel], given: Any) -> Any:
    """What was given; ValueError if a field of it is none of those declared."""
    names = {field.alias or name for name, field in declared.model_fields.items()}
    if isinstance(given, Mapping) and (strange := [str(name) for name in given if name not in names]):
        raise ValueError(unknown("field", strange[0], sorted(names)))
    return given


class Common(Fields):
    """What every request can have."""

    model: str | None = Field(None, description="Id of the model; see `/v1/models`.", max_length=500)
    user: str | None = Field(None, description="Whom the request is for; nothing depends on it.", max_length=500)
    timeout: float | None = Field(None, gt=0, description="Seconds until the result must be there.")


class Sampled(Common):
    """What every generation can have besides its options."""

    seed: Seed | None = Field(None, description="Item k uses seed + k. Random if omitted.")
    exact: bool = Field(
        False, description="Share no pass with other requests, so that the result is the same to the last bit."
    )
    strength: float | None = Field(None, ge=0, le=1, description="Denoising strength: 1 - fidelity.")


def option(control: Control, kind: Any) -> Any:
    """Return a control as a pydantic field: its type, range and help. Omitted fields take the model's default."""
    bounds: dict[str, Any] = {}
    if control.is_number:
        bounds = {"ge": control.least} | ({"le": control.most} if control.most < math.inf else {})
    names: Any = (
        {"enum": [*control.choices, None]} if control.choices and control.type is str and kind is not Any else {}
    )
    return kind | None, Field(None, description=control.help, json_schema_extra=names or None, **bounds)


def options(*flows: Flow, leave: Iterable[str] = NOT_HERE) -> dict[str, Any]:
    """The options that belong to some flows, as fields."""
    known, left = kinds(), set(leave)
    controls = REQUEST.values() if not flows else [c for flow in flows for c in of_flow(flow, REQUEST)]
    return {c.name: option(c, known[c.name]) for c in controls if not c.hidden and c.name not in left}


class ImageForm(Sampled):
    """How images are returned."""

    n: int = Field(1, ge=1, le=100, description="Number of images.")
    size: str | None = Field(None, description="WIDTHxHEIGHT in pixels, or auto.", max_length=20)
    response_format: Literal["b64_json"] | None = Field(None, description="Images come as base64.")
    output_format: IMAGE_FORMATS = Field("png", description="PNG files hold the record that reproduces them.")
    output_compression: int = Field(95, ge=0, le=100, description="Quality of JPEG and WebP.")
    quality: Literal["auto", "standard"] | None = Field(None, description="Steps decide; see num_inference_steps.")
    background: Literal["auto", "opaque"] | None = Field(None, description="Images have no transparent parts.")
    moderation: Literal["auto", "low"] | None = Field(None, description="There is none.")
    stream: bool | None = Field(None, description="Send events, with partial images on the way.")
    partial_images: int | None = Field(None, ge=0, le=8, description="Partial images to send; with stream.")


_TEXT_TO_IMAGE, _VARIATION = Flow("image", ("text",)), Flow("image", ("image",))
_DUAL = Flow("image", ("text", "image"))

ImageGeneration: Any = create_model(
    "ImageGeneration",
    __base__=ImageForm,
    prompt=(Text, Field(description="What the image shows.")),
    **options(_TEXT_TO_IMAGE),
)


def _read_json(value: Any) -> Any:
    """A value in a form, read as JSON where it looks like it."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError("it looks like JSON, and is none") from error
    return value


def _as_form(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields whose values may be texts, as forms have them."""
    return {
        name: (Annotated[kind, BeforeValidator(_read_json)], field) if name in SEVERAL else (kind, field)
        for name, (kind, field) in fields.items()
    }


_FIDELITY: Any = Literal["high", "low"] | None
_OUTPUTS: Any = Literal["value", "latent", "context"]


class Uploads(ImageForm):
    """Images that come as files of a form."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=False, arbitrary_types_allowed=True)

    image: list[UploadFile] = Field([], description="The image, or several.")
    images: list[UploadFile] = Field([], alias="image[]", description="The same, as some clients send several.")

    @model_validator(mode="before")
    @classmethod
    def known(cls, given: Any) -> Any:
        """Lists may come as `name[]`, as some clients send them."""
        if isinstance(given, Mapping):
            given = {name[:-2] if name[:-2] in SEVERAL else name: value for name, value in given.items()}
        return known_fields(cls, given)

    @property
    def files(self) -> list[UploadFile]:
        """All images, however they were sent."""
        return [*self.image, *self.images]


ImageEdit: Any = create_model(
    "ImageEdit",
    __base__=Uploads,
    prompt=(Text, Field(description="What the result shows.")),
    mask=(
        UploadFile | None,
        Field(None, description="Part to regenerate: transparent in it, or else white; the rest of the image is kept."),
    ),
    input_fidelity=(_FIDELITY, Field(None, description="Of OpenAI's; fidelity says how much.")),
    text_to_image_strength=(float, Field(0.5, ge=0, le=1, description="Share of the prompt beside the images.")),
    **_as_form(options(_DUAL, leave=(*NOT_HERE, "start", "repaint"))),
)
ImageVariation: Any = create_model(
    "ImageVariation", __base__=Uploads, **_as_form(options(_VARIATION, leave=(*NOT_HERE, "start", "repaint")))
)


class Message(Fields):
    """A message of a chat; what is read of it stands in `serving/api/chat.py`."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str, Field(max_length=MOST_TEXT)] | list[dict[str, Any]] | None = None

    @model_validator(mode="before")
    @classmethod
    def known(cls, given: Any) -> Any:
        """Messages of clients may have more fields."""
        return given


_CAPTION, _RETOLD = Flow("text", ("image",)), Flow("text", ("text",))
ChatCompletion: Any = create_model(
    "ChatCompletion",
    __base__=Sampled,
    messages=(list[Message], Field(min_length=1, max_length=1000, description="The last one of the user is read.")),
    n=(int | None, Field(None, ge=1, le=100, description="Number of choices.")),
    stream=(bool | None, Field(None, description="Send events.")),
    stream_options=(dict[str, Any] | None, Field(None, description="Nothing depends on it.")),
    max_tokens=(int | None, Field(None, ge=2, description="Maximum length of the text in tokens.")),
    max_completion_tokens=(int | None, Field(None, ge=2, description="The same.")),
    **(options(_RETOLD) | options(_CAPTION)),
)


class Embedding(Common):
    """Texts and images to vectors of one space."""

    input: Text | list[Text] = Field(
        description="A text, an image as a data URL, or a list of these.", json_schema_extra={"minLength": 1}
    )
    encoding_format: Literal["float", "base64"] = Field("float", description="Numbers, or base64 of float32.")
    dimensions: int | None = Field(None, ge=1, description="Must be the model's own, if given.")


def _condition_fields() -> dict[str, Any]:
    kinds_ = {"focus": float | dict[str, Any], "negative": str | list[str], "region": str | list[float], "mask": str}
    fields: dict[str, Any] = {}
    for name, control in CONDITION.items():
        kind: Any = kinds_.get(name, control.type)
        bounded = kind in (int, float)
        fields[name] = option(control, kind) if bounded else (kind | None, Field(None, description=control.help))
    return fields


ConditionFields: Any = create_model(
    "Condition",
    __base__=Fields,
    modality=(str, Field(description="Such as text or image.", max_length=100)),
    value=(Text | list[Text] | None, Field(None, description="A text; or a file as a data URL or base64.")),
    tokens=(str | None, Field(None, description="Context tokens (L, D) or (B, L, D): base64 of safetensors.")),
    **_condition_fields(),
)
Generate: Any = create_model(
    "Generate",
    __base__=Sampled,
    data=(str, Field(description="The modality to generate, such as image.", max_length=100)),
    conditions=(list[ConditionFields], Field(min_length=1, max_length=MOST_CONDITIONS, description="The conditions.")),
    latents=(str | None, Field(None, description="Noise (B, ...) to begin from: base64 of safetensors.")),
    output=(
        _OUTPUTS,
        Field("value", description="What to return: values, latents alone, or the context tokens of the values."),
    ),
    output_format=(IMAGE_FORMATS, Field("png", description="Of images.")),
    **options(leave=()),
)


class Replay(Common):
    """A record to make again."""

    settings: dict[str, Any] = Field(description="The record of an output.")
    inputs: list[str] = Field(
        [], max_length=64, description="Inputs that the record names by their hash: data URLs or base64, in any order."
    )
    output_format: IMAGE_FORMATS = Field("png", description="Of images.")
