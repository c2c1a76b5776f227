"""Building of the speech set: words and split from an emoji set, spoken, written as shards. Deterministic."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from versatile_diffusion.files import write_whole
from versatile_diffusion.modalities.audio.waveform import LEAD, RATE, SAMPLES, normalise, sounding_part
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import read_json
from versatile_diffusion.recipes.emoji.data.manifest import Manifest, sha256_of
from versatile_diffusion.recipes.emoji.data.split import SPLITS, split_pairs
from versatile_diffusion.recipes.speech.data.voices import VOICES, Voice, espeak_version, speak

SCHEMA = 1
RECIPE = 1  # increment if the same words would give different bytes
FILE_NAME = "speech.json"
SHARD_SAMPLES = 4000
COMMAND = "versatile data speech --out {folder}"
_TOO_LONG = "too long for the recordings' length"
NOTICE = """This set was made by the program espeak-ng ({version}), which is not part of it: https://github.com/espeak-ng/espeak-ng
(GPL-3.0-or-later; its licence covers the program, not the sound that it makes).

The words are labels of emoji as in emojibase-data (MIT) and CLDR (Unicode-3.0), taken from an emoji set; its
manifest has the authors and licences of its packages.
"""


@dataclass(frozen=True)
class SpeechSample:
    """A recording with its labels. `concept_index` is the row in the manifest's concept table."""

    key: str
    flac: bytes
    label: str
    concept: str
    concept_index: int
    voice: str
    captions: list[str]
    split: str


@dataclass(frozen=True)
class SpeechManifest:
    """Content of `speech.json`: `files` maps file names to sha256, `shards` splits to files, `counts` splits to
    recordings per voice; `emoji` is the hash of the emoji set whose words and split these are; `left_out` are words by
    reason."""

    schema: int
    recipe: dict[str, Any]
    tools: dict[str, str]
    emoji: str
    files: dict[str, str]
    shards: dict[str, list[str]]
    counts: dict[str, dict[str, int]]
    voices: list[dict[str, Any]]
    concepts: list[dict[str, Any]]
    left_out: dict[str, list[str]]

    @property
    def total(self) -> int:
        """Total number of recordings."""
        return sum(sum(row.values()) for row in self.counts.values())

    @property
    def hash(self) -> str:
        """Short hash of the content, independent of tool versions."""
        held = [{name: self.files[name] for names in self.shards.values() for name in names}, self.concepts]
        return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def read(cls, folder: Path) -> SpeechManifest:
        """Read the manifest of a built set.

        Raises:
            ValueError: there is none, or of another schema.
        """
        command = COMMAND.format(folder=folder)
        if not (folder / FILE_NAME).is_file():
            raise ValueError(f"no speech set in {folder} ({FILE_NAME} is missing); build it with: {command}")
        values = read_json(folder / FILE_NAME)
        if values.get("schema") != SCHEMA or set(values) != set(cls.__dataclass_fields__):
            raise ValueError(f"{folder / FILE_NAME} is of another version; build the set again with: {command}")
        return cls(**values)

    def intact(self, folder: Path) -> bool:
        """Whether all files are there, with their checksums."""
        return all((folder / name).is_file() and sha256_of(folder / name) == told for name, told in self.files.items())


def build_speech(out: Path, emoji: Path, workers: int = 2, progress: bool = True) -> SpeechManifest:
    """Build the speech set in `out` and return its manifest; a finished set is kept.

    Args:
        out: folder to build in.
        emoji: a built emoji set, whose words are spoken and whose split of concepts is kept.
        workers: processes of espeak-ng at a time.

    Raises:
        ValueError: espeak-ng is not installed, no emoji set, or `out` is no folder.
    """
    tools = {"espeak-ng": espeak_version(), "soundfile": version("soundfile"), "soxr": version("soxr")}
    words = Manifest.read(emoji)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out is {out}, which is a file; give a folder")
    recipe = {"recipe": RECIPE, "rate": RATE, "voices": [voice.id for voice in VOICES]}
    if (done := _finished_manifest(out)) and (done.recipe, done.tools, done.emoji) == (recipe, tools, words.hash):
        return done
    out.mkdir(parents=True, exist_ok=True)
    samples, left_out = _speak_all(words.concepts, workers, progress)
    if not samples:
        raise ValueError(f"nothing to build: {emoji} has no words that fit into {SAMPLES / RATE} s")
    for old in (out / FILE_NAME, *out.glob("*.tar")):
        old.unlink(missing_ok=True)
    shards = {split: _write_shards([s for s in samples if s.split == split], split, out) for split in SPLITS}
    (out / "NOTICE").write_text(NOTICE.format(version=tools["espeak-ng"]), encoding="utf-8")
    names = ["NOTICE", *(name for row in shards.values() for name in row)]
    counts = {split: Counter(sample.voice for sample in samples if sample.split == split) for split in SPLITS}
    manifest = SpeechManifest(
        schema=SCHEMA,
        recipe=recipe,
        tools=tools,
        emoji=words.hash,
        files={name: sha256_of(out / name) for name in names},
        shards=shards,
        counts={split: dict(sorted(row.items())) for split, row in counts.items()},
        voices=[asdict(voice) | {"phrases": list(voice.phrases)} for voice in VOICES],
        concepts=[row for row in words.concepts if row["label"] not in left_out],
        left_out={_TOO_LONG: left_out},
    )
    text = json.dumps(asdict(manifest), ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    write_whole(out / FILE_NAME, lambda part: part.write_text(text, encoding="utf-8"))
    return manifest


def _finished_manifest(out: Path) -> SpeechManifest | None:
    try:
        manifest = SpeechManifest.read(out)
    except ValueError:
        return None
    return manifest if manifest.intact(out) else None


def _speak_all(
    concepts: Sequence[Mapping[str, Any]], workers: int, progress: bool
) -> tuple[list[SpeechSample], list[str]]:
    """Return all samples in key order, and the words that are too long in some voice."""
    wanted = [(row, voice) for row in concepts for voice in VOICES]
    with ThreadPoolExecutor(workers) as pool:
        spoken = pool.map(lambda pair: _flac(pair[1], pair[0]["label"]), wanted)
        bar = tqdm(spoken, "speak", total=len(wanted), disable=not progress, unit="word")
        heard = dict(zip(((row["key"], voice.id) for row, voice in wanted), bar, strict=True))
    left_out = [row["label"] for row in concepts if any(not heard[row["key"], voice.id] for voice in VOICES)]
    kept = [row for row in concepts if row["label"] not in left_out]
    pairs = {(voice.id, row["key"]) for row in kept for voice in VOICES}
    splits = split_pairs(pairs, {row["key"]: row["part"] for row in kept})
    make = partial(_sample, heard=heard, splits=splits)
    samples = [make(index, row, voice) for index, row in enumerate(kept) for voice in VOICES]
    return sorted(samples, key=lambda sample: sample.key), left_out


def _sample(
    index: int, row: Mapping[str, Any], voice: Voice, heard: Mapping[Any, bytes], splits: Mapping[Any, str]
) -> SpeechSample:
    return SpeechSample(
        key=f"{voice.id}-{row['key']}",
        flac=heard[row["key"], voice.id],
        label=row["label"],
        concept=row["key"],
        concept_index=index,
        voice=voice.id,
        captions=[f"{row['label']}, {phrase}" for phrase in voice.phrases],
        split=splits[voice.id, row["key"]],
    )


def _flac(voice: Voice, text: str) -> bytes:
    """Return the spoken text as the model hears it, without the silence after it; empty if it is too long."""
    import soundfile

    wave = speak(voice, text)
    if len(sounding_part(wave.samples, wave.rate)) / wave.rate > (SAMPLES + LEAD) / RATE:
        return b""
    samples = normalise(wave)
    content = io.BytesIO()
    levels = (np.trim_zeros(samples, "b") * 32767).round().astype(np.int16)
    soundfile.write(content, levels, RATE, subtype="PCM_16", format="FLAC")
    return content.getvalue()


def _write_shards(samples: Sequence[SpeechSample], split: str, folder: Path) -> list[str]:
    """Write the samples as `<split>-00000.tar` etc., the same bytes each time; return the file names."""
    names = []
    for number, start in enumerate(range(0, len(samples), SHARD_SAMPLES)):
        names.append(f"{split}-{number:05d}.tar")
        with tarfile.open(folder / names[-1], "w", format=tarfile.USTAR_FORMAT) as archive:
            for sample in samples[start : start + SHARD_SAMPLES]:
                row = {name: value for name, value in asdict(sample).items() if name not in ("key", "flac")}
                text = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
                _add(archive, f"{sample.key}.json", text.encode())
                _add(archive, f"{sample.key}.txt", "\n".join(sample.captions).encode())
                _add(archive, f"{sample.key}.flac", sample.flac)
    return names


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # owner 0 without a name and time 0 by default
    info.size, info.mode = len(data), 0o644
    archive.addfile(info, io.BytesIO(data))


def read_shard(path: Path) -> Iterator[SpeechSample]:
    """Yield the samples of a shard in order.

    Raises:
        ValueError: a file of another kind.
    """
    with tarfile.open(path, "r:") as archive:
        row: dict[str, Any] = {}
        for info in archive:
            file = archive.extractfile(info)
            key, _, kind = info.name.partition(".")
            if file is None or kind not in ("json", "txt", "flac"):
                raise ValueError(f"{path.name} contains {shown(info.name)}; allowed: .json, .txt and .flac files")
            if kind == "json":
                row = json.loads(file.read())
            elif kind == "flac":
                yield SpeechSample(key=key, flac=file.read(), **row)
