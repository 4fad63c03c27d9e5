"""Bodies of requests, read with a limit of bytes and of time, and their files stored."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from refusion.errors import printable
from refusion.web.refusal import Refusal
from refusion.web.schema import JobOptions, one_line

PARTS = ("picture", "right", "mask", "guide")
"""Names of the files of a request, and of those in the folder of a job."""
IDLE = 60.0
"""Seconds that a client may send nothing."""
MAX_OPTIONS = 2**16
"""Bytes of the options of a job."""
MAX_DRAINED = 2**26
"""Bytes of a refused body that are read."""
MAX_NAME = 255


class _Parser(MultiPartParser):
    spool_max_size = 2**16  # of each upload in memory


async def read_form(request: Request, max_bytes: int) -> FormData:
    """Return the form of a request, or for JSON one with that as its options.

    Raises:
        Refusal: it is too large, too slow, or no form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        stream = _limited(request, max_bytes)
        parser = _Parser(
            request.headers, stream, max_files=len(PARTS), max_fields=1, max_part_size=MAX_OPTIONS
        )
        try:
            return await parser.parse()
        except MultiPartException as error:
            raise Refusal(400, f"the form cannot be read: {error.message}") from None
    if kind != "application/json":
        raise Refusal(400, f"content type {kind[:80]!r}: send multipart/form-data")
    body = b"".join([chunk async for chunk in _limited(request, MAX_OPTIONS)])
    return FormData([("options", body.decode(errors="replace"))])


async def _limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the body of a request as it comes."""
    too_large = Refusal(413, f"the request has more than {max_bytes} bytes: send less, or raise --max-bytes")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    total = 0
    stream = request.stream()
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), IDLE)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Refusal(400, f"nothing came for {IDLE:g} seconds: send it again") from None
        except ClientDisconnect:
            raise Refusal(400, "the client went away") from None
        total += len(chunk)
        if total > max_bytes:
            raise too_large
        yield chunk


async def drain(request: Request) -> None:
    """Read the rest of an unwanted body, if it is short: some clients read no answer before its end."""
    with contextlib.suppress(Refusal, RuntimeError):  # the second if it was read already
        async for _ in _limited(request, MAX_DRAINED):
            pass


def options_of(form: FormData) -> JobOptions:
    """Return the options in a form.

    Raises:
        Refusal: there are none, or they are wrong.
    """
    text = form.get("options")
    if not isinstance(text, str):
        raise Refusal(400, 'options are missing: send JSON, as {"model": "shadow-removal"}')
    try:
        return JobOptions.model_validate_json(text)
    except ValidationError as error:
        raise Refusal(400, one_line(error.errors())) from None


def files_of(form: FormData) -> dict[str, UploadFile]:
    """Return the files in a form by their parts.

    Raises:
        Refusal: one is of an unknown part.
    """
    files = {name: value for name, value in form.multi_items() if isinstance(value, UploadFile)}
    for name in files:
        if name not in PARTS:
            raise Refusal(400, f"file {name!r:.80}: there are {', '.join(PARTS)}")
    return files


async def store_files(files: dict[str, UploadFile], folder: Path) -> dict[str, str]:
    """Store files in a folder by the names of their parts, and return what the client calls them."""
    for part, file in files.items():
        await asyncio.to_thread(_copy, file, folder / part)
    return {part: shown_name(file.filename or part) for part, file in files.items()}


def _copy(file: UploadFile, target: Path) -> None:
    with target.open("xb") as out:
        shutil.copyfileobj(file.file, out, 2**20)


def shown_name(name: str) -> str:
    """Return the name of a client's file without folders, as one line that is not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return printable(last)[-MAX_NAME:] or "picture"
