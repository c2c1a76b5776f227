"""A studio with a tiny model of random weights, and a browser to visit it with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from studio_visitor import Visitor, browser_program, launched

if TYPE_CHECKING:
    from versatile_diffusion.ui.serve import Running

QUICK = 3  # steps


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser, Debian's own. While it runs, this thread has an event loop that other files cannot use."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra 'dev')")
    program = browser_program()
    if program is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = launched(driver, program)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def connections() -> list[str]:
    """Hosts that this process connects to or asks the address of, from now on."""
    hosts: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(arguments[1], tuple):
            hosts.append(str(arguments[1][0]))
        if event == "socket.getaddrinfo" and arguments[0] is not None:
            hosts.append(arguments[0].decode() if isinstance(arguments[0], bytes) else str(arguments[0]))

    sys.addaudithook(watch)  # stays until the process ends
    return hosts


@pytest.fixture(scope="module")
def studio(connections: list[str]) -> Iterator[Running]:
    """A studio of its own model, quick enough to click through. It ends before what its file opened earlier: studios of
    one process share its environment variables, and restore those that they found."""
    pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")
    from tiny import build_tiny_pipeline

    from versatile_diffusion.tasks import TASKS
    from versatile_diffusion.ui.queue.jobs import StudioLimits
    from versatile_diffusion.ui.serve import running

    pipe = build_tiny_pipeline()
    pipe.register_to_config(defaults={task: {"num_inference_steps": QUICK} for task in TASKS})
    with running(pipe, "tiny", limits=StudioLimits(steps=200, each=2)) as started:
        yield started


@pytest.fixture
def visit(chromium: Any, studio: Running) -> Iterator[Callable[..., Visitor]]:
    """Opens the studio in a page of its own; in the end no page may have had an error or asked anything elsewhere."""
    visitors: list[Visitor] = []

    def opened(**options: Any) -> Visitor:
        page = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}).new_page()
        visitors.append(visitor := Visitor(page, studio.url).open())
        return visitor

    yield opened
    for visitor in visitors:
        visitor.page.context.close()
    assert [visitor.troubles for visitor in visitors] == [[]] * len(visitors)
    assert [visitor.outside for visitor in visitors] == [[]] * len(visitors)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A picture to upload, with a different colour in each quarter."""
    drawn = Image.new("RGB", (64, 64), "white")
    for k, colour in enumerate(("red", "blue", "green", "yellow")):
        drawn.paste(colour, (32 * (k % 2), 32 * (k // 2), 32 * (k % 2) + 32, 32 * (k // 2) + 32))
    drawn.save(file := tmp_path / "sample.png")
    return file
