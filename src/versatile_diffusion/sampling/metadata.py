"""What a saved picture tells of its own making, as PNG text chunks (iTXt, since prompts are in any script).

* `versatile_diffusion`: our record as JSON with a schema number. It is the source of truth and can be replayed.
* `parameters`: the same in the form of the A1111 web UI, which gallery tools read.
* `XML:com.adobe.xmp`: IPTC's machine-readable mark of a picture made by a trained model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, PngImagePlugin

KEY = "versatile_diffusion"
SCHEMA = 1
A1111_FIELDS = {
    "Steps": "num_inference_steps",
    "Sampler": "scheduler",
    "CFG scale": "guidance_scale",
    "Seed": "seed",
    "Size": "size",
    "Model": "model",
    "Version": "library",
}

XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    "<Iptc4xmpExt:DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    "</Iptc4xmpExt:DigitalSourceType></rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="w"?>'
)


def save_png(image: Image.Image, file: Path | BinaryIO, record: Mapping[str, Any]) -> None:
    """Write `image` as PNG with `record` in its text chunks.

    Args:
        image: the picture, any mode that PNG knows.
        file: a path or an open binary file.
        record: what made it, plain JSON: an item's `Output.settings` and what the caller adds to them.
    """
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", a1111_parameters(image, record))
    info.add_itxt(KEY, json.dumps({"schema": SCHEMA, **record}, ensure_ascii=False))
    info.add_itxt("XML:com.adobe.xmp", XMP)
    image.save(file, format="PNG", pnginfo=info)


def read_record(image: Image.Image, name: object = "the picture") -> dict[str, Any]:
    """The record that `save_png` wrote; ValueError if there is none or this version cannot read it.

    Args:
        image: an opened PNG.
        name: how to call it in the error message.
    """
    text = getattr(image, "text", {}).get(KEY)
    if text is None:
        raise ValueError(f"{name} holds no {KEY} record; only a PNG saved by this library can be replayed")
    record = parse_record(text, f"the {KEY} record of {name}")
    if (schema := record.get("schema")) != SCHEMA:
        raise ValueError(f"{name} has a record of schema {schema!r}; this version reads schema {SCHEMA}")
    return record


def parse_record(text: str, name: object) -> dict[str, Any]:
    """A record from its JSON; ValueError if it is damaged. `name` is what the message calls it."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"{name} is damaged (it is a {type(record).__name__}, not an object of JSON)")
    return record


def a1111_parameters(image: Image.Image, record: Mapping[str, Any]) -> str:
    """Prompt, negative prompt and one line of settings, as the A1111 web UI writes them."""
    fields = {name: record.get(key) for name, key in A1111_FIELDS.items()}
    fields["Size"] = f"{image.width}x{image.height}"
    if isinstance(fields["Model"], Mapping):
        fields["Model"] = fields["Model"].get("name")
    lines = [str(record.get("prompt") or "")]
    if record.get("negative_prompt"):
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in fields.items() if value is not None))
    return "\n".join(lines)


def _quoted(value: object) -> str:
    """A value with a comma, colon or line break is written as a JSON string, so that the line can be split again."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text
