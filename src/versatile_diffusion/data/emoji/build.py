"""Building the set: fetch, map, render, caption, split, write. Every step is deterministic and can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tqdm import tqdm

from versatile_diffusion.data.disk import write_whole
from versatile_diffusion.data.emoji import concepts as tables
from versatile_diffusion.data.emoji import sources
from versatile_diffusion.data.emoji.captions import make_captions, measure_colours
from versatile_diffusion.data.emoji.concepts import Concept, Tables, build_concepts, name_index
from versatile_diffusion.data.emoji.contact_sheet import write_contact_sheet
from versatile_diffusion.data.emoji.drawings import MEMBERS, Drawing, Wanted, collect, iconify_names
from versatile_diffusion.data.emoji.fetch import fetch, read_members
from versatile_diffusion.data.emoji.manifest import COMMAND, FILE_NAME, SCHEMA, Manifest, sha256_of
from versatile_diffusion.data.emoji.render import decode, encode, is_blank, render
from versatile_diffusion.data.emoji.shards import Sample, write_shards
from versatile_diffusion.data.emoji.sources import Package, Style, choose_styles, package_named
from versatile_diffusion.data.emoji.split import SPLITS, Pair, pairs_without_sibling, split_concepts, split_pairs
from versatile_diffusion.data.emoji.tokenizer import train_tokenizer

RECIPE = 1  # raise it when the same packages would give other bytes
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
class Source:
    """All that rendering needs: the whole concept table, and each style's drawings."""

    concepts: tuple[Concept, ...]
    styles: tuple[Style, ...]
    drawings: dict[str, list[Drawing]]


@dataclass(frozen=True)
class Request:
    """What is to be built: checked once, stored in the manifest as the recipe."""

    size: int
    styles: tuple[Style, ...]
    concepts: tuple[str, ...] | None

    @classmethod
    def of(cls, size: int, styles: Sequence[str] | None, concepts: Sequence[str] | None) -> Request:
        """Checks the wishes of a caller."""
        if size not in SIZES:
            raise ValueError(f"size {size}: allowed are {SIZES.start} to {SIZES.stop - 1} pixels")
        keys = None if concepts is None else tuple(sorted(set(concepts)))
        return cls(size, choose_styles(None if styles is None else tuple(styles)), keys)

    def recipe(self) -> dict:
        """The request as the manifest keeps it."""
        concepts = None if self.concepts is None else list(self.concepts)
        styles = [style.id for style in self.styles]
        packages = [package.spec for package in sources.PACKAGES]
        return {"recipe": RECIPE, "size": self.size, "styles": styles, "concepts": concepts, "packages": packages}


def gather(folder: Path, styles: tuple[Style, ...], progress: bool = True) -> Source:
    """Fetches the packages into `folder` and reads concepts and drawings from them.

    Sets that state code points are read even when their style is not wanted: their names map the other sets.
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
    return Source(all_concepts, styles, drawings)


def _narrow(source: Source, keys: tuple[str, ...] | None) -> Source:
    """The source with the drawings of these concepts only; the table stays whole, so the split stays the same."""
    if keys is None:
        return source
    unknown = sorted(set(keys) - {concept.key for concept in source.concepts})
    if unknown or not keys:
        raise ValueError(
            f"concepts {unknown}: unknown; allowed are code points such as '1f436' or '1f468-1f33e', at least one"
        )
    return replace(
        source, drawings={name: [d for d in row if d.concept in keys] for name, row in source.drawings.items()}
    )


def _render_one(drawing: Drawing, size: int) -> bytes:
    """WebP bytes, or nothing for a blank picture. Runs in a worker process."""
    picture = render(drawing, size)
    return b"" if is_blank(picture) else encode(picture)


def _cache_name(style: Style, drawings: Sequence[Drawing], size: int) -> str:
    digest = hashlib.sha256(f"{RECIPE}/{size}/{[version(tool) for tool in _RENDER_TOOLS]}".encode())
    for drawing in drawings:
        digest.update(f"{drawing.key(style.id)}/{len(drawing.source)}/".encode() + drawing.source)
    return f"{style.id}-{digest.hexdigest()[:16]}.zip"


Mapper = Callable[[Callable[[Drawing], bytes], Sequence[Drawing]], Iterable[bytes]]


def _render_style(style: Style, drawings: Sequence[Drawing], size: int, folder: Path, run: Mapper) -> dict[str, bytes]:
    """Key -> WebP of the style's pictures, from the cache when this style was rendered before."""
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
    source: Source, size: int, workers: int, folder: Path, progress: bool = True
) -> dict[str, dict[str, bytes]]:
    """Style id -> key -> WebP of all pictures that are not blank."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(len(row) for row in source.drawings.values())
    rendered = {}
    with tqdm(total=total, desc="render", disable=not progress, unit="picture") as bar:

        def counted(results: Iterable[bytes]) -> Iterable[bytes]:
            for data in results:
                bar.update()
                yield data

        def render_all(run: Mapper) -> None:
            for style in source.styles:
                before = bar.n
                drawings = source.drawings[style.id]
                rendered[style.id] = _render_style(style, drawings, size, folder, lambda f, d: counted(run(f, d)))
                bar.update(before + len(drawings) - bar.n)  # a style from the cache counts too

        if workers == 1:
            render_all(map)
        else:
            with ProcessPoolExecutor(workers) as pool:
                render_all(partial(pool.map, chunksize=32))
    return rendered


def make_samples(
    source: Source, pictures: dict[str, dict[str, bytes]]
) -> tuple[list[Sample], list[Concept], dict[Pair, str]]:
    """The samples in key order, the concepts that have any (index = place), and each pair's split."""
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
                Sample(
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


def _tool_versions() -> dict[str, str]:
    """The versions of what the bytes of a build depend on."""
    try:
        version("brotli")  # fontTools opens the font with it; its version changes nothing
        return {tool: version(tool) for tool in _TOOLS}
    except PackageNotFoundError as error:
        raise ValueError(
            f"building the emoji set needs the Python package {error.name}, which is not installed; "
            "install the data extra: pip install 'versatile-diffusion[data]'"
        ) from None


def _style_row(style: Style) -> dict:
    package: Package = package_named(style.package)
    row = {"id": style.id, "package": package.spec, "licence": package.licence, "authors": package.authors}
    return row | {"phrases": list(style.phrases), "drawing": style.drawing, "monochrome": style.monochrome}


def write_set(source: Source, pictures: dict[str, dict[str, bytes]], request: Request, out: Path) -> Manifest:
    """Writes shards, tokenizer, contact sheet and, last of all, the manifest."""
    samples, kept, splits = make_samples(source, pictures)
    if not samples:
        raise ValueError("no picture is left: none of the chosen styles draws any of the chosen concepts")
    (out / FILE_NAME).unlink(missing_ok=True)  # from here on the old set is gone
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
        tools=_tool_versions(),
        files={name: sha256_of(out / name) for name in names},
        shards=shards,
        counts={split: dict(sorted(row.items())) for split, row in counts.items()},
        packages=[asdict(package) for package in sources.PACKAGES if package.name in used],
        styles=[_style_row(style) for style in source.styles],
        concepts=[asdict(concept) | {"part": parts[concept.key]} for concept in kept],
        no_sibling=[list(pair) for pair in pairs_without_sibling(splits, source.styles)],
    )
    manifest.write(out)
    return Manifest.read(out)


def _finished(out: Path, request: Request) -> Manifest | None:
    """The manifest of `out` if it holds just what is asked for, unharmed."""
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
) -> Manifest:
    """Builds the emoji set in `out` and returns its manifest; a finished set is left as it is.

    `styles` and `concepts` (code-point keys such as "1f436") choose a part; what stays keeps its split, but with few
    styles fewer pairs are held out. Downloads and rendered pictures lie in `out/.work`, which an interrupted build goes
    on from and which may be deleted afterwards.
    """
    request = Request.of(size, styles, concepts)
    if workers < 1:
        raise ValueError(f"workers {workers}: allowed are 1 or more (this machine has {os.cpu_count()} cores)")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out takes a folder, for example: {COMMAND.format(folder='data/emoji')}")
    finished = _finished(out, request)
    if finished is not None:
        return finished
    _tool_versions()  # said before anything is fetched
    out.mkdir(parents=True, exist_ok=True)
    source = _narrow(gather(out / WORK / "downloads", request.styles, progress), request.concepts)
    pictures = render_source(source, size, workers, out / WORK / "pictures", progress)
    return write_set(source, pictures, request, out)
