"""What a service does with 200 uploads at once, hostile files among them, and clients that vanish.

    python benchmarks/service.py

The worker is killed several times meanwhile. Prints what became of every kind of upload, the memory of the
service and of its worker, and what is left on the disk when all jobs are deleted.
"""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import psutil

from refusion.imaging.arrays import from_array
from refusion.imaging.formats import encode

KILLS = 3
MAX_BYTES = 2**22
OPTIONS = {"options": json.dumps({"model": "shadow-removal"})}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def uploads() -> dict[str, tuple[int, bytes]]:
    """Count and bytes of each kind of upload."""
    texture = np.random.default_rng(0).integers(60, 200, (500, 700, 3), dtype=np.uint8)
    picture = encode(from_array(texture), ".jpg")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    huge = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return {
        "picture of 0.35 megapixels": (120, picture),
        "no picture": (20, b"#!/bin/sh\n" * 1000),
        "header of 10 gigapixels": (10, huge),
        "cut short": (10, picture[: len(picture) // 2]),
        "more bytes than allowed": (10, picture + bytes(MAX_BYTES)),
        "client vanishes": (30, picture),
    }


class Memory:
    """The peak memory of a process and of its children, sampled."""

    def __init__(self, pid: int) -> None:
        self._process, self.service, self.worker = psutil.Process(pid), 0, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(0.05):
            self.service = max(self.service, self._process.memory_info().rss)
            for child in self._process.children():
                try:
                    self.worker = max(self.worker, child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


def post(address: str, content: bytes) -> str:
    """Upload, and return the job's id or the status of the refusal."""
    with httpx2.Client(base_url=address, timeout=600) as client:
        answer = client.post("/api/v1/jobs", files={"picture": ("a.jpg", content)}, data=OPTIONS)
    return answer.json()["id"] if answer.status_code == 201 else str(answer.status_code)


def vanish(address: str, content: bytes) -> str:
    """Begin an upload and go away."""
    host, port = re.findall(r"//(.+):(\d+)", address)[0]
    with socket.create_connection((host, int(port))) as sock:
        head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content) + 200}\r\n"
        sock.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode())
        sock.sendall(b'--b\r\nContent-Disposition: form-data; name="picture"; filename="a"\r\n\r\n')
        sock.sendall(content[: len(content) // 2])
    return "went away"


def send_all(address: str) -> dict[str, list[str]]:
    """Upload everything at the same time, and return what came of each, by kind."""
    kinds = uploads()
    with ThreadPoolExecutor(sum(count for count, _ in kinds.values())) as pool:
        sent = {
            kind: [
                pool.submit(vanish if kind == "client vanishes" else post, address, content)
                for _ in range(count)
            ]
            for kind, (count, content) in kinds.items()
        }
        return {kind: [future.result() for future in futures] for kind, futures in sent.items()}


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("it takes too long")
        time.sleep(0.2)


def kill_workers(pid: int, client: httpx2.Client) -> None:
    """Kill the worker several times while it restores."""
    for _ in range(KILLS):
        before = counted(client)["done"]
        wait_until(lambda least=before + 10: counted(client)["done"] >= least, 600)
        wait_until(lambda: counted(client)["running"] > 0, 60)
        os.kill(psutil.Process(pid).children()[0].pid, signal.SIGKILL)


def counted(client: httpx2.Client) -> Counter[str]:
    return Counter(job["state"] for job in client.get("/api/v1/jobs").json()["jobs"])


def measure(address: str, process: "subprocess.Popen[str]", folder: Path) -> None:
    memory = Memory(process.pid)
    client = httpx2.Client(base_url=address, timeout=600)
    began = time.perf_counter()
    killing = threading.Thread(target=kill_workers, args=(process.pid, client))
    killing.start()
    outcomes = send_all(address)
    sent = time.perf_counter() - began
    killing.join()
    wait_until(lambda: set(counted(client)) <= {"done", "failed"}, 1200)
    seconds = time.perf_counter() - began
    jobs = {job["id"]: job for job in client.get("/api/v1/jobs").json()["jobs"]}
    print("| upload | sent | what became of them |\n|---|---|---|")
    for kind, results in outcomes.items():
        ends = Counter(jobs[end]["state"] if end in jobs else end for end in results)
        print(f"| {kind} | {len(results)} | {', '.join(f'{n} {end}' for end, n in ends.items())} |")
    lines = Counter(re.sub(r"\(.*?\)", "(...)", job["error"]) for job in jobs.values() if job["error"])
    for line, count in lines.items():
        print(f"\n{count} x {line}")
    lost = sum(end not in jobs for end in outcomes["picture of 0.35 megapixels"])
    deleted = client.delete("/api/v1/jobs").json()["deleted"]
    memory.stop()
    left = [path.name for path in folder.rglob("*") if not path.name.startswith("jobs")]
    left = [*left, *(id for id in jobs if client.get(f"/api/v1/jobs/{id}").status_code != 404)]
    print(f"\n{lost} pictures lost, {KILLS} kills of the worker, {deleted} jobs deleted, left over: {left}")
    print(f"all sent in {sent:.1f} s, all done in {seconds:.1f} s")
    print(f"peak memory: service {memory.service / 2**20:.0f} MiB, worker {memory.worker / 2**20:.0f} MiB")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        command = [sys.executable, "-m", "refusion", "serve", "--no-open", "--port", "0"]
        command += ["--data", str(folder), "--max-bytes", str(MAX_BYTES), "--device", "cpu"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[2].rstrip("/")
            httpx2.get(f"{address}/api/v1/models", timeout=120)
            measure(address, process, folder)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


if __name__ == "__main__":
    main()
