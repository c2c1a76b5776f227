"""Somebody who has a page of the studio open, for tests and for screenshots."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 45_000  # milliseconds: a page takes long where many tests share a core


def browser_program() -> str | None:
    """A browser of this system, Debian's own first."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def launched(driver: Any, program: str) -> Any:
    """The browser, without a window. Root has no sandbox."""
    return driver.chromium.launch(executable_path=program, args=[] if os.getuid() else ["--no-sandbox"])


@dataclass
class Visitor:
    """Somebody with a page of the studio open.

    Args:
        page: of playwright.
        url: of the studio.
        troubles: errors of the page.
        outside: requests to anywhere else.
    """

    page: Any
    url: str
    troubles: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def open(self) -> Visitor:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", lambda m: self.troubles.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self._requested(request.url))
        self.page.goto(self.url)
        self.page.wait_for_selector("#text-to-image-go")
        return self

    def _requested(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.outside.append(url)

    def tab(self, name: str) -> Any:
        """Goes to a tab (by the name of its form) and gives its part of the page."""
        button = self.page.locator(f"button#tab-{name}-button:visible")
        if not button.count():
            self.page.locator(".overflow-menu > button").click()
        button.first.click()
        part = self.page.locator(f"#tab-{name}")
        part.wait_for(state="visible")
        return part

    def go(self, name: str) -> None:
        self.page.click(f"#{name}-go")

    def said(self, name: str, state: str = "done") -> str:
        """Waits until the stage of a tab is in a state (or shows trouble) and gives its text."""
        stage = self.page.locator(f"#{name}-stage .stage.{state}, #{name}-stage .stage.trouble")
        stage.wait_for(state="visible")
        return stage.inner_text()

    def pictures(self, name: str) -> Any:
        """The thumbnails of a tab's results."""
        return self.page.locator(f"#{name}-image-items .grid-container img")
