"""The server: how near to the bare model its throughput is, what an idle request takes, and what poison costs the good.

    python -m benchmarks.serve [latency] [throughput] [poison] [--seconds 8] [--model hiera_tiny_224] [--threads 1]

Bare model and server take turns in one run; both get the same number of threads. Weights are random: time does not
depend on them. Good requests are JPEGs of 256 x 256 pixels, each with its own answer, which is checked.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import hierax

from . import measure
from .report import RESULTS

ROUNDS, CLIENTS, IMAGES = 3, 16, 16
TOLERANCE = 1e-4  # of sums over batches of other sizes; a wrong answer is off by 1


@dataclass
class Server:
    """`hierax serve` as a process."""

    process: subprocess.Popen[str]
    host: str
    lines: list[str] = field(default_factory=list)

    def connection(self, timeout: float = 120.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, timeout=timeout)

    def children(self) -> list[int]:
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return [int(each) for each in found.stdout.split()]

    def worked_s(self) -> dict[str, float]:
        """Processor seconds so far, of the web process and of the model's."""
        found = {}
        for name, number in (("web", self.process.pid), ("model", self.children()[0])):
            words = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            found[name] = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        return found

    def resident_mb(self) -> float:
        """Of the web process and the model's together."""
        texts = [Path(f"/proc/{each}/status").read_text() for each in (self.process.pid, *self.children())]
        return sum(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) for text in texts) / 1024  # type: ignore[index]


@contextlib.contextmanager
def server(*options: str, threads: int = 1) -> Iterator[Server]:
    """A server that is ready."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "hierax", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    lines: list[str] = []
    threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True).start()
    try:
        while not (said := re.search(r"served at http://(\S+)", "".join(lines))):
            if process.poll() is not None:
                raise SystemExit("".join(lines))
            time.sleep(0.05)
        yield Server(process, said[1], lines)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()


def pictures(count: int = IMAGES, side: int = 256) -> list[bytes]:
    """JPEGs that look like photographs to a decoder, each another."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        stream = io.BytesIO()
        small.resize((side, side), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def asked(connection: http.client.HTTPConnection, image: bytes) -> np.ndarray | int:
    """The embedding of an image, or the status where there is none."""
    text = "data:image/jpeg;base64," + base64.b64encode(image).decode()
    body = json.dumps({"model": "hiera", "input": text, "encoding_format": "base64"})
    connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        return answer.status
    return np.frombuffer(base64.b64decode(json.loads(content)["data"][0]["embedding"]), "<f4")


def latency(model: Path, threads: int, seconds: float) -> dict[str, Any]:
    """One request at a time, beside `Predictor.embed` of the same image."""
    torch.set_num_threads(threads)
    predictor, images = hierax.load(model), pictures()
    times: dict[str, list[float]] = {"embed": [], "http": []}
    with server("-m", str(model), threads=threads) as running:
        connection = running.connection()
        calls: dict[str, Callable[[bytes], Any]] = {
            "embed": lambda image: predictor.embed(Image.open(io.BytesIO(image))),
            "http": lambda image: asked(connection, image),
        }
        end = time.monotonic() + seconds * ROUNDS
        number = 0
        while time.monotonic() < end:
            for name, call in calls.items():
                start = time.perf_counter()
                call(images[number % IMAGES])
                times[name].append(time.perf_counter() - start)
            number += 1
    found = {f"{name}_ms": round(1e3 * statistics.median(each), 2) for name, each in times.items()}
    return {**found, "ratio": round(found["http_ms"] / found["embed_ms"], 3), "requests": number}


@dataclass
class Load:
    """What clients got.

    Attributes:
        seconds: Of each good request.
        wrong: Answers that were not those of the image.
        refused: Statuses of good requests that were refused.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    refused: list[int] = field(default_factory=list)

    def p95_ms(self) -> float:
        return round(1e3 * float(np.percentile(self.seconds, 95)), 1)


def loaded(running: Server, right: np.ndarray, images: list[bytes], seconds: float, clients: int = CLIENTS) -> Load:
    """Good requests from several clients, each asking again as soon as it is answered."""
    found, end = Load(), time.monotonic() + seconds

    def client(number: int) -> None:
        connection = running.connection()
        while time.monotonic() < end:
            start = time.perf_counter()
            answer = asked(connection, images[number % len(images)])
            found.seconds.append(time.perf_counter() - start)
            if isinstance(answer, int):
                found.refused.append(answer)
            elif np.abs(answer - right[number % len(images)]).max() > TOLERANCE:
                found.wrong += 1
            number += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return found


def throughput(model: Path, threads: int, seconds: float) -> dict[str, Any]:
    """Images a second of the bare model at batch 8, and through HTTP; the median of rounds that take turns."""
    torch.set_num_threads(threads)
    predictor, images = hierax.load(model), pictures()
    batch = torch.stack([predictor.prepare(Image.open(io.BytesIO(each))) for each in images[:8]])
    right = predictor.embed([Image.open(io.BytesIO(each)) for each in images], batch_size=8)
    bare, served, load = [], [], Load()
    worked = {"bare": 0.0, "web": 0.0, "model": 0.0}
    images_of = {"bare": 0, "http": 0}
    with server("-m", str(model), threads=threads) as running:
        loaded(running, right, images, 2.0)
        for _ in range(ROUNDS):
            start, before, count = time.perf_counter(), time.process_time(), 0
            with torch.inference_mode():
                while time.perf_counter() - start < seconds:
                    predictor.encoder.embedding(batch)
                    count += 8
            bare.append(count / (time.perf_counter() - start))
            worked["bare"] += time.process_time() - before
            images_of["bare"] += count
            start, at = time.perf_counter(), running.worked_s()
            load = loaded(running, right, images, seconds)
            count = len(load.seconds) - len(load.refused)
            served.append(count / (time.perf_counter() - start))
            images_of["http"] += count
            for name, value in running.worked_s().items():
                worked[name] += value - at[name]
    found = {"bare_images_s": statistics.median(bare), "http_images_s": statistics.median(served)}
    each = {name: value / images_of["bare" if name == "bare" else "http"] for name, value in worked.items()}
    return {
        **{key: round(value, 2) for key, value in found.items()},
        "ratio": round(found["http_images_s"] / found["bare_images_s"], 3),
        "processor_ms_an_image": {name: round(1e3 * value, 2) for name, value in each.items()},
        "processor_ratio": round(each["bare"] / each["model"], 3),
        "wrong": load.wrong,
    }


# --- poison ---------------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of some hundred bytes that declares 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def mutated(image: bytes, rng: np.random.Generator) -> bytes:
    """An image with some bytes changed, some left out, and perhaps cut short."""
    data = np.frombuffer(image, np.uint8).copy()
    data[rng.integers(0, len(data), rng.integers(1, 30))] = rng.integers(0, 256)
    start = int(rng.integers(0, len(data)))
    return data[: len(data) if rng.random() < 0.5 else start].tobytes()


def poison(host: str, image: bytes, number: int) -> int | None:
    """Send the next bad thing; its status, None where the connection ended instead."""
    rng = np.random.default_rng(number)
    png = {"Content-Type": "image/png"}
    one = io.BytesIO()
    Image.new("RGB", (1, 1)).save(one, "PNG")
    nan = np.full((1, 3, 224, 224), np.nan, "<f4").tobytes()
    head = {
        "name": "pixels",
        "shape": [1, 3, 224, 224],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(nan)},
    }
    text = json.dumps({"inputs": [head]}).encode()
    extension = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
    kinds: list[tuple[str, bytes, dict[str, str]]] = [
        ("/classify", mutated(image, rng), png),
        ("/classify", one.getvalue(), png),
        ("/classify", image[: len(image) // 2], png),
        ("/classify", bomb(), png),
        ("/classify", b"x" * 40_000_000 if number % 64 == 4 else b"", png),
        ("/v1/embeddings", b'{"input": ' + b"[" * 3000, {"Content-Type": "application/json"}),
        ("/v1/embeddings", b'{"input": {"a": 1}}', {"Content-Type": "application/json"}),
        ("/v2/models/model/infer", text + nan, extension),
        ("/classify", rng.bytes(2000), {"Content-Type": "text/html"}),
        ("/features?stage=stage7", mutated(image, rng), png),
    ]
    path, body, headers = kinds[number % len(kinds)]
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request("POST", path, body, headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def slow(host: str, seconds: float) -> None:
    """Send the head of a request, and then a byte now and then."""
    name, port = host.split(":")
    with contextlib.suppress(OSError), socket.create_connection((name, int(port)), 10) as sender:
        sender.sendall(
            b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 5000\r\n\r\n"
        )
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sender.sendall(b"x")
            time.sleep(0.2)


@contextlib.contextmanager
def poisoned(running: Server, image: bytes, senders: int = 2, dawdlers: int = 20) -> Iterator[list[int | None]]:
    """Bad requests all the while; yields their statuses."""
    stop, statuses, numbers = threading.Event(), [], iter(range(1 << 30))
    lock = threading.Lock()

    def send() -> None:
        while not stop.is_set():
            with lock:
                number = next(numbers)
            statuses.append(poison(running.host, image, number))
            stop.wait(0.05)

    threads = [threading.Thread(target=send) for _ in range(senders)]
    threads += [threading.Thread(target=slow, args=(running.host, 5.0)) for _ in range(dawdlers)]
    for each in threads:
        each.start()
    try:
        yield statuses
    finally:
        stop.set()
        for each in threads:
            each.join()


def honest(running: Server, stop: threading.Event, said: list[int]) -> None:
    """Ask for health, four times a second."""
    connection = running.connection()
    while not stop.wait(0.25):
        connection.request("GET", "/v2/health/ready")
        answer = connection.getresponse()
        answer.read()
        said.append(answer.status)


def poison_case(model: Path, threads: int, seconds: float) -> dict[str, Any]:
    """The 95th percentile of good requests with poison in between, over that without."""
    torch.set_num_threads(threads)
    predictor, images = hierax.load(model), pictures()
    right = predictor.embed([Image.open(io.BytesIO(each)) for each in images], batch_size=8)
    clean, bad, statuses, health, stop = [], [], [], [], threading.Event()
    with server("-m", str(model), threads=threads) as running:
        loaded(running, right, images, 2.0)
        watcher = threading.Thread(target=honest, args=(running, stop, health))
        watcher.start()
        for _ in range(ROUNDS):
            clean.append(loaded(running, right, images, seconds))
            with poisoned(running, images[0]) as said:
                bad.append(loaded(running, right, images, seconds))
            statuses += said
        stop.set()
        watcher.join()
    both = [statistics.median(each.p95_ms() for each in loads) for loads in (clean, bad)]
    loads = [*clean, *bad]
    return {
        "p95_ms": both[0],
        "p95_with_poison_ms": both[1],
        "ratio": round(both[1] / both[0], 3),
        "good": sum(len(each.seconds) for each in loads),
        "wrong": sum(each.wrong for each in loads),
        "refused": sorted(status for each in loads for status in each.refused),
        "bad": len(statuses),
        "bad_statuses": {str(status): statuses.count(status) for status in sorted(set(statuses), key=str)},
        "health": {str(status): health.count(status) for status in sorted(set(health))},
    }


CASES = {"latency": latency, "throughput": throughput, "poison": poison_case}


def main() -> None:
    """Run cases and write a dated file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--model", default="hiera_tiny_224")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    result: dict[str, Any] = {"command": " ".join(sys.argv[1:]), "environment": measure.environment()}
    result["load"] = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = hierax.save(hierax.create(chosen.model), Path(folder) / "model")
        for name in chosen.cases:
            result[name] = CASES[name](model, chosen.threads, chosen.seconds)
            print(name, json.dumps(result[name], indent=1), flush=True)
    stamp = time.strftime("%Y-%m-%d-%H%M%S")
    (RESULTS / f"{stamp}-serve.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
