"""Somebody who has a page of the studio open, for tests and for screenshots."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 100_000  # milliseconds: a page takes long where many tests share a slow core


def browser_program() -> str | None:
    """A browser of this system, Debian's own first."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def launched(driver: Any, program: str) -> Any:
    """The browser, without a window. Root has no sandbox."""
    return driver.chromium.launch(
        executable_path=program, timeout=PATIENCE, args=[] if os.getuid() else ["--no-sandbox"]
    )


@dataclass
class Visitor:
    """Somebody with a page of the studio open.

    Args:
        page: of playwright.
        url: of the studio.
        patience: with the page, in milliseconds.
        troubles: errors of the page.
        outside: requests to anywhere else.
    """

    page: Any
    url: str
    patience: int = PATIENCE
    troubles: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def open(self) -> Visitor:
        self.page.set_default_timeout(self.patience)
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
        menu = self.page.locator(".menu select")
        if menu.is_visible():  # on a phone
            menu.select_option(name)
        elif button.count():
            button.click()
        else:  # those for which there is no room are in a menu
            title = self.page.evaluate(
                "id => window.gradio_config.components.find(one => one.props.elem_id === id).props.label", f"tab-{name}"
            )
            self.page.locator(".overflow-menu > button").click()
            self.page.locator(".overflow-dropdown").get_by_text(title, exact=True).click()
        part = self.page.locator(f"#tab-{name}")
        part.wait_for(state="visible")
        return part

    def go(self, name: str) -> None:
        """Starts what a tab asks for."""
        self._forget(name)
        self.page.click(f"#{name}-go")

    def example(self, name: str, which: int = 0) -> None:
        """Clicks an example of a tab."""
        self._forget(name)
        self.page.locator(f"#tab-{name}").locator(".gallery-item, tbody tr").nth(which).click()

    def _forget(self, name: str) -> None:
        """Marks what the stage says as old, so that it is not taken for an answer to what comes."""
        self.page.locator(f"#{name}-stage .stage").evaluate("stage => stage.setAttribute('data-old', '')")

    def said(self, name: str, state: str = "done") -> str:
        """Waits until the stage of a tab is in a state (or shows trouble) and gives its text."""
        stage = self.page.locator(
            f"#{name}-stage .stage.{state}:not([data-old]), #{name}-stage .stage.trouble:not([data-old])"
        )
        stage.wait_for(state="visible")
        return stage.inner_text()

    def pictures(self, name: str) -> Any:
        """The thumbnails of a tab's results."""
        return self.page.locator(f"#{name}-image-items .grid-container img")
