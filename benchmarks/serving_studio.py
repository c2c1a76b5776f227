"""What people in the studio and programs at the API wait for when both are served by one engine.

    python benchmarks/serving_studio.py [--model emoji] [--clients 8] [--requests 40] [--visits 10] [--steps 8]

Starts `versatile serve --ui` in a process of its own and asks for one image at a time: a person in the studio alone,
the clients of the API alone (all with one API key), then both at once. They take turns, so a person should wait for
about one image of a full house, however many requests the API has. Needs the extras `serve`, `ui` and `dev`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import httpx
import numpy as np
from serving import PROMPTS, by_clients
from studio_memory import Visits

from versatile_diffusion.controls import REQUEST

KEY = "key-of-the-benchmark"
PATIENCE = 3600.0


def told(name: str, seconds: list[float]) -> str:
    return f"| {name} | {len(seconds)} | {np.percentile(seconds, 50):.2f} | {np.percentile(seconds, 99):.2f} |"


def measured(url: str, studio: str, clients: int, requests: int, visits: int, steps: int) -> None:
    """Prints the table."""
    session = httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=PATIENCE, trust_env=False)

    def ask(client: int, number: int) -> None:
        body = {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number, "num_inference_steps": steps}
        while (answer := session.post(f"{url}/v1/images/generations", json=body)).status_code == 429:
            time.sleep(float(answer.headers["Retry-After"]))
        answer.raise_for_status()

    with httpx.Client(base_url=studio, trust_env=False, timeout=PATIENCE) as browser:
        person = Visits(browser)
        person.values[person.labels.index(REQUEST["num_inference_steps"].label)] = steps

        def come(number: int) -> float:
            begun = time.perf_counter()
            person.one(f"visit-{number:06d}", stay=False)
            return time.perf_counter() - begun

        def api() -> list[float]:
            return by_clients(clients, requests, ask)[1]

        come(0), ask(0, 0)  # the first of each reads what later ones find
        print("| | images | p50 (s) | p99 (s) |\n|---|---:|---:|---:|")
        print(told("studio alone", [come(number) for number in range(1, visits + 1)]), flush=True)
        print(told(f"API alone, {clients} clients", api()), flush=True)
        both, beside = together(api, come, visits)
        print(told("studio beside the API", beside))
        print(told(f"API beside the studio, {clients} clients", both), flush=True)


def together(
    api: Callable[[], list[float]], come: Callable[[int], float], visits: int
) -> tuple[list[float], list[float]]:
    """Seconds of the requests of the API, and of the visits that ended while it was under load."""
    answers: list[list[float]] = []
    thread = threading.Thread(target=lambda: answers.append(api()))
    thread.start()
    seconds, number = list[float](), visits + 1
    while thread.is_alive():
        took = come(number)
        number += 1
        if thread.is_alive():
            seconds.append(took)
    thread.join()
    return answers[0], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="emoji")
    for name, usual in {"clients": 8, "requests": 40, "visits": 10, "steps": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    arguments = parser.parse_args()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "versatile_diffusion", "serve", "--ui", "--json", "--port", str(port)]
    command += ["--model", arguments.model, "--device", "cpu"]
    environment = {**os.environ, "VERSATILE_API_KEY": KEY}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            said = ""
            while not said.rstrip().endswith("}"):
                said += server.stdout.readline()
            urls = json.loads(said)
            while True:
                try:
                    httpx.get(f"{urls['url']}/ready").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.1)
            own = {name: getattr(arguments, name) for name in ("clients", "requests", "visits", "steps")}
            measured(urls["url"], urls["studio"], **own)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
