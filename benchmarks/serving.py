"""Throughput and latency of the service: requests one at a time, in batches, and joining while others run.

    python benchmarks/serving.py [--model emoji] [--requests 32]
    python benchmarks/serving.py --load 2000 [--model tiny]

The first asks the engine alone, by 1, 8 and 32 clients, each of which sends its next request when it has the answer to
the last; three of four requests are short. The second asks by HTTP on a socket, with ten times more clients than
places: every request must be answered once, with its own seed, and memory must not grow. `tiny` is the tests' model of
random weights, whose steps cost next to nothing. Needs the extras `serve` and `dev`.
"""

from __future__ import annotations

import argparse
import base64
import gc
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline, serving
from versatile_diffusion.records.png import read_record
from versatile_diffusion.serving import Engine, Limits
from versatile_diffusion.serving.server import Server

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PROMPTS = ("a red apple", "a cat", "a blue car", "a green tree")
PLACES = 8
MODES: dict[str, dict[str, Any]] = {
    "one at a time": {"places": 1, "continuous": True},
    "batches": {"places": PLACES, "continuous": False},
    "joining": {"places": PLACES, "continuous": True},
}


def model(name: str) -> VersatileDiffusionPipeline:
    """A model by name; `tiny` is that of the tests."""
    if name == "tiny":
        from tiny import build_tiny_pipeline

        return build_tiny_pipeline()
    pipe = VersatileDiffusionPipeline.from_pretrained(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def by_clients(clients: int, requests: int, ask: Callable[[int, int], None]) -> tuple[float, list[float]]:
    """Seconds in all, and of each request. Args: ask: sends a request and waits; gets its client and its number."""
    numbers, lock = count(), threading.Lock()
    seconds = [0.0] * requests

    def work(client: int) -> None:
        while True:
            with lock:
                number = next(numbers)
            if number >= requests:
                return
            begun = time.perf_counter()
            ask(client, number)
            seconds[number] = time.perf_counter() - begun

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun, seconds


def steps_of(number: int, short: int, long: int) -> int:
    return long if number % 4 == 3 else short


def compared(pipe: VersatileDiffusionPipeline, requests: int, clients: Sequence[int], steps: tuple[int, int]) -> None:
    """Prints a table of the ways to run requests."""
    print(f"{requests} requests, three of four with {steps[0]} steps, the others with {steps[1]}; {PLACES} places\n")
    print("| clients | how | requests/s | p50, short (s) | p99, short (s) | p50, long (s) | p99, long (s) | batch |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for many in clients:
        for name, how in MODES.items():
            sizes: list[int] = []
            limits = Limits(places=how["places"], waiting=requests, each=requests, seconds=3600.0)
            engine = Engine(pipe, limits, continuous=how["continuous"], on_pass=lambda size, _, s=sizes: s.append(size))

            def ask(client: int, number: int, engine: Engine = engine) -> None:
                options = {"seed": number, "num_inference_steps": steps_of(number, *steps)}
                prompt = [Condition("text", PROMPTS[number % len(PROMPTS)])]
                engine.submit("image", prompt, client=str(client), **options).future.result()

            total, seconds = by_clients(many, requests, ask)
            engine.close()
            short = [s for number, s in enumerate(seconds) if steps_of(number, 0, 1) == 0]
            long = [s for number, s in enumerate(seconds) if steps_of(number, 0, 1) == 1]
            figures = [np.percentile(one, q) for one in (short, long) for q in (50, 99)]
            told = " | ".join(f"{figure:.2f}" for figure in figures)
            print(f"| {many} | {name} | {requests / total:.2f} | {told} | {np.mean(sizes):.1f} |", flush=True)


def resident() -> float:
    """Megabytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def loaded(pipe: VersatileDiffusionPipeline, requests: int, steps: int) -> None:
    """Prints what becomes of many more requests than there are places; fails if one is lost or answered for another."""
    clients = 10 * PLACES
    limits = Limits(places=PLACES, waiting=clients, each=clients, seconds=3600.0)
    api = serving.app(pipe, limits)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = Server(uvicorn.Config(api, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{port}/v1/images/generations"
    answers: dict[int, int] = {}
    held: list[tuple[int, float]] = []
    session = httpx.Client(limits=httpx.Limits(max_connections=clients), timeout=3600)

    def ask(client: int, number: int) -> None:
        body = {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number, "num_inference_steps": steps}
        answer = session.post(url, json=body)
        answer.raise_for_status()
        (row,) = answer.json()["data"]
        record = read_record(Image.open(BytesIO(base64.b64decode(row["b64_json"]))))
        assert row["seed"] == record["seed"] == number
        assert record["prompt"] == body["prompt"]
        answers[number] = answers.get(number, 0) + 1
        if number % (requests // 8) == 0:
            gc.collect()
            held.append((number, resident()))

    total, seconds = by_clients(clients, requests, ask)
    session.close()
    server.should_exit = True
    thread.join()
    assert sorted(answers) == list(range(requests)), "every request is answered"
    assert set(answers.values()) == {1}, "and once"
    p50, p99 = np.percentile(seconds, (50, 99))
    print(
        f"{requests} requests of {clients} clients for {PLACES} places: {total:.0f} s, {requests / total:.1f} a second,"
    )
    print(f"p50 {p50:.2f} s, p99 {p99:.2f} s, longest {max(seconds):.2f} s; each answered once, with its own seed")
    print("memory in MB: " + ", ".join(f"{megabytes:.0f} after {number}" for number, megabytes in sorted(held)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--steps", type=int, nargs=2, default=[4, 16], metavar=("SHORT", "LONG"))
    parser.add_argument("--load", type=int, metavar="REQUESTS", help="ask by HTTP, so often")
    arguments = parser.parse_args()
    pipe = model(arguments.model)
    if arguments.load:
        loaded(pipe, arguments.load, min(arguments.steps))
    else:
        compared(pipe, arguments.requests, arguments.clients, tuple(arguments.steps))


if __name__ == "__main__":
    main()
