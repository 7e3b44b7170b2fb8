"""`swinkit serve` under load: its throughput against `Predictor` in one process, then minutes at twice what it can do.

    python benchmarks/serving.py [--model swin_tiny_patch4_window7_224] [--minutes 10] [--batch 16] [--seconds 30] [--rounds 3]

A server is started as a process on random weights, with its defaults but for the batch. Images are JPEG files of 500 x 375 pixels.
First, in turns: images per second of `Predictor(list of files, batch_size=BATCH)` in this process, and of the server with as many clients
as fill two batches, each sending one image per request and the next when the answer is there. Then requests leave by the clock, twice as
many per second as the server answered, whatever becomes of them. Every answer is compared with what `Predictor` says about the image
alone; its memory is read every few seconds. Clients and server share the processors. Writes serving.md and serving.json. Needs Linux.
"""

import argparse
import asyncio
import io
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import swinkit
from swinkit.config import pair
from swinkit.runtimes.device import cpu_name

RESULTS = Path(__file__).parent / "results"
IMAGES = 48
TOLERANCE = 1e-4
"""Of probabilities between an image alone and in a batch."""
CONNECTIONS = 400


def write_model(name, folder):
    """Random weights that know how images are prepared and what their classes are called."""
    torch.manual_seed(0)
    model = swinkit.create_model(name)
    channels = model.config.in_chans
    model.labels = tuple(f"class {index}" for index in range(model.num_classes))
    side = pair(model.config.img_size)
    model.preprocess = {"size": list(side), "mean": [0.45] * channels, "std": [0.23] * channels, "crop_pct": 0.9}
    swinkit.save_pretrained(model, folder)


def picture(seed):
    """A JPEG file of soft coloured noise, about as large as a photograph of its size."""
    coarse = np.random.RandomState(seed).randint(0, 255, (94, 125, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def request(content):
    """What goes over the wire for one image."""
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


class Server:
    """`swinkit serve` as a process."""

    def __init__(self, folder, batch, log):
        command = [sys.executable, "-m", "swinkit", "serve", str(folder), "--port", "0", "--max-batch", str(batch), "--no-access-log"]
        self.process = subprocess.Popen(command, stderr=log.open("w"))
        until = time.monotonic() + 300
        while "serve: ready" not in log.read_text():
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server did not start: {log.read_text()}")
            time.sleep(0.2)
        self.about = re.search(r"classes, (.*)", log.read_text())[1]
        self.port = int(re.search(r"http://127.0.0.1:(\d+)", log.read_text())[1])

    def memory(self):
        """MiB that the kernel counts as resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024

    def end(self):
        """Its exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


class Clients:
    """Connections that are used again, and what came of each request."""

    def __init__(self, port, requests, wanted):
        self.port, self.requests, self.wanted = port, requests, wanted
        self.idle, self.counts, self.latency = [], Counter(), {"right": [], "503": []}

    async def send(self, number):
        """One request, counted as right, wrong, 503, another status, or broken."""
        began = time.perf_counter()
        try:
            connection = await self._connection()
            status, body = await self._exchange(connection, self.requests[number % IMAGES])
            outcome = self._judge(status, body, number % IMAGES)
            self.idle.append((time.perf_counter(), connection))
        except (OSError, EOFError, ValueError) as error:
            outcome = f"broken: {type(error).__name__}"
        self.counts[outcome] += 1
        if outcome in self.latency:
            self.latency[outcome].append(time.perf_counter() - began)

    async def _connection(self):
        """The one used last, unless the server is about to close it for doing nothing, as it does after 5 s; else a new one."""
        if self.idle:
            used, connection = self.idle.pop()
            if time.perf_counter() - used < 2:
                return connection
            for _, (_, writer) in [*self.idle, (used, connection)]:
                writer.close()
            self.idle.clear()
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def _exchange(self, connection, content):
        reader, writer = connection
        writer.write(content)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head.lower())[1])
        return int(head[9:12]), await reader.readexactly(length)

    def _judge(self, status, body, number):
        if status != 200:
            return str(status) if status != 503 or b'"overloaded"' in body else "503 of another kind"
        guesses = json.loads(body)["results"][0]["predictions"]
        scores = self.wanted[number]
        close = all(abs(guess["probability"] - scores[guess["index"]]) < TOLERANCE for guess in guesses)
        best = max(scores.values()) - guesses[0]["probability"] < TOLERANCE
        return "right" if close and best else "wrong"

    async def closed_loop(self, count, seconds):
        """Images per second of `count` clients that each send the next request when the answer is there."""
        until, began, done = time.perf_counter() + seconds, time.perf_counter(), self.counts["right"]

        async def client(number):
            while time.perf_counter() < until:
                await self.send(number)
                number += count

        await asyncio.gather(*map(client, range(count)))
        return (self.counts["right"] - done) / (time.perf_counter() - began)

    async def by_the_clock(self, rate, seconds, look):
        """Requests at a rate; one that has no connection left is counted and not sent. `look` is called every few seconds."""
        running, began, number = set(), time.perf_counter(), 0
        looked = began
        while (now := time.perf_counter()) - began < seconds:
            while number < (now - began) * rate:
                if len(running) < CONNECTIONS:
                    task = asyncio.ensure_future(self.send(number))
                    running.add(task)
                    task.add_done_callback(running.discard)
                else:
                    self.counts["not sent"] += 1
                number += 1
            if now - looked >= min(5.0, seconds / 10):
                looked = now
                look(now - began)
            await asyncio.sleep(0.005)
        if running:
            await asyncio.wait(running, timeout=60)
        self.counts["never answered"] += len(running)


def in_process(predictor, contents, seconds):
    """Images per second of Predictor over files in memory."""
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        done += len(predictor(contents))
    return done / (time.perf_counter() - began)


def percentiles(seconds):
    """Of latencies, in milliseconds."""
    if not seconds:
        return {}
    values = np.percentile(seconds, (50, 90, 99, 100))
    return {name: round(1000 * float(value), 1) for name, value in zip(("50", "90", "99", "max"), values, strict=True)}


def measure(options, work):
    """All numbers."""
    write_model(options.model, work / "model")
    contents = [picture(seed) for seed in range(IMAGES)]
    predictor = swinkit.Predictor(work / "model", batch_size=options.batch)
    every = len(predictor.classes)
    wanted = [dict(zip(alone.indices, alone.scores, strict=True)) for alone in (predictor(content, top_k=every) for content in contents)]
    server = Server(work / "model", options.batch, work / "log")
    try:
        clients = Clients(server.port, [request(content) for content in contents], wanted)
        found = asyncio.run(_measure(options, predictor, contents, server, clients))
    except BaseException:
        server.process.kill()
        raise
    return {"about": server.about, **found, "alive": server.process.poll() is None, "exit": server.end()}


async def _measure(options, predictor, contents, server, clients):
    rates = {"predictor": [], "server": []}
    in_process(predictor, contents, options.seconds / 10)
    await clients.closed_loop(2 * options.batch, options.seconds / 10)
    for turn in range(options.rounds):
        rates["predictor"].append(in_process(predictor, contents, options.seconds))
        rates["server"].append(await clients.closed_loop(2 * options.batch, options.seconds))
        print(f"round {turn + 1}: Predictor {rates['predictor'][-1]:.1f}, server {rates['server'][-1]:.1f} images/s", file=sys.stderr)
    if not all(rates["server"]):
        raise SystemExit(f"the server answered nothing right: {dict(clients.counts)}")
    loads = {"closed": dict(clients.counts), "closed_latency_ms": percentiles(clients.latency["right"])}
    clients.counts.clear()
    clients.latency = {"right": [], "503": []}
    memory, rate = [], 2 * statistics.median(rates["server"])

    def look(seconds):
        memory.append((round(seconds, 1), round(server.memory(), 1)))
        print(f"{seconds:6.0f} s  {memory[-1][1]:8.1f} MiB  {dict(clients.counts)}", file=sys.stderr, flush=True)

    await clients.by_the_clock(rate, 60 * options.minutes, look)
    return {
        "rates": rates, **loads, "offered_per_second": round(rate, 1), "overload": dict(clients.counts),
        "latency_ms": percentiles(clients.latency["right"]), "refusal_ms": percentiles(clients.latency["503"]), "memory_mib": memory,
    }  # fmt: skip


def table(options, found):
    """The numbers for people."""
    predictor, server = (statistics.median(found["rates"][name]) for name in ("predictor", "server"))
    memory = [mib for _, mib in found["memory_mib"]]
    half = memory[len(memory) // 2 :]
    counts = found["overload"]
    others = {name: count for name, count in counts.items() if name not in ("right", "503", "wrong") and count}
    each = {name: ", ".join(f"{rate:.1f}" for rate in rates) for name, rates in found["rates"].items()}
    where = f"{cpu_name()}, {found['threads']} threads, Python {platform.python_version()}, torch {torch.__version__}"
    return f"""# Serving

`python benchmarks/serving.py --model {options.model} --minutes {options.minutes:g} --batch {options.batch}`: random weights,
{found["about"]}, JPEG files of 500 x 375, one image per request. {where}, swinkit {swinkit.__version__}.
Clients and server share {os.cpu_count()} processors.

| | images per second, each round | median |
| --- | --- | ---: |
| `Predictor` in process, batch {options.batch} | {each["predictor"]} | {predictor:.1f} |
| `swinkit serve --max-batch {options.batch}`, {2 * options.batch} clients | {each["server"]} | {server:.1f} |

The server reaches {100 * server / predictor:.0f} % of `Predictor`. Latency of these clients in ms: {_listed(found["closed_latency_ms"])}.

Then {options.minutes:g} minutes at {found["offered_per_second"]:.1f} requests per second, twice that:

| | |
| --- | ---: |
| right answers | {counts.get("right", 0):,} |
| wrong answers | {counts.get("wrong", 0):,} |
| refused with 503 | {counts.get("503", 0):,} |
| anything else | {others or 0} |
| latency of answers, ms | {_listed(found["latency_ms"])} |
| latency of refusals, ms | {_listed(found["refusal_ms"])} |
| resident memory, MiB: first, middle, last, largest | {memory[0]:.0f}, {half[0]:.0f}, {memory[-1]:.0f}, {max(memory):.0f} |
| alive at the end, exit code after SIGTERM | {"yes" if found["alive"] else "no"}, {found["exit"]} |
"""


def _listed(values):
    return ", ".join(f"{name + ' %' if name != 'max' else name}: {value:g}" for name, value in values.items()) or "-"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="swin_tiny_patch4_window7_224")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = {"threads": torch.get_num_threads(), **measure(options, Path(work))}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "serving.json").write_text(json.dumps({"model": options.model, "batch": options.batch, **found}, indent=1) + "\n")
    (options.out / "serving.md").write_text(table(options, found))
    print(table(options, found))
    # What was not sent for lack of connections is the clients' lack, and shown in the table.
    bad = sum(count for outcome, count in found["overload"].items() if outcome not in ("right", "503", "not sent"))
    sys.exit(0 if found["alive"] and found["exit"] == 0 and not bad else 1)


if __name__ == "__main__":
    main()
