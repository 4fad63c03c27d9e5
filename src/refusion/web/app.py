"""The HTTP API and the page; see docs/service.md. Every route is a few lines over `Service`."""

import asyncio
import contextlib
import mimetypes
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

import refusion
from refusion.web.archive import unique_names, zipped
from refusion.web.process import WAIT
from refusion.web.refusal import Refusal
from refusion.web.schema import (
    CancelledCount,
    DeletedCount,
    ErrorLine,
    Example,
    Job,
    JobOptions,
    Jobs,
    Model,
    ServiceState,
    one_line,
)
from refusion.web.security import Access, Guard
from refusion.web.service import Service
from refusion.web.store import Record, result_name
from refusion.web.uploads import drain, files_of, options_of, read_form, store_files

HEARTBEAT = 15.0
"""Seconds between comments on the stream of events, by which both sides see that the other is there."""
UPLOADS_AT_ONCE = 8
"""Requests whose pictures are received at the same time; others wait, and their clients with them."""
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorLine} for status in (400, 401, 403, 404, 409, 413, 415, 503)
}
View = Literal["left", "right"]
Side = Annotated[int | None, Query(ge=1, le=2**16)]


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(_service)]
api = APIRouter(prefix="/api/v1", responses=ERRORS)


def create_app(make_service: Callable[[], Service], access: Access) -> FastAPI:
    """Return the application.

    Args:
        make_service: called when the application starts, in its event loop.
        access: who may use it.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = make_service()
        app.state.uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)
        async with app.state.service.running():
            yield

    app = FastAPI(
        title="refusion",
        version=refusion.__version__,
        summary="Restore photographs with mean-reverting diffusion.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # its scripts would come from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.include_router(api)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _failed)
    app.add_middleware(Guard, access=access)
    return app


def add_page(app: FastAPI, folder: Path) -> None:
    """Serve the page at / and the files of its folder at /static."""
    mimetypes.add_type("text/javascript", ".js")  # some systems say that it is text

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(folder / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=folder, check_dir=False))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse({"detail": str(error)}, error.status, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": one_line(list(error.errors()))}, 400)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


@api.get("/models")
async def get_models(service: Served) -> list[Model]:
    """The models, their cards and what each takes."""
    page = service.settings.page
    return [
        model.model_copy(update={"example": _example(page, model.name)}) for model in await service.models()
    ]


def _example(page: Path, name: str) -> Example | None:
    """Return the addresses of a model's example, if the page has one."""
    sides = [f"examples/{name}-{side}.jpg" for side in ("before", "after")]
    if not all((page / side).is_file() for side in sides):
        return None
    return Example(before=f"/static/{sides[0]}", after=f"/static/{sides[1]}")


@api.get("/service")
async def get_service(service: Served) -> ServiceState:
    """The limits of the service, and the names that options may have."""
    return await service.state()


def _upload(required: bool) -> dict[str, Any]:
    """Return the description of a form with pictures, which FastAPI would read without a limit."""
    file = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "required": ["picture", "options"] if required else ["options"],
        "properties": {
            "options": JobOptions.model_json_schema(),
            "picture": file,
            "right": file,
            "mask": file,
            "guide": file,
        },
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


@api.post("/jobs", status_code=201, openapi_extra=_upload(True))
async def post_job(request: Request, service: Served) -> Job:
    """Queue the restoration of one picture, or of two views. `options` is JSON."""
    return await _queued(request, service, None)


@api.post("/jobs/{id}/again", status_code=201, openapi_extra=_upload(False))
async def post_again(id: str, request: Request, service: Served) -> Job:
    """Queue another restoration of the pictures of a job. A form as for a new job, or the options as JSON."""
    service.record(id)
    return await _queued(request, service, id)


async def _queued(request: Request, service: Service, source: str | None) -> Job:
    """Receive the pictures of a job, and queue it.

    Args:
        request: with a form.
        service: the service.
        source: id of the job whose pictures are taken for those that are not in the form.
    """
    try:
        service.check_room()
        async with request.app.state.uploads:
            form = await read_form(request, service.settings.max_bytes)
            try:
                return await _add(service, form, source)
            finally:
                await form.close()
    except OSError as error:
        raise Refusal(503, f"the picture cannot be stored ({error.strerror}): delete jobs", WAIT) from error
    except Refusal:
        await drain(request)
        raise


async def _add(service: Service, form: FormData, source: str | None) -> Job:
    """Store the pictures of a form, and queue their job."""
    options, files = options_of(form), files_of(form)
    id, folder = service.store.new_folder()
    try:
        names = {} if source is None else await service.share(source, folder, options, files)
        names |= await store_files(files, folder)
        if "picture" not in names:
            raise Refusal(400, "picture is missing: send a file of that name")
        return await service.add(id, names, options)
    except BaseException:
        service.store.discard(id)
        raise


@api.get("/jobs")
async def get_jobs(service: Served) -> Jobs:
    """All jobs, the newest first."""
    return service.jobs()


@api.delete("/jobs")
async def delete_jobs(service: Served) -> DeletedCount:
    """Delete all jobs; what is being restored is cancelled."""
    return DeletedCount(deleted=service.delete_all())


@api.get("/jobs/{id}")
async def get_job(id: str, service: Served) -> Job:
    """A job."""
    return service.job(id)


@api.delete("/jobs/{id}", status_code=204)
async def delete_job(id: str, service: Served) -> None:
    """Delete a job and its files; it is cancelled first."""
    service.delete(id)


@api.post("/jobs/{id}/cancel")
async def post_cancel(id: str, service: Served) -> Job:
    """Cancel a job: at once if it waits, before its next step if it is being restored."""
    return service.cancel(id)


@api.post("/cancel")
async def post_cancel_all(service: Served) -> CancelledCount:
    """Cancel all jobs that wait or are being restored."""
    return CancelledCount(cancelled=service.cancel_all())


@api.post("/jobs/{id}/retry")
async def post_retry(id: str, service: Served) -> Job:
    """Let a job that failed or was cancelled wait again."""
    return service.retry(id)


@api.get("/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}})
async def get_events(service: Served) -> StreamingResponse:
    """What happens, as server-sent events: `jobs` with the whole list, then `job` and `deleted`."""
    return StreamingResponse(_events(service), media_type="text/event-stream")


async def _events(service: Service) -> AsyncIterator[str]:
    with service.listening() as events:
        while True:
            try:
                event = await asyncio.wait_for(events.get(), HEARTBEAT)
            except TimeoutError:
                yield ": still here\n\n"
                continue
            if event is None:
                return
            yield f"event: {event.name}\ndata: {event.text}\n\n"


@api.get("/jobs/{id}/input", response_class=FileResponse)
async def get_input(
    id: str, request: Request, service: Served, side: Side = None, view: View = "left"
) -> Response:
    """The picture as browsers show it: PNG or JPEG, upright, 8 bit; for a part of a picture, that part."""
    part = "right" if view == "right" else "picture"
    cropped = f"{part}-crop.tif"
    has_crop = (service.store.folder_of(service.record(id).id) / cropped).is_file()
    return _shown(request, await service.view(id, cropped if has_crop else part, side))


@api.get("/jobs/{id}/output", response_class=FileResponse)
async def get_output(
    id: str, request: Request, service: Served, side: Side = None, view: View = "left"
) -> Response:
    """The restored picture as browsers show it."""
    return _shown(request, await service.view(id, result_name(view, _done(service, id).suffix), side))


@api.get("/jobs/{id}/preview", response_class=FileResponse)
async def get_preview(id: str, request: Request, service: Served) -> Response:
    """The state after the last step, at most 512 pixels wide and high."""
    return _shown(request, service.store.folder_of(service.record(id).id) / "preview")


@api.get("/jobs/{id}/steps/{step}", response_class=FileResponse)
async def get_step(id: str, step: int, request: Request, service: Served) -> Response:
    """The picture after a step, of jobs with the option `trajectory`; that of step 0 is the input."""
    if step == 0:
        return await get_input(id, request, service)
    return _shown(request, service.store.folder_of(service.record(id).id) / "steps" / str(step))


@api.get("/jobs/{id}/uncertainty", response_class=FileResponse)
async def get_uncertainty(id: str, request: Request, service: Served) -> Response:
    """The standard deviation of the samples, white for a tenth of the range; of jobs with several samples."""
    return _shown(request, service.store.folder_of(service.record(id).id) / "uncertainty.png")


@api.get("/jobs/{id}/result", response_class=FileResponse)
async def get_result(id: str, service: Served, view: View = "left") -> FileResponse:
    """The file of the restored picture: format, depth, EXIF and profile are those of the upload."""
    record = _done(service, id)
    path = service.store.folder_of(id) / result_name(view, record.suffix)
    if not path.is_file():
        raise Refusal(404, "the job has no such picture")
    kind = "image/tiff" if record.suffix in (".tif", ".tiff") else f"image/{record.suffix[1:]}"
    kind = "image/jpeg" if record.suffix == ".jpg" else kind
    return FileResponse(path, media_type=kind, filename=_download_name(record, view))


@api.get("/results.zip", response_class=StreamingResponse)
async def get_zip(service: Served, job: Annotated[list[str], Query()] = []) -> StreamingResponse:  # noqa: B006
    """The results of jobs as one archive, by default of all that are done."""
    chosen = [service.record(id) for id in job] if job else list(service.store.records.values())
    files: list[tuple[str, Path]] = []
    for record in (record for record in chosen if record.state == "done"):
        views: tuple[View, ...] = ("left", "right") if "right" in record.names else ("left",)
        folder = service.store.folder_of(record.id)
        files += [(_download_name(record, view), folder / result_name(view, record.suffix)) for view in views]
    if not files:
        raise Refusal(404, "none of these jobs is done")
    names = unique_names([name for name, _ in files])
    packed = zipped(list(zip(names, (path for _, path in files), strict=True)))
    headers = {"Content-Disposition": 'attachment; filename="restored.zip"'}
    return StreamingResponse(packed, media_type="application/zip", headers=headers)


def _done(service: Service, id: str) -> Record:
    record = service.record(id)
    if record.state != "done":
        raise Refusal(409, f"the job is {record.state}: its result is there when it is done")
    return record


def _download_name(record: Record, view: View) -> str:
    """Return the name that a result gets on the client's disk: that of the upload, with its own suffix."""
    name = record.names["right" if view == "right" and "right" in record.names else "picture"]
    stem = PurePath(name).stem.strip(". ") or "picture"
    safe = "".join("_" if character in '<>:"/\\|?*' else character for character in stem)
    return f"{safe}{record.suffix}"


def _shown(request: Request, path: Path) -> Response:
    """Return a picture for browsers, or that it has not changed.

    It is read at once: a preview is replaced while it is sent.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
            if request.headers.get("if-none-match") == tag:
                return Response(status_code=304, headers=headers)
            data = file.read()
    except FileNotFoundError:
        raise Refusal(404, "the job has no such picture (yet)") from None
    kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
    return Response(data, media_type=kind, headers=headers)
