"""How long a person waits for the studio: start, first paint, first preview, first picture.

    python benchmarks/studio.py [--model emoji] [--repeats 3]

Starts `versatile ui` as a process of its own and opens it in headless chromium. Needs the extras `ui` and `dev`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from studio_visitor import browser_program, launched

PATIENCE = 600_000  # milliseconds


def seconds_of(page: Any, started: float, selector: str) -> float:
    page.wait_for_selector(selector)
    return time.perf_counter() - started


def visit(browser: Any, url: str, count: int) -> dict[str, float]:
    """One visit with an empty cache: seconds from opening the address, then from the click."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE)
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    times = {"ready to type": seconds_of(page, started, "#text-to-image-go")}
    paints = page.evaluate("performance.getEntriesByType('paint').map(entry => [entry.name, entry.startTime / 1000])")
    times["first paint"] = dict(paints)["first-contentful-paint"]
    page.get_by_label("number input for How many").first.fill(str(count))
    page.get_by_label("Text", exact=True).first.fill("a red apple")
    started = time.perf_counter()
    page.click("#text-to-image-go")
    times["first sign after the click"] = seconds_of(page, started, "#text-to-image-stage .busy")
    times[f"{count} picture(s)"] = seconds_of(page, started, "#text-to-image-stage .done")
    page.context.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    program = browser_program()
    if program is None:
        raise SystemExit("no chromium here")
    started = time.perf_counter()
    command = [sys.executable, "-m", "versatile_diffusion", "ui", "--model", arguments.model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as driver:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            print(json.dumps({"from the command to the address": round(time.perf_counter() - started, 1)}), flush=True)
            browser = launched(driver, program)
            for count in (1, 4):
                visits = [visit(browser, url, count) for _ in range(arguments.repeats)]
                medians = {name: round(statistics.median(one[name] for one in visits), 2) for name in visits[0]}
                print(json.dumps(medians), flush=True)
            browser.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
