"""The service: a queue of jobs and one worker. All of it runs in the event loop."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import refusion
from refusion.imaging.lens import LENSES
from refusion.web.listeners import Event, Events, Listeners
from refusion.web.messages import Cancel, Check, Failed, Ready, Report, Restore, Restored, Stepped, Stopped
from refusion.web.process import WAIT, Ended, Words, WorkerProcess
from refusion.web.progress import Running, describe
from refusion.web.refusal import Refusal
from refusion.web.schema import Job, JobOptions, Jobs, Model, QueueState, ServiceState
from refusion.web.store import Keeping, Record, Store, share_files
from refusion.web.views import Views

DEFAULT_MODEL = "shadow-removal"
MAX_STARTS = 3
"""How often a job is begun at most: once, and twice after the service, or the worker through another picture,
ended under it."""
SWEEPING = 300.0
"""Seconds between looks for what is too old."""


@dataclass(frozen=True)
class Settings:
    """The settings of a service.

    Args:
        max_pixels: of a picture that is decoded.
        max_bytes: of one request with its pictures.
        max_waiting: jobs that may wait.
        keeping: how long and how much is kept.
        page: folder of the page.
    """

    max_pixels: int
    max_bytes: int = 2**30
    max_waiting: int = 1000
    keeping: Keeping = Keeping()
    page: Path = Path(__file__).parent / "page"


class Service:
    """The jobs of a store, restored one by one by a worker.

    Args:
        store: of the jobs.
        words: what starts the worker.
        settings: see `Settings`.
    """

    def __init__(self, store: Store, words: Words, settings: Settings) -> None:
        self.settings, self.store = settings, store
        self.worker = WorkerProcess(words, self._on_report, self._on_end)
        self._views = Views(self.worker)
        self._listeners = Listeners()
        self._running: Running | None = None
        self._handlers: dict[str, Callable[[Any], None]] = {
            "ready": self._on_ready,
            "stepped": self._on_stepped,
            "restored": self._on_restored,
            "failed": self._on_failed,
            "stopped": self._on_stopped,
        }

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the worker, and delete what is too old, within the block."""
        self._recover()
        tasks = [asyncio.create_task(self.worker.run()), asyncio.create_task(self._sweep_for_ever())]
        try:
            yield
        finally:
            self.hang_up()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.store.close()

    # What clients ask.

    async def models(self) -> list[Model]:
        """Return the models that are served.

        Raises:
            Refusal: the worker does not start.
        """
        return (await self.worker.ready()).models

    async def state(self) -> ServiceState:
        """Return the limits and names of the service.

        Raises:
            Refusal: the worker does not start.
        """
        ready = await self.worker.ready()
        names = [model.name for model in ready.models]
        return ServiceState(
            version=refusion.__version__,
            models_default=DEFAULT_MODEL if DEFAULT_MODEL in names else names[0],
            max_pixels=self.settings.max_pixels,
            max_bytes=self.settings.max_bytes,
            keep_seconds=self.settings.keeping.seconds,
            queue=QueueState(waiting=len(self.store.waiting()), limit=self.settings.max_waiting),
            lenses=[str(lens) for lens in LENSES],
            samplers=ready.samplers,
            formats=ready.formats,
        )

    def jobs(self) -> Jobs:
        """Return all jobs, the newest first."""
        records = sorted(self.store.records.values(), key=lambda record: -record.created)
        positions = self._positions()
        return Jobs(jobs=[self._job(record, positions) for record in records])

    def job(self, id: str) -> Job:
        """Return a job.

        Raises:
            Refusal: there is none of this id.
        """
        return self._job(self.record(id), self._positions())

    def record(self, id: str) -> Record:
        """Return the record of a job.

        Raises:
            Refusal: there is none of this id.
        """
        if id not in self.store.records:
            raise Refusal(404, "no such job: it was deleted, or is too old")
        return self.store.records[id]

    def check_room(self) -> None:
        """Check that another job may wait, and that there is room for its files.

        Raises:
            Refusal: it may not, or there is none.
        """
        if len(self.store.waiting()) >= self.settings.max_waiting:
            raise Refusal(503, f"{self.settings.max_waiting} jobs wait already: send it again later", WAIT)
        if self.store.is_full(self.settings.keeping.bytes):
            self._delete_expired()
        if self.store.is_full(self.settings.keeping.bytes):
            raise Refusal(503, "there is no room for more pictures: delete jobs, or wait for some", WAIT)

    async def add(self, id: str, names: dict[str, str], options: JobOptions) -> Job:
        """Queue a job whose files are in its folder.

        Args:
            id: of a folder of the store.
            names: what the client calls the files, by their names in the folder.
            options: of the job.

        Raises:
            Refusal: a file is no picture, the model does not take the options, or there is no room.
        """
        folder = str(self.store.folder_of(id))
        await self.worker.ask(
            lambda number: Check(number=number, folder=folder, names=names, options=options)
        )
        self.check_room()
        models = {model.name: model for model in await self.models()}
        steps = (options.steps or models[options.model].sampling.steps) * options.restorations
        now = time.time()
        self._put(Record(id=id, names=names, options=options, created=now, queued=now, steps=steps))
        self._advance()
        return self.job(id)

    async def share(
        self, source: str, folder: Path, options: JobOptions, without: Iterable[str]
    ) -> dict[str, str]:
        """Let a new job have the uploads of another one, but some, and return what the client calls them.

        Another model gets only what it takes: with a mask, it would restore a picture with white holes.

        Raises:
            Refusal: there is no such job.
        """
        models = {model.name: model for model in await self.models()}
        old = self.record(source)
        other = models.get(options.model) if options.model != old.options.model else None
        parts = [part for part in old.names if other is None or part in other.takes.parts]
        names = {part: old.names[part] for part in parts if part not in without}
        share_files(self.store.folder_of(source), folder, names)
        return names

    def cancel(self, id: str) -> Job:
        """Cancel a job: at once if it waits, before its next step if it is being restored.

        Raises:
            Refusal: there is no such job, or it has ended.
        """
        record = self.record(id)
        if record.is_finished:
            raise Refusal(409, f"the job is {record.state}: only waiting and running ones can be cancelled")
        self._cancel(record)
        return self.job(id)

    def cancel_all(self) -> int:
        """Cancel all jobs that wait or are being restored, and return their number."""
        records = [record for record in self.store.records.values() if not record.is_finished]
        for record in records:
            self._cancel(record)
        return len(records)

    def retry(self, id: str) -> Job:
        """Let a job that failed or was cancelled wait again.

        Raises:
            Refusal: there is no such job, it has not ended so, or there is no room.
        """
        old = self.record(id)
        if old.state not in ("failed", "cancelled"):
            raise Refusal(409, f"the job is {old.state}: only failed and cancelled ones can be retried")
        self.check_room()
        self.store.clear(id)
        values = old.model_dump(include={"id", "names", "options", "created", "steps"})
        self._put(Record(**values, queued=time.time()))
        self._advance()
        return self.job(id)

    def delete(self, id: str) -> None:
        """Remove a job and its files; it is cancelled first.

        Raises:
            Refusal: there is no such job.
        """
        record = self.record(id)
        self.store.forget(id)
        self._listeners.publish(Event("deleted", f'{{"id": "{id}"}}'))
        if record.state == "running":
            self.worker.send(Cancel(id=id))  # its files are removed when it has stopped
        else:
            self.store.discard(id)

    def delete_all(self) -> int:
        """Remove all jobs, and return their number."""
        ids = list(self.store.records)
        for id in ids:
            self.delete(id)
        return len(ids)

    async def view(self, id: str, source: str, side: int | None) -> Path:
        """Return the file of a picture as browsers show it.

        Args:
            id: of a job.
            source: name of a file in its folder.
            side: longest side in pixels, see `Views.file`.

        Raises:
            Refusal: there is no such job or file, or it is no picture.
        """
        record = self.record(id)
        name = record.names.get(source, record.names["picture"])
        return await self._views.file(self.store.folder_of(id) / source, name, side)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Events]:
        """Yield a queue of events, which begins with the list of all jobs."""
        with self._listeners.listening(Event("jobs", self.jobs().model_dump_json())) as events:
            yield events

    def hang_up(self) -> None:
        """End what listeners wait for."""
        self._listeners.hang_up()

    # What the worker tells.

    def _on_report(self, report: Report) -> None:
        self._handlers[report.kind](report)

    def _on_ready(self, report: Ready) -> None:
        self._advance()

    def _on_stepped(self, report: Stepped) -> None:
        record = self.store.records.get(report.id)
        if self._running is None or record is None:  # it was deleted meanwhile
            return
        self._running.step, self._running.stepped = report.step, time.time()
        update = {"steps": report.steps, "previews": report.previews, "kept": report.kept}
        self.store.records[report.id] = record.model_copy(update=update)
        self._tell(report.id)

    def _on_restored(self, report: Restored) -> None:
        self._finish("done", **report.model_dump(exclude={"kind", "id"}))

    def _on_failed(self, report: Failed) -> None:
        self._finish("failed", error=report.error)

    def _on_stopped(self, report: Stopped) -> None:
        self._finish("cancelled")

    def _on_end(self, ended: Ended) -> None:
        """Let the job fail at which the worker ended; if that was at a picture for a browser, wait again."""
        if ended.source is not None:
            self._views.avoid(ended.source)
        running = self._running
        record = self.store.records.get(running.id) if running else None
        if running is None:
            return
        if record is None:  # it was deleted meanwhile
            self._running = None
            self.store.discard(running.id)
        elif running.unwanted:
            self._finish("cancelled")
        elif ended.source is not None and record.starts < MAX_STARTS:
            self._running = None
            self._put(record.model_copy(update={"state": "waiting"}))
        else:
            remedy = "make it smaller, give a smaller tile, or convert it"
            said = f"the worker ended ({ended.reason}), for lack of memory or by a damaged file"
            self._finish("failed", error=f"{record.names['picture']}: {said}: {remedy}")

    # The queue.

    def _recover(self) -> None:
        """Let the jobs wait again under which the service ended, and remove folders without a job."""
        for id in self.store.strays():
            self.store.discard(id)
        for record in [record for record in self.store.records.values() if record.state == "running"]:
            if record.starts < MAX_STARTS:
                update: dict[str, Any] = {"state": "waiting"}
            else:
                line = f"the service ended {record.starts} times while it was restored: retry it alone"
                update = {"state": "failed", "error": line, "finished": time.time()}
            self._put(record.model_copy(update=update))

    def _advance(self) -> None:
        """Restore the next job if the worker is ready and idle."""
        waiting = self.store.waiting()
        if self._running is not None or not self.worker.is_ready or not waiting:
            return
        record, now = waiting[0], time.time()
        self._running = Running(record.id, now, stepped=now)
        self._put(record.model_copy(update={"state": "running", "starts": record.starts + 1}))
        folder = str(self.store.folder_of(record.id))
        self.worker.send(Restore(id=record.id, folder=folder, names=record.names, options=record.options))

    def _cancel(self, record: Record) -> None:
        if self._running is not None and self._running.id == record.id:
            self._running.unwanted = True
            self.worker.send(Cancel(id=record.id))
        else:
            self._put(record.model_copy(update={"state": "cancelled", "finished": time.time()}))

    def _finish(self, state: str, **values: Any) -> None:
        """Note the end of the job that was being restored, and go on with the next one."""
        assert self._running is not None
        running, now = self._running, time.time()
        self._running = None
        record = self.store.records.get(running.id)
        if record is None:  # it was deleted meanwhile
            self.store.discard(running.id)
        else:
            update = {"state": state, "finished": now, "seconds": now - running.began, **values}
            self._put(record.model_copy(update=update))
        self._advance()

    def _put(self, record: Record) -> None:
        self.store.put(record)
        self._tell(record.id)

    def _tell(self, id: str) -> None:
        if len(self._listeners):
            self._listeners.publish(Event("job", self.job(id).model_dump_json()))

    def _positions(self) -> dict[str, int]:
        return {record.id: i for i, record in enumerate(self.store.waiting())}

    def _job(self, record: Record, positions: Mapping[str, int]) -> Job:
        running = self._running if self._running and self._running.id == record.id else None
        return describe(record, positions.get(record.id), running)

    # What is too old.

    async def _sweep_for_ever(self) -> None:
        while True:
            self._delete_expired()
            await asyncio.sleep(SWEEPING)

    def _delete_expired(self) -> None:
        """Delete the jobs that are too old, or too many for the disk."""
        for id in self.store.expired(self.settings.keeping, time.time()):
            self.delete(id)
