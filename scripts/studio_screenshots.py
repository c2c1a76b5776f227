"""Screenshots of every tab of the studio, with results of its first example: docs/images/studio/.

    python scripts/studio_screenshots.py [TAB ...]

Needs the extras `ui` and `dev`, and chromium.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from studio_visitor import Visitor, browser_program, launched  # noqa: E402

from versatile_diffusion.cli.model import load  # noqa: E402
from versatile_diffusion.ui.serve import running  # noqa: E402

OUT = ROOT / "docs" / "images" / "studio"
LARGEST = 78_000  # bytes
DESK = {"viewport": {"width": 1280, "height": 820}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
EXAMPLES = {"dual-guided": 2, "blend": 1, "sweep": 1}
"""Which example is clicked, where it is not the first."""
QUIET = ("history", "explain")
LOOKS = {"image-variation": {**DESK, "color_scheme": "dark"}, "text-to-image-phone": PHONE, "blend-phone": PHONE}


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


def shoot(browser: Any, url: str, name: str) -> None:
    """One screenshot: of a tab, after its example has run."""
    tab = name.removesuffix("-phone")
    page = browser.new_context(**LOOKS.get(name, DESK)).new_page()
    visitor = Visitor(page, url, patience=600_000).open()
    if tab == "history":
        for first in ("text-to-image", "image-to-text"):
            visitor.tab(first)
            visitor.example(first)
            visitor.said(first)
    visitor.tab(tab)
    if tab not in QUIET:
        visitor.example(tab, EXAMPLES.get(tab, 0))
        print(f"{name}: {visitor.said(tab)}", flush=True)
    page.wait_for_timeout(1500)
    page.evaluate("scrollTo(0, 0)")
    save(page.screenshot(full_page=True), name)
    page.context.close()


def main(chosen: Sequence[str]) -> None:
    program = browser_program()
    if program is None:
        raise SystemExit("no chromium here")
    OUT.mkdir(parents=True, exist_ok=True)
    with running(load("emoji"), "emoji") as studio, sync_playwright() as driver:
        browser = launched(driver, program)
        tabs = [block.id for block in studio.page.blocks.values() if type(block).__name__ == "Tab"]
        for name in [*tabs, *(look for look in LOOKS if look.endswith("-phone"))]:
            if not chosen or name in chosen:
                shoot(browser, studio.url, name)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
