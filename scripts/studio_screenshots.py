"""Screenshots of every tab of the studio, with results of its first example: docs/images/studio/.

    python scripts/studio_screenshots.py [TAB ...]

Needs the extras `ui` and `dev`, and chromium.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import TimeoutError as TooLate
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from studio_visitor import Visitor, browser_program, launched  # noqa: E402

from versatile_diffusion.cli.io.model import load  # noqa: E402
from versatile_diffusion.ui.serve import running  # noqa: E402

OUT = ROOT / "docs" / "images" / "studio"
LARGEST = 78_000  # bytes
DESK = {"viewport": {"width": 1280, "height": 820}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
EXAMPLES = {"blend": 1}
"""Which example is clicked, where it is not the first."""
GALLERY = ("text-to-image", "image-variation", "image-to-text")
"""Tabs whose examples fill the gallery before it is shown."""
DARK = {**DESK, "color_scheme": "dark"}
LOOKS = {"image-variation": DARK, "text-to-image-phone": PHONE, "blend-phone": PHONE, "gallery-phone": PHONE}
"""Of a screenshot, where it is not that of a desk in the light."""
LOADED = "[...document.images].filter(one => one.offsetParent).every(one => one.complete && one.naturalWidth)"


def save(shot: bytes, name: str) -> None:
    """As a small file: WebP, as good as it may be."""
    with Image.open(io.BytesIO(shot)) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((1280, 1800))
    for quality in range(88, 20, -6):
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality, method=6)
        if buffer.tell() <= LARGEST:
            break
    (OUT / f"{name}.webp").write_bytes(buffer.getvalue())
    print(f"{name}.webp {buffer.tell():,} bytes", flush=True)


def order(tabs: Sequence[str]) -> list[str]:
    """Names of all screenshots, the gallery as soon as there is enough in it."""
    tasks, rest = [tab for tab in tabs if tab in GALLERY], [tab for tab in tabs if tab not in (*GALLERY, "gallery")]
    return ["opened", *tasks, "gallery", *rest, *(look for look in LOOKS if look.endswith("-phone"))]


def shoot(visitor: Visitor, name: str) -> None:
    """One screenshot: of a tab, after its example has run."""
    tab, page, started = name.removesuffix("-phone"), visitor.page, time.perf_counter()
    said = ""
    if tab != "opened":  # the first tab as it is at first
        visitor.tab(tab)
    if page.locator(f"#{tab}-go").count():
        visitor.example(tab, EXAMPLES.get(tab, 0))
        said = visitor.said(tab)
        results = page.locator(f"#{tab}-image-items .grid-container img, #{tab}-text-items label")
        results.first.wait_for(state="visible")
    page.wait_for_function(LOADED)
    page.wait_for_timeout(1000)  # what moves has come to rest
    page.evaluate("scrollTo(0, 0)")
    save(page.screenshot(full_page=True), name)
    print(f"    {said} ({time.perf_counter() - started:.0f} s)", flush=True)


def main(chosen: Sequence[str]) -> None:
    program = browser_program()
    if program is None:
        raise SystemExit("no chromium here")
    OUT.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory() as out,
        running(load("emoji"), "emoji", out=Path(out) / "outputs") as studio,
        sync_playwright() as driver,
    ):
        browser = launched(driver, program)
        tabs = [block.id for block in studio.page.blocks.values() if type(block).__name__ == "Tab"]
        wanted = {*(chosen or order(tabs)), *(GALLERY if "gallery" in chosen else ())}
        visitors: dict[str, Visitor] = {}
        slow: list[str] = []
        for name in order(tabs):
            look = LOOKS.get(name, DESK)
            if name in wanted:
                if str(look) not in visitors:
                    page = browser.new_context(**look).new_page()
                    visitors[str(look)] = Visitor(page, studio.url, patience=600_000).open()
                try:
                    shoot(visitors[str(look)], name)
                except TooLate as error:  # the other tabs are worth having
                    slow.append(f"{name}: {error}")
        troubles = [*slow, *(one for visitor in visitors.values() for one in (*visitor.troubles, *visitor.outside))]
        browser.close()
    if troubles:
        raise SystemExit(f"the pages had troubles: {troubles}")


if __name__ == "__main__":
    main(sys.argv[1:])
