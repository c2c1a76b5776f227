"""Generation record embedded in a PNG as text chunks (iTXt, since prompts may use any script).

* `versatile_diffusion`: our record as JSON with a schema number; the source of truth for replay.
* `parameters`: the same in the format of the A1111 web UI, which gallery tools read.
* `XML:com.adobe.xmp`: IPTC's machine-readable marker of AI-generated images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.image import write_png
from versatile_diffusion.modalities.image.files import is_file, name_of, one_sentence, read_text
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import parse_json

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
        image: image in any mode that PNG supports.
        file: path or open binary file.
        record: plain JSON: an item's `Output.settings` and additions of the caller.
    """
    write_png(image, file, chunks_of(image, record))


def chunks_of(image: Image.Image, record: Mapping[str, Any]) -> dict[str, str]:
    """Return the text chunks of a record."""
    told = json.dumps({"schema": SCHEMA, **record}, ensure_ascii=False)
    return {"parameters": a1111_parameters(image, record), KEY: told, "XML:com.adobe.xmp": XMP}


def write_value(modality: str, value: Any, stream: BinaryIO, record: Mapping[str, Any] | None = None) -> None:
    """Write a value of a modality, with its record embedded if the format supports it.

    Raises:
        ValueError: the modality has no file format.
    """
    known = MODALITIES[modality]
    if known.write is None:
        raise ValueError(f"{known.noun} cannot be written to a file: its modality has no writer")
    known.write(value, stream, chunks_of(value, record) if record is not None and known.embeds else {})


def read_record(image: Any, name: object = "") -> dict[str, Any]:
    """Read the record written by `save_png`; ValueError if missing or unsupported.

    Args:
        image: PNG file (path, bytes or file object) or an opened PIL image.
        name: name for error messages; by default the path.
    """
    name = name or name_of(image)
    if is_file(image):
        text = read_text(image, KEY, str(name))
    else:
        with one_sentence(str(name)):
            text = getattr(image, "text", {}).get(KEY)
    if text is None:
        raise ValueError(f"{name} has no {KEY} record; only a PNG saved by this library can be replayed")
    record = parse_json(text, f"the {KEY} record of {name}")
    if (schema := record.get("schema")) != SCHEMA:
        raise ValueError(f"{name} has a record of schema {shown(schema)}; this version reads schema {SCHEMA}")
    return record


def a1111_parameters(image: Image.Image, record: Mapping[str, Any]) -> str:
    """Format prompt, negative prompt and settings as the A1111 web UI does."""
    fields = {name: record.get(key) for name, key in A1111_FIELDS.items()}
    fields["Size"] = f"{image.width}x{image.height}"
    if isinstance(fields["Model"], Mapping):
        fields["Model"] = fields["Model"].get("name")
    lines = [str(record.get("prompt") or "")]
    if record.get("negative_prompt"):
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    lines.append(", ".join(f"{name}: {_quote(value)}" for name, value in fields.items() if value is not None))
    return "\n".join(lines)


def _quote(value: object) -> str:
    """Quote values with a comma, colon or line break as JSON strings, so that the line can be parsed."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text
