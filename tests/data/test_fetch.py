"""Fetching images from a real server on this machine: what is kept, what fails and why, limits, resuming."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pl = pytest.importorskip("polars")
pytest.importorskip("httpx")

from image_server import Handler, image, serving  # noqa: E402

from versatile_diffusion.data.download import Downloader, DownloadLimits, FailedError, is_public  # noqa: E402
from versatile_diffusion.data.fetch import Order, fetch, pieces  # noqa: E402
from versatile_diffusion.data.places import spread_over  # noqa: E402
from versatile_diffusion.data.rules import Selection  # noqa: E402
from versatile_diffusion.data.select import tables  # noqa: E402

QUICK = DownloadLimits(timeout=600, retries=1, backoff=0.01, size=100_000, private=True)
"""With the patience of the slowest machine: how long an answer takes is no matter here."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as address:
        yield address


def rows(folder: Path, urls: list[str | None], name: str = "a.parquet") -> Path:
    folder.mkdir(exist_ok=True)
    pl.DataFrame(
        {"URL": urls, "TEXT": [f"caption {k}" for k in range(len(urls))], "hash": range(len(urls))}
    ).write_parquet(folder / name)
    return folder


def run(folder: Path, out: Path, limits: DownloadLimits = QUICK, shard: int = 100, **options: Any) -> dict[str, Any]:
    return fetch(
        pieces(tables([str(folder)]), shard), Order(out, limits, options.pop("selection", Selection())), **options
    )


def members(out: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as shard:
            found.update({info.name: shard.extractfile(info).read() for info in shard})  # type: ignore[union-attr]
    return found


def test_images_are_kept_as_they_came_with_caption_size_and_hash(server: str, tmp_path: Path) -> None:
    total = run(rows(tmp_path / "in", [f"{server}/ok/1", f"{server}/png/2", f"{server}/moved/3"]), tmp_path / "out")
    held = members(tmp_path / "out")
    assert list(held)[:3] == ["0000000000.jpg", "0000000000.txt", "0000000000.json"]
    assert held["0000000000.jpg"] == image(1)
    assert held["0000000001.png"] == image(2, "PNG")
    assert held["0000000002.txt"] == b"caption 2"
    told = json.loads(held["0000000002.json"])
    assert (told["width"], told["height"], told["hash"], len(told["sha256"])) == (320, 300, 2, 64)
    assert (total["fetched"], total["redirects"], total["failed"]) == (3, 1, {})


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/gone/1", "HTTP 404"),
        ("/page/1", "not an image"),
        ("/lies/1", "bad image"),
        ("/cut/1", "bad image"),
        ("/huge/1", "too large"),
        ("/thin/1", "measured aspect"),
        ("/small/1", "measured area"),
        ("/loop/1", "too many redirects"),
    ],
)
def test_what_fails_is_told_by_reason(server: str, path: str, reason: str, tmp_path: Path) -> None:
    total = run(rows(tmp_path / "in", [f"{server}/ok/1", server + path]), tmp_path / "out")
    assert (total["fetched"], total["failed"]) == (1, {reason: 1})
    (line,) = (tmp_path / "out" / "00000.failed.jsonl").read_text().splitlines()
    assert json.loads(line)["url"] == server + path
    assert json.loads(line)["key"] == "0000000001"


def test_who_does_not_answer_is_waited_for_no_longer_than_is_said(tmp_path: Path) -> None:
    """The server holds its answer back until the end, so that no clock but the client's counts."""
    with serving() as own:
        folder = rows(tmp_path / "in", [f"{own}/never/1", f"{own}/never/2"])
        total = run(folder, tmp_path / "out", replace(QUICK, timeout=0.5, retries=0))
    assert (total["fetched"], total["failed"]) == (0, {"timeout": 2})


@pytest.mark.parametrize(
    "url", [None, "", "ftp://a.org/x.png", "file:///etc/passwd", "http://", "no url", "http://[::1/"]
)
def test_what_is_no_url_of_the_web_is_not_asked_for(url: str | None, tmp_path: Path) -> None:
    assert run(rows(tmp_path / "in", [url]), tmp_path / "out")["failed"] == {"bad URL": 1}


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server: str, tmp_path: Path) -> None:
    total = run(rows(tmp_path / "in", [f"{server}/later/77", f"{server}/gone/78"]), tmp_path / "out")
    assert (total["fetched"], total["tried_again"]) == (1, 1)
    assert (Handler.asked["/later/77"], Handler.asked["/gone/78"]) == (2, 1)


def test_private_addresses_are_refused_unless_allowed(server: str, tmp_path: Path) -> None:
    folder = rows(tmp_path / "in", [f"{server}/ok/501", server.replace("127.0.0.1", "localhost") + "/ok/501"])
    assert run(folder, tmp_path / "out", DownloadLimits(timeout=600, retries=0))["failed"] == {"private address": 2}
    assert Handler.asked["/ok/501"] == 0


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("::ffff:10.0.0.1", False),
        ("2606:4700::1", True),
        ("224.0.0.1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) == public


def test_a_redirect_to_a_private_address_is_refused(server: str) -> None:
    """The first hop is allowed here by hand, as nothing public is at hand."""

    async def go() -> None:
        async with Downloader(DownloadLimits(timeout=600, retries=0)) as downloader:
            backend = downloader._client._transport._pool._network_backend  # type: ignore[attr-defined]
            port = int(server.rpartition(":")[2])
            real = backend.connect_tcp

            async def connect(**options: Any) -> Any:
                return await (backend._inner.connect_tcp if options["port"] == port else real)(**options)

            backend.connect_tcp = connect
            await downloader.get(f"{server}/local/1")

    with pytest.raises(FailedError, match="private address"):
        asyncio.run(go())


def test_one_host_gets_no_more_than_its_share(tmp_path: Path) -> None:
    """On a server of its own, which answers each request when a second one is there: both of the share are used."""
    limits = DownloadLimits(timeout=600, per_host=2, at_once=16, private=True)
    with serving() as own:
        folder = rows(tmp_path / "in", [f"{own}/pair/{k}" for k in range(30)])
        assert run(folder, tmp_path / "out", limits)["fetched"] == 30
        assert Handler.most[own.removeprefix("http://")] == 2


def test_order_does_not_follow_speed_and_shards_follow_rows(server: str, tmp_path: Path) -> None:
    urls = [f"{server}/{'moved' if k % 3 else 'ok'}/{k}" for k in range(25)]
    run(rows(tmp_path / "in", urls), tmp_path / "out", shard=10)
    run(tmp_path / "in", tmp_path / "again", shard=10)
    assert [path.name for path in sorted((tmp_path / "out").glob("*.tar"))] == ["00000.tar", "00001.tar", "00002.tar"]
    assert list(members(tmp_path / "out"))[::3][:3] == ["0000000000.jpg", "0000000001.jpg", "0000000002.jpg"]
    for path in (tmp_path / "out").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_kill_9_loses_no_finished_shard_and_repeats_none(server: str, tmp_path: Path) -> None:
    folder = rows(tmp_path / "in", [f"{server}/ok/{k}" for k in range(1000, 1040)])
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from versatile_diffusion.data import fetch as f\n"
        "from versatile_diffusion.data.download import DownloadLimits\n"
        "from versatile_diffusion.data.rules import Selection\n"
        "from versatile_diffusion.data.select import tables\n"
        "def progress(done, of):\n"
        "    if done == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "limits = DownloadLimits(timeout=600.0, retries=1, backoff=0.01, size=100_000, private=True)\n"
        "order = f.Order(Path(sys.argv[2]), limits, Selection())\n"
        "f.fetch(f.pieces(tables([sys.argv[1]]), 10), order, progress=progress)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(folder), str(tmp_path / "out")], env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL
    total = run(folder, tmp_path / "out", shard=10)
    assert (total["fetched"], total["shards"]) == (40, 4)
    assert len(members(tmp_path / "out")) == 120
    assert max(Handler.asked[f"/ok/{k}"] for k in range(1000, 1020)) == 1


def test_rows_without_an_address_column_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pl.DataFrame({"link": ["x"]}).write_parquet(tmp_path / "in" / "a.parquet")
    with pytest.raises(ValueError, match=r"no column URL; its columns are link"):
        run(tmp_path / "in", tmp_path / "out")


@pytest.mark.campaign
def test_ray_fetches_the_same_shards(server: str, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    folder = rows(tmp_path / "in", [f"{server}/ok/{k}" for k in range(20)])
    try:
        run(folder, tmp_path / "there", shard=5, spread=spread_over("local"))
    finally:
        ray.shutdown()
    run(folder, tmp_path / "here", shard=5)
    for path in (tmp_path / "here").glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()
