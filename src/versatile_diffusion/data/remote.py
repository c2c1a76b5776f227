"""Remote shards: downloaded as a whole when read, with the next one prefetched, into a cache of bounded size."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

TRIES, PAUSE = 4, 0.5
"""Maximum attempts per download, and the delay before the second one in seconds; it doubles each time."""
MOST_CACHED = 32 << 30
"""Default size of the cache in bytes."""
KINDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".parquet")


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL (`s3://`, `gs://`, `hf://`, `file://`, ...)."""
    return "://" in str(path)


@dataclass
class Cache:
    """Local cache of remote files and folders; the least recently used are evicted first.

    Args:
        folder: of the cache; several processes may share it.
        most: maximum size in bytes, not counting what is being read or prefetched.
    """

    folder: Path
    most: int = MOST_CACHED
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _running: dict[str, Future[Path]] = field(default_factory=dict, repr=False)
    _wanted: Counter[Path] = field(default_factory=Counter, repr=False)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(2, thread_name_prefix="fetch-shards")

    @contextmanager
    def held(self, url: str, tag: str = "") -> Iterator[Path]:
        """Like `local`, but not evicted while the block runs."""
        place = self._place(url, tag)
        self._wanted[place] += 1
        try:
            yield self.local(url, tag)
        finally:
            self._wanted[place] = 0

    def local(self, url: str, tag: str = "") -> Path:
        """The local copy of a URL. `tag` identifies its version.

        Raises:
            OSError: the download failed.
        """
        found = self.ahead(url, tag).result()
        with suppress(OSError):
            os.utime(found.parent)
        return found

    def ahead(self, url: str, tag: str = "") -> Future[Path]:
        """Start to download a URL unless it is cached. It is not evicted before it was `held`."""
        with self._lock:
            self._wanted[self._place(url, tag)] += 1
            running = self._running.get(url)
            if running is None or (running.done() and (running.exception() or not running.result().exists())):
                running = self._running[url] = self._threads.submit(self._fetch, url, tag)
            return running

    def _fetch(self, url: str, tag: str) -> Path:
        place = self._place(url, tag)
        target = place / url.rstrip("/").rpartition("/")[2]
        if target.exists():
            return target
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix="draft-", dir=self.folder))
        try:
            _get(url, draft / target.name)
            with suppress(OSError):  # another process was faster
                os.replace(draft, place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self._evict(place)
        return target

    def _place(self, url: str, tag: str) -> Path:
        return self.folder / hashlib.sha256(f"{url} {tag}".encode()).hexdigest()[:24]

    def _evict(self, keep: Path) -> None:
        """Remove the least recently used entries until the rest fits."""
        there = []
        for place in self.folder.iterdir():
            with suppress(OSError):
                there.append((place.stat().st_mtime, place, _size(place)))
        total = sum(size for *_, size in there)
        for _, place, size in sorted(there):
            if total <= self.most:
                return
            if place != keep and not self._wanted[place] and not place.name.startswith("draft-"):
                shutil.rmtree(place, ignore_errors=True)  # processes with an open file can still read it
                total -= size


def _size(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def _get(url: str, target: Path) -> None:
    """Copy a file or a folder, with retries."""
    from fsspec.core import url_to_fs

    system, path = url_to_fs(url)
    for left in range(TRIES - 1, -1, -1):
        try:
            system.get(path, str(target), recursive=system.isdir(path))
            return
        except Exception as error:
            if not left:
                raise OSError(f"{url} cannot be downloaded ({type(error).__name__}: {error})") from error
        time.sleep(PAUSE * 2 ** (TRIES - 1 - left))


@dataclass(frozen=True)
class RemoteShard:
    """A remote file of samples.

    Args:
        url: of the file.
        tag: version of its content.
        cache: holds the local copy.
        encoding: of the captions, if specified.
    """

    url: str
    tag: str
    cache: Cache
    encoding: str | None = None

    @property
    def path(self) -> Path:
        """For messages."""
        return Path(self.url)

    @property
    def content(self) -> str:
        return self.tag

    def fetch_ahead(self) -> None:
        self.cache.ahead(self.url, self.tag)

    def samples(self, start: int) -> Iterator[Any]:
        from versatile_diffusion.data.layouts import shards_in

        with self.cache.held(self.url, self.tag) as file:
            ((shard,), _) = shards_in(file, self.encoding)
            yield from shard.samples(start)


CACHE = Cache(Path(os.environ.get("VERSATILE_SHARDS", Path.home() / ".cache" / "versatile-diffusion" / "shards")))
"""The cache of this machine; the environment variable VERSATILE_SHARDS sets its folder."""


def remote_shards(url: str, encoding: str | None = None) -> list[RemoteShard]:
    """The shards and parquet files in a remote folder, or that match a pattern.

    Raises:
        ValueError: none found, or the file system is not installed.
    """
    files = [(name, tag) for name, tag in list_files(url) if name.lower().endswith(KINDS)]
    if not files:
        raise ValueError(f"{url} has no shards; allowed: {', '.join(KINDS)}")
    return [RemoteShard(name, tag, CACHE, encoding) for name, tag in files]


def list_files(url: str) -> list[tuple[str, str]]:
    """The files at a URL, in a folder and below, or that match a pattern: the URL and the version tag of each.

    Raises:
        ValueError: the file system is not installed, or cannot be reached.
    """
    from braceexpand import braceexpand
    from fsspec.core import url_to_fs

    found: dict[str, str] = {}
    try:
        for name in braceexpand(url):
            system, path = url_to_fs(name)
            files = system.glob(path) if set("*?[") & set(path) else [path]
            for file in files:
                for one in system.find(file) if system.isdir(file) else [file]:
                    if system.exists(one):
                        found[system.unstrip_protocol(one)] = str(system.ukey(one))
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(f"{url} cannot be read: {error}") from error
    return sorted(found.items())
