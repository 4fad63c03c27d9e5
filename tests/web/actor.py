"""A worker that plays its part without a model: the bytes of a picture tell what becomes of it.

die       the process ends while restoring      slow     steps for ever, until cancelled
fail      the job fails                         deadly   the process ends while making a view
nothing   no picture                            stuck    no step ever, nor an end
else      a result with the same bytes
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

cancelled: set[str] = set()
lock = threading.Lock()
MODEL = {
    "name": "tiny",
    "task": "test",
    "summary": "For tests.",
    "terms": "None.",
    "bytes": 1,
    "takes": {"mask": False, "guide": False, "lens": False, "views": 1, "sigma": False},
    "enlarge": 1,
    "sampling": {"steps": 2, "sampler": "posterior", "eta": 1.0},
    "max_steps": 100,
    "metrics": {"psnr": 30.0},
}


def tell(kind: str, **values: object) -> None:
    with lock:
        sys.stdout.write(json.dumps({"kind": kind, **values}) + "\n")
        sys.stdout.flush()


def restore(command: dict[str, Any]) -> None:
    id, folder = command["id"], Path(command["folder"])
    content = (folder / "picture").read_bytes()
    steps = command["options"]["steps"] or 2
    step = 0
    while step < steps or content == b"slow":
        if id in cancelled:
            cancelled.discard(id)
            return tell("stopped", id=id)
        if content == b"die" and step:
            os._exit(9)
        if content == b"stuck":
            time.sleep(60)
        if content == b"babble":
            print("hello", flush=True)
            time.sleep(60)
        if content == b"slow":
            time.sleep(0.01)
        step += 1
        (folder / "preview").write_bytes(b"preview %d" % step)
        tell("stepped", id=id, step=min(step, steps), steps=steps, previews=step, kept=0)
    if content == b"fail":
        return tell("failed", id=id, error="it went wrong: try another")
    (folder / "result.png").write_bytes(content)
    sizes = {"width": 4, "height": 3, "megapixels": 0.1}
    tell("restored", id=id, suffix=".png", notices=["a notice"], uncertainty=False, **sizes)


def answer(command: dict[str, Any]) -> None:
    if command["kind"] == "view":
        content = Path(command["source"]).read_bytes()
        if content == b"deadly":
            os._exit(7)
        Path(command["target"]).parent.mkdir(exist_ok=True)
        Path(command["target"]).write_bytes(b"\x89PNG " + content)
        return tell("answer", number=command["number"])
    content = (Path(command["folder"]) / "picture").read_bytes()
    died = Path(command["folder"]) / "died"
    if content == b"shaky" and not died.exists():
        died.touch()
        os._exit(5)
    status, error = (
        (415, f"{command['names']['picture']} is not a picture") if content == b"nothing" else (200, "")
    )
    if command["options"]["model"] != "tiny":
        status, error = 400, "no such model"
    tell("answer", number=command["number"], status=status, error=error)


def main() -> None:
    tell("ready", models=[MODEL], samplers=["posterior"], formats=[".png"])
    for line in sys.stdin:
        command = json.loads(line)
        if command["kind"] == "restore":
            threading.Thread(target=restore, args=[command], daemon=True).start()
        elif command["kind"] == "cancel":
            cancelled.add(command["id"])
        else:
            answer(command)
    os._exit(0)


if __name__ == "__main__":
    main()
