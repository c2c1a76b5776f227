"""What visitors cost the studio: memory after 10, 100, 400 and 1,000 visits, each a page of its own that generates.

    python benchmarks/studio_memory.py [--model emoji] [--visits 1000] [--stay]

Starts the studio in a process of its own. A visitor keeps a heartbeat open, generates an image in one step, looks at
the history and leaves; with --stay each leaves a second session behind, so that what is kept grows to its limits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from versatile_diffusion.controls import REQUEST

LOOKS = (10, 100, 400, 1000)
PATIENCE = 600.0  # seconds


def resident(pid: int) -> float:
    """Megabytes of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


class Visits:
    """Visitors of a studio, one after the other."""

    def __init__(self, client: httpx.Client):
        self.client = client
        config = client.get("config").raise_for_status().json()
        components = {one["id"]: one for one in config["components"]}
        go = next(k for k, one in components.items() if one["props"].get("elem_id") == "text-to-image-go")
        self.run = next(d for d in config["dependencies"] if any(target[0] == go for target in d["targets"]))
        self.look = next(
            d
            for d in config["dependencies"]
            if any(target[1] == "select" for target in d["targets"]) and not d["inputs"] and len(d["outputs"]) > 3
        )
        self.labels = labels = [components[k]["props"].get("label") for k in self.run["inputs"]]
        self.values = [components[k]["props"].get("value") for k in self.run["inputs"]]
        self.values[0] = "a red apple"
        self.values[labels.index(REQUEST["num_outputs"].label)] = 1
        self.values[labels.index(REQUEST["num_inference_steps"].label)] = 1

    def post(self, path: str, function: dict[str, Any], data: list[Any], session: str) -> None:
        """Sends an event; waits as long as the studio says."""
        body = {"data": data, "fn_index": function["id"], "session_hash": session, "event_data": None}
        while (answer := self.client.post(path, json=body)).status_code == 429:
            time.sleep(float(answer.headers["Retry-After"]))
        answer.raise_for_status()

    def one(self, session: str, stay: bool) -> None:
        """Comes, generates, looks and leaves."""
        with self.client.stream("GET", f"gradio_api/heartbeat/{session}") as heartbeat:
            lines = heartbeat.iter_lines()  # kept, since the connection ends with it
            next(lines)
            self.post("gradio_api/queue/join", self.run, [*self.values[:-1], time.time() * 1000], session)
            with self.client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as events:
                list(events.iter_lines())
            self.post("gradio_api/run/predict", self.look, [], session)
            if stay:  # a heartbeat that breaks off is how the studio knows that somebody left
                self.post("gradio_api/run/predict", self.look, [], f"{session}-stays")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--visits", type=int, default=LOOKS[-1])
    parser.add_argument("--stay", action="store_true")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "versatile_diffusion", "ui", "--model", arguments.model, "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            started = time.perf_counter()
            with httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE) as client:
                visits = Visits(client)
                for k in range(1, arguments.visits + 1):
                    visits.one(f"visit-{k:06d}", arguments.stay)
                    if k in LOOKS:
                        seconds = round(time.perf_counter() - started, 1)
                        seen = {"visits": k, "megabytes": round(resident(server.pid)), "seconds": seconds}
                        print(json.dumps(seen), flush=True)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
