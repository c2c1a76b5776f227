"""Building of the set: fetch, map, render, caption, split, write. Every step is deterministic and resumable."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from versatile_diffusion.data.workers import end_with
from versatile_diffusion.files import write_whole
from versatile_diffusion.recipes.emoji.data import concepts as tables
from versatile_diffusion.recipes.emoji.data import sources
from versatile_diffusion.recipes.emoji.data.captions import make_captions, measure_colours
from versatile_diffusion.recipes.emoji.data.concepts import Concept, Tables, build_concepts, name_index
from versatile_diffusion.recipes.emoji.data.contact_sheet import write_contact_sheet
from versatile_diffusion.recipes.emoji.data.drawings import MEMBERS, Drawing, Wanted, collect, iconify_names
from versatile_diffusion.recipes.emoji.data.editions import LATEST, check_edition, choose
from versatile_diffusion.recipes.emoji.data.fetch import fetch, read_members
from versatile_diffusion.recipes.emoji.data.manifest import COMMAND, FILE_NAME, SCHEMA, Manifest, sha256_of
from versatile_diffusion.recipes.emoji.data.render import decode, encode, is_blank, render
from versatile_diffusion.recipes.emoji.data.shards import EmojiSample, write_shards
from versatile_diffusion.recipes.emoji.data.sources import Package, Style, choose_styles, package_named
from versatile_diffusion.recipes.emoji.data.split import (
    SPLITS,
    Pair,
    pairs_without_sibling,
    split_concepts,
    split_pairs,
)
from versatile_diffusion.recipes.emoji.data.tokenizer import train_tokenizer

RECIPE = 1  # increment if the same packages would give different bytes
WORK = ".work"
_RENDER_TOOLS = ("resvg-py", "pillow")
_TOOLS = (*_RENDER_TOOLS, "fonttools", "tokenizers")
_TEXT_MEMBERS = (
    (sources.NAMES, tables.NAME_FILES),
    (sources.KEYWORDS, tables.KEYWORD_FILES),
    (sources.ALIASES, tables.ALIAS_FILES),
    (sources.TAGS, tables.TAG_FILES),
)
SIZES = range(16, 257)


@dataclass(frozen=True)
class RenderSource:
    """Input of rendering: the whole concept table, each style's drawings, and the number of concepts that the edition
    omits, by reason."""

    concepts: tuple[Concept, ...]
    styles: tuple[Style, ...]
    drawings: dict[str, list[Drawing]]
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BuildRequest:
    """A checked build request, stored in the manifest as the recipe."""

    size: int
    styles: tuple[Style, ...]
    concepts: tuple[str, ...] | None
    edition: int

    @classmethod
    def of(cls, size: int, styles: Sequence[str] | None, concepts: Sequence[str] | None, edition: int) -> BuildRequest:
        """Check the arguments and create a request."""
        check_edition(edition)
        if size not in SIZES:
            raise ValueError(f"size is {size}; it must be {SIZES.start} to {SIZES.stop - 1} pixels")
        keys = None if concepts is None else tuple(sorted(set(concepts)))
        return cls(size, choose_styles(None if styles is None else tuple(styles)), keys, edition)

    def recipe(self) -> dict[str, Any]:
        """Return the request as stored in the manifest."""
        concepts = None if self.concepts is None else list(self.concepts)
        styles = [style.id for style in self.styles]
        packages = [package.spec for package in sources.PACKAGES]
        recipe = {"recipe": RECIPE, "size": self.size, "styles": styles, "concepts": concepts, "packages": packages}
        return recipe | ({} if self.edition == 1 else {"edition": self.edition})


def gather(folder: Path, styles: tuple[Style, ...], progress: bool = True) -> RenderSource:
    """Fetch the packages into `folder` and read concepts and drawings.

    Sets with code points are read even if their style is not requested: their names map the other sets.
    """
    described = [style for style in sources.STYLES if style.form == "iconify" and style.source == "chars"]
    needed = [package for package in sources.PACKAGES if package.name in {name for name, _ in _TEXT_MEMBERS}]
    needed += [p for p in sources.PACKAGES if p not in needed and p.name in {s.package for s in (*styles, *described)}]
    tarballs = {}
    for package in tqdm(needed, "fetch", disable=not progress, unit="package"):
        tarballs[package.name] = fetch(package, folder)
    text: dict[str, bytes] = {}
    for name, members in _TEXT_MEMBERS:
        text |= read_members(tarballs[name], members)
    parsed = Tables.parse(text)
    all_concepts = build_concepts(parsed)
    files = {
        style.id: read_members(tarballs[style.package], MEMBERS[style.form](style)) for style in {*styles, *described}
    }
    vendor_names = [pair for style in described for pair in iconify_names(files[style.id])]
    wanted = Wanted(frozenset(c.key for c in all_concepts), name_index(parsed, all_concepts, vendor_names))
    drawings = {
        style.id: collect(style, files[style.id], wanted)
        for style in tqdm(styles, "map", disable=not progress, unit="style")
    }
    return RenderSource(all_concepts, styles, drawings)


def _narrow(source: RenderSource, request: BuildRequest) -> RenderSource:
    """Reduce the source to the drawings of the requested concepts; the full table is kept, so that the split is stable.

    Named concepts are all used; otherwise the edition selects.
    """
    left_out: dict[str, int] = {}
    if request.concepts is not None:
        keys = frozenset(request.concepts)
        unknown = sorted(keys - {concept.key for concept in source.concepts})
        if unknown or not keys:
            raise ValueError(f"concepts {unknown}: unknown; give code points, e.g. '1f436' or '1f468-1f33e'")
    else:
        drawn = Counter(key for row in source.drawings.values() for key in {drawing.concept for drawing in row})
        keys, left_out = choose(request.edition, source.concepts, drawn, len(source.styles))
    drawings = {name: [d for d in row if d.concept in keys] for name, row in source.drawings.items()}
    return replace(source, drawings=drawings, left_out=left_out)


def _render_one(drawing: Drawing, size: int) -> bytes:
    """Render a drawing to WebP bytes, empty for a blank image. Runs in a worker process."""
    picture = render(drawing, size)
    return b"" if is_blank(picture) else encode(picture)


def _cache_name(style: Style, drawings: Sequence[Drawing], size: int) -> str:
    digest = hashlib.sha256(f"{RECIPE}/{size}/{[version(tool) for tool in _RENDER_TOOLS]}".encode())
    for drawing in drawings:
        digest.update(f"{drawing.key(style.id)}/{len(drawing.source)}/".encode() + drawing.source)
    return f"{style.id}-{digest.hexdigest()[:16]}.zip"


Mapper = Callable[[Callable[[Drawing], bytes], Sequence[Drawing]], Iterable[bytes]]


def _render_style(style: Style, drawings: Sequence[Drawing], size: int, folder: Path, run: Mapper) -> dict[str, bytes]:
    """Return the WebP images of a style by key, cached if rendered before."""
    path = folder / _cache_name(style, drawings, size)
    if not path.is_file():

        def write(part: Path) -> None:
            with zipfile.ZipFile(part, "w") as archive:
                for drawing, data in zip(drawings, run(partial(_render_one, size=size), drawings), strict=True):
                    archive.writestr(drawing.key(style.id), data)

        write_whole(path, write)
    with zipfile.ZipFile(path) as archive:
        pictures = {name: archive.read(name) for name in archive.namelist()}
    return {name: data for name, data in pictures.items() if data}


def render_source(
    source: RenderSource, size: int, workers: int, folder: Path, progress: bool = True
) -> dict[str, dict[str, bytes]]:
    """Return the WebP images that are not blank, by style id and key."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(len(row) for row in source.drawings.values())
    rendered = {}
    with tqdm(total=total, desc="render", disable=not progress, unit="picture") as bar:

        def count(results: Iterable[bytes]) -> Iterable[bytes]:
            for data in results:
                bar.update()
                yield data

        def render_all(run: Mapper) -> None:
            for style in source.styles:
                before = bar.n
                drawings = source.drawings[style.id]
                rendered[style.id] = _render_style(style, drawings, size, folder, lambda f, d: count(run(f, d)))
                bar.update(before + len(drawings) - bar.n)  # cached styles count, too

        if workers == 1:
            render_all(map)
        else:
            with ProcessPoolExecutor(workers, initializer=end_with) as pool:
                render_all(partial(pool.map, chunksize=32))
    return rendered


def make_samples(
    source: RenderSource, pictures: dict[str, dict[str, bytes]]
) -> tuple[list[EmojiSample], list[Concept], dict[Pair, str]]:
    """Return the samples in key order, the concepts that have samples, and the split of each pair."""
    drawn = {
        style.id: [d for d in source.drawings[style.id] if d.key(style.id) in pictures[style.id]]
        for style in source.styles
    }
    pairs = {(style, drawing.concept) for style, row in drawn.items() for drawing in row}
    used = {key for _, key in pairs}
    kept = [replace(c, index=i) for i, c in enumerate(c for c in source.concepts if c.key in used)]
    splits = split_pairs(pairs, split_concepts(source.concepts))
    by_key = {concept.key: concept for concept in kept}
    samples = []
    for style in source.styles:
        licence = package_named(style.package).licence
        for drawing in drawn[style.id]:
            concept, key = by_key[drawing.concept], drawing.key(style.id)
            webp = pictures[style.id][key]
            colours = measure_colours(decode(webp), style.monochrome)
            samples.append(
                EmojiSample(
                    key=key,
                    webp=webp,
                    captions=make_captions(concept, style, colours, key),
                    label=concept.label,
                    concept=concept.key,
                    concept_index=concept.index,
                    style=style.id,
                    group=concept.group,
                    subgroup=concept.subgroup,
                    colours=list(colours),
                    keywords=list(concept.keywords),
                    licence=licence,
                    split=splits[style.id, concept.key],
                )
            )
    return sorted(samples, key=lambda sample: sample.key), kept, splits


def tool_versions() -> dict[str, str]:
    """Return the versions of tools that affect the bytes of a build."""
    try:
        version("brotli")  # fontTools opens the font with it; its version changes nothing
        return {tool: version(tool) for tool in _TOOLS}
    except PackageNotFoundError as error:
        raise ValueError(
            f"building the emoji set needs the Python package {error.name}, which is not installed; "
            "install the data extra: pip install 'versatile-diffusion[data]'"
        ) from None


def _style_row(style: Style) -> dict[str, Any]:
    package: Package = package_named(style.package)
    row = {"id": style.id, "package": package.spec, "licence": package.licence, "authors": package.authors}
    return row | {"phrases": list(style.phrases), "drawing": style.drawing, "monochrome": style.monochrome}


def write_set(
    source: RenderSource, pictures: dict[str, dict[str, bytes]], request: BuildRequest, out: Path
) -> Manifest:
    """Write shards, tokenizer, contact sheet and, last, the manifest."""
    samples, kept, splits = make_samples(source, pictures)
    if not samples:
        raise ValueError("nothing to build: none of the chosen styles has any of the chosen concepts")
    (out / FILE_NAME).unlink(missing_ok=True)  # invalidates the old set
    for old in out.glob("*.tar"):
        old.unlink()
    shards = {split: write_shards([s for s in samples if s.split == split], split, out) for split in SPLITS}
    train_tokenizer((c for s in samples if s.split == "train" for c in s.captions), out / "tokenizer.json")
    write_contact_sheet(samples, [style.id for style in source.styles], request.size, out / "contact_sheet.png")
    parts = split_concepts(source.concepts)
    counts = {split: Counter(sample.style for sample in samples if sample.split == split) for split in SPLITS}
    used = {style.package for style in source.styles} | {name for name, _ in _TEXT_MEMBERS}
    names = [*(name for row in shards.values() for name in row), "tokenizer.json", "contact_sheet.png"]
    manifest = Manifest(
        schema=SCHEMA,
        recipe=request.recipe(),
        tools=tool_versions(),
        files={name: sha256_of(out / name) for name in names},
        shards=shards,
        counts={split: dict(sorted(row.items())) for split, row in counts.items()},
        packages=[asdict(package) for package in sources.PACKAGES if package.name in used],
        styles=[_style_row(style) for style in source.styles],
        concepts=[asdict(concept) | {"part": parts[concept.key]} for concept in kept],
        no_sibling=[list(pair) for pair in pairs_without_sibling(splits, source.styles)],
        left_out=source.left_out,
    )
    manifest.write(out)
    return Manifest.read(out)


def _finished_manifest(out: Path, request: BuildRequest) -> Manifest | None:
    """Return the manifest of `out` if it is complete, intact and matches the request."""
    try:
        manifest = Manifest.read(out)
    except ValueError:
        return None
    same = json.dumps(manifest.recipe, sort_keys=True) == json.dumps(request.recipe(), sort_keys=True)
    return manifest if same and not manifest.damaged(out) else None


def build_emoji(
    out: Path,
    size: int = 64,
    workers: int = 2,
    styles: Sequence[str] | None = None,
    progress: bool = True,
    concepts: Sequence[str] | None = None,
    edition: int = LATEST,
) -> Manifest:
    """Build the emoji set in `out` and return its manifest; a finished set is kept.

    `edition` selects the concepts, see `choose`; the split of a concept is the same in all editions. `styles` and
    `concepts` (code-point keys, e.g. "1f436") select a subset with the same split, but with few styles fewer pairs are
    held out. Downloads and rendered images are in `out/.work`, from which an interrupted build resumes; it may be
    deleted afterwards.
    """
    request = BuildRequest.of(size, styles, concepts, edition)
    if workers < 1:
        raise ValueError(f"workers is {workers}; it must be 1 or more (this machine has {os.cpu_count()} cores)")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out must be a folder, e.g. {COMMAND.format(folder='data/emoji')}")
    finished = _finished_manifest(out, request)
    if finished is not None:
        return finished
    tool_versions()  # check before fetching
    out.mkdir(parents=True, exist_ok=True)
    source = _narrow(gather(out / WORK / "downloads", request.styles, progress), request)
    pictures = render_source(source, size, workers, out / WORK / "pictures", progress)
    return write_set(source, pictures, request, out)
