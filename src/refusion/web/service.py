"""The service: a queue of jobs, one worker, and everyone who listens to what happens."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import refusion
from refusion.imaging.lens import LENSES
from refusion.web.messages import (
    Answer,
    Cancel,
    Check,
    Command,
    Failed,
    Ready,
    Report,
    Restore,
    Restored,
    Stepped,
    Stopped,
    View,
)
from refusion.web.process import WorkerProcess
from refusion.web.refusal import Refusal
from refusion.web.schema import Has, Job, JobOptions, Jobs, Model, QueueState, ServiceState
from refusion.web.store import Keeping, Record, Store, share_files

DEFAULT_MODEL = "shadow-removal"
MAX_STARTS = 3
"""How often a job is begun at most: once, and twice after the service or its worker ended under it."""
PATIENCE = 60.0
"""Seconds that a request waits for the worker."""
SWEEPING = 300.0
"""Seconds between looks for what is too old."""
VIEW_SIDES = (160, 320, 640, 1280, 2560)
"""Sides of reduced pictures; others are rounded up, so that few are kept."""
MAX_EVENTS = 1000
"""Events that a listener may be behind before it is let go; it comes back and gets the whole list."""
WAIT = 10
"""Seconds after which a client may ask again."""


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


@dataclass(frozen=True)
class Event:
    """Something that happened: its name, and what of."""

    name: str
    text: str


@dataclass
class _Running:
    """The job that is being restored."""

    id: str
    began: float
    step: int = 0
    stepped: float = 0.0  # when the last step was done


class Service:
    """The jobs of a store, restored one by one by a worker.

    All methods run in the event loop.

    Args:
        store: of the jobs.
        command: the words that start the worker, see `WorkerProcess`.
        settings: see `Settings`.
        environment: variables of the worker beside those of this process.
    """

    def __init__(
        self,
        store: Store,
        command: Sequence[str],
        settings: Settings,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.settings, self.store = settings, store
        self.worker = WorkerProcess(command, environment or {}, self._on_report, self._on_end)
        self._ready: Ready | None = None
        self._started = asyncio.Event()
        self._running: _Running | None = None
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._views: dict[Path, asyncio.Task[None]] = {}
        self._numbers = itertools.count(1)
        self._listeners: set[asyncio.Queue[Event | None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._handlers: dict[str, Callable[[Any], None]] = {
            "ready": self._on_ready,
            "answer": self._on_answer,
            "stepped": self._on_stepped,
            "restored": self._on_restored,
            "failed": self._on_failed,
            "stopped": self._on_stopped,
        }

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the worker and the sweeping within the block."""
        self._recover()
        self._tasks = [asyncio.create_task(self.worker.run()), asyncio.create_task(self._sweep_for_ever())]
        try:
            yield
        finally:
            self.hang_up()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self.store.close()

    # What clients ask.

    async def models(self) -> list[Model]:
        """Return the models that are served, when the worker has told.

        Raises:
            Refusal: it did not in time.
        """
        return (await self._worker_ready()).models

    async def state(self) -> ServiceState:
        """Return the limits and names of the service.

        Raises:
            Refusal: see `models`.
        """
        ready = await self._worker_ready()
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
        positions = {record.id: i for i, record in enumerate(self.store.waiting())}
        return Jobs(jobs=[self._job(record, positions) for record in records])

    def job(self, id: str) -> Job:
        """Return a job.

        Raises:
            Refusal: there is none of this id.
        """
        return self._job(self.record(id), {r.id: i for i, r in enumerate(self.store.waiting())})

    def record(self, id: str) -> Record:
        """Return the record of a job.

        Raises:
            Refusal: there is none of this id.
        """
        if id not in self.store.records:
            raise Refusal(404, "no such job: it was deleted, or is too old")
        return self.store.records[id]

    def check_room(self) -> None:
        """Check that another job may wait.

        Raises:
            Refusal: it may not.
        """
        if len(self.store.waiting()) >= self.settings.max_waiting:
            text = f"{self.settings.max_waiting} jobs wait already: send this one again later"
            raise Refusal(503, text, WAIT)

    async def add(self, id: str, names: dict[str, str], options: JobOptions) -> Job:
        """Queue a job whose files are in its folder.

        Args:
            id: of a folder of the store.
            names: what the client calls the files, by their names in the folder.
            options: of the job.

        Raises:
            Refusal: a file is no picture, the model does not take the options, or too many jobs wait.
        """
        folder = str(self.store.folder_of(id))
        ready = await self._worker_ready()
        answer = await self._ask(
            lambda number: Check(number=number, folder=folder, parts=list(names), options=options)
        )
        if answer.status != 200:
            raise Refusal(answer.status, answer.error)
        self.check_room()
        now = time.time()
        steps = options.steps or next(m.sampling.steps for m in ready.models if m.name == options.model)
        record = Record(
            id=id, names=names, options=options, created=now, queued=now, steps=steps * options.samples
        )
        self._put(record)
        self._advance()
        return self.job(id)

    def share(self, source: str, folder: Path, without: Iterable[str]) -> dict[str, str]:
        """Let a new job have the files of another one, but some, and return their names for the client.

        Raises:
            Refusal: there is no such job.
        """
        names = {part: name for part, name in self.record(source).names.items() if part not in without}
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
            Refusal: there is no such job, it has not ended so, or too many wait.
        """
        record = self.record(id)
        if record.state not in ("failed", "cancelled"):
            raise Refusal(409, f"the job is {record.state}: only failed and cancelled ones can be retried")
        self.check_room()
        again = Record(
            id=id,
            names=record.names,
            options=record.options,
            created=record.created,
            queued=time.time(),
            steps=record.steps,
        )
        self._put(again)
        self._advance()
        return self.job(id)

    def delete(self, id: str) -> None:
        """Remove a job and its files; it is cancelled first.

        Raises:
            Refusal: there is no such job.
        """
        record = self.record(id)
        self.store.forget(id)
        self._publish(Event("deleted", f'{{"id":"{id}"}}'))
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
        """Return the file of a picture that browsers show, made if it was not yet.

        Args:
            id: of a job.
            source: name of a file in the job's folder.
            side: longest side in pixels, rounded up to one of `VIEW_SIDES`; by default as it is.

        Raises:
            Refusal: there is no such job or file, or it is no picture.
        """
        record, folder = self.record(id), self.store.folder_of(id)
        if not (folder / source).is_file():
            raise Refusal(404, "the job has no such picture (yet)")
        rounded = None if side is None else next((s for s in VIEW_SIDES if s >= side), None)
        target = folder / "views" / f"{source}-{rounded or 'whole'}-{record.starts}"
        if not target.is_file():
            name = record.names.get(source, record.names["picture"])
            if target not in self._views:
                making = self._make_view(folder / source, name, target, rounded)
                self._views[target] = asyncio.create_task(making)
            try:
                await asyncio.shield(self._views[target])
            finally:
                self._views.pop(target, None)
        return target

    async def _make_view(self, source: Path, name: str, target: Path, side: int | None) -> None:
        await self._worker_ready()
        answer = await self._ask(
            lambda number: View(number=number, source=str(source), name=name, target=str(target), side=side),
            None,
        )
        if answer.status != 200:
            raise Refusal(answer.status, answer.error)

    @contextlib.contextmanager
    def listening(self) -> Iterator[asyncio.Queue[Event | None]]:
        """Yield a queue of events, which begins with the list of all jobs and may end with None."""
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        events.put_nowait(Event("jobs", self.jobs().model_dump_json()))
        self._listeners.add(events)
        try:
            yield events
        finally:
            self._listeners.discard(events)

    def hang_up(self) -> None:
        """End what listeners wait for."""
        for events in self._listeners:
            events.put_nowait(None)
        self._listeners.clear()

    # What the worker tells.

    def _on_report(self, report: Report) -> None:
        self._handlers[report.kind](report)

    def _on_ready(self, ready: Ready) -> None:
        self._ready = ready
        self._started.set()
        self._advance()

    def _on_answer(self, answer: Answer) -> None:
        future = self._answers.pop(answer.number, None)
        if future is not None and not future.done():
            future.set_result(answer)

    def _on_stepped(self, report: Stepped) -> None:
        record = self.store.records.get(report.id)
        if self._running is None or record is None:
            return
        self._running.step, self._running.stepped = report.step, time.time()
        update = {"steps": report.steps, "previews": report.previews, "kept": report.kept}
        self.store.records[report.id] = record.model_copy(update=update)
        self._tell(report.id)

    def _on_restored(self, report: Restored) -> None:
        self._finish(
            report.id,
            "done",
            **report.model_dump(
                include={"suffix", "width", "height", "megapixels", "notices", "uncertainty"}
            ),
        )

    def _on_failed(self, report: Failed) -> None:
        self._finish(report.id, "failed", error=report.error)

    def _on_stopped(self, report: Stopped) -> None:
        self._finish(report.id, "cancelled")

    def _on_end(self, status: int) -> None:
        """Note that the worker has ended."""
        reason = f"signal {-status}" if status < 0 else f"status {status}"
        viewed = bool(self._answers)
        for number in list(self._answers):
            line = f"the worker ended ({reason}) while it read a picture: convert it first"
            self._on_answer(Answer(number=number, status=415, error=line))
        self._started.clear()
        if self._running is None:
            return
        record = self.store.records.get(self._running.id)
        if record is not None and viewed and record.starts < MAX_STARTS:
            self._running = None
            self._put(record.model_copy(update={"state": "waiting"}))
            return
        line = f"the worker ended ({reason}), out of memory or by a fault of a decoder"
        self._finish(
            self._running.id,
            "failed",
            error=f"{record.names['picture'] if record else ''}: {line}: make the picture smaller, or convert it",
        )

    # The queue.

    def _recover(self) -> None:
        """Let the jobs wait again under which the service ended, and remove folders without a job."""
        for id in self.store.strays():
            self.store.discard(id)
        for record in list(self.store.records.values()):
            if record.state == "running" and record.starts >= MAX_STARTS:
                line = f"the service ended {record.starts} times while it was restored: retry it alone"
                update = {"state": "failed", "error": line, "finished": time.time()}
                self.store.put(record.model_copy(update=update))
            elif record.state == "running":
                self.store.put(record.model_copy(update={"state": "waiting"}))

    def _advance(self) -> None:
        """Restore the next job if the worker is ready and idle."""
        waiting = self.store.waiting()
        if self._running is not None or not self._started.is_set() or not waiting:
            return
        record = waiting[0]
        now = time.time()
        self._running = _Running(record.id, now, stepped=now)
        self._put(record.model_copy(update={"state": "running", "starts": record.starts + 1}))
        folder = str(self.store.folder_of(record.id))
        self.worker.send(Restore(id=record.id, folder=folder, names=record.names, options=record.options))

    def _cancel(self, record: Record) -> None:
        if record.state == "running":
            self.worker.send(Cancel(id=record.id))
        else:
            self._put(record.model_copy(update={"state": "cancelled", "finished": time.time()}))

    def _finish(self, id: str, state: str, **values: Any) -> None:
        """Note the end of the job that was being restored, and go on with the next one."""
        assert self._running is not None
        now = time.time()
        seconds = now - self._running.began
        self._running = None
        record = self.store.records.get(id)
        if record is None:
            self.store.discard(id)  # it was deleted meanwhile
        else:
            update = {"state": state, "finished": now, "seconds": seconds, **values}
            self._put(record.model_copy(update=update))
        self._advance()

    def _put(self, record: Record) -> None:
        self.store.put(record)
        self._tell(record.id)

    def _job(self, record: Record, positions: Mapping[str, int]) -> Job:
        running = self._running if self._running and self._running.id == record.id else None
        done = record.state == "done"
        return Job(
            id=record.id,
            name=record.names["picture"],
            batch=record.options.batch,
            state=record.state,
            position=positions.get(record.id),
            step=running.step if running else record.steps if done else 0,
            steps=record.steps,
            seconds=time.time() - running.began if running else record.seconds,
            seconds_left=_left(running, record.steps) if running else None,
            error=record.error or None,
            notices=record.notices,
            width=record.width,
            height=record.height,
            megapixels=record.megapixels,
            created=record.created,
            options=record.options,
            has=Has(
                result=done, uncertainty=record.uncertainty, steps=record.kept, mask="mask" in record.names
            ),
            previews=record.previews,
        )

    # Listeners, questions and sweeping.

    def _tell(self, id: str) -> None:
        if self._listeners:
            self._publish(Event("job", self.job(id).model_dump_json()))

    def _publish(self, event: Event) -> None:
        for events in list(self._listeners):
            if events.qsize() < MAX_EVENTS:
                events.put_nowait(event)
            else:
                events.put_nowait(None)
                self._listeners.discard(events)

    async def _worker_ready(self) -> Ready:
        """Return what the worker told at its start; wait for it if it is just starting."""
        try:
            await asyncio.wait_for(self._started.wait(), PATIENCE)
        except TimeoutError:
            raise Refusal(503, "the worker does not start: see what it prints", WAIT) from None
        assert self._ready is not None
        return self._ready

    async def _ask(self, question: Callable[[int], Command], patience: float | None = PATIENCE) -> Answer:
        number = next(self._numbers)
        future = self._answers[number] = asyncio.get_running_loop().create_future()
        self.worker.send(question(number))
        try:
            return await asyncio.wait_for(future, patience)
        except TimeoutError:
            raise Refusal(503, "the worker does not answer: ask again later", WAIT) from None
        finally:
            self._answers.pop(number, None)

    async def _sweep_for_ever(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(SWEEPING)

    async def sweep(self) -> None:
        """Delete the jobs that are too old, or too many for the disk."""
        expired = await asyncio.to_thread(self.store.expired, self.settings.keeping, time.time())
        for id in expired:
            if id in self.store.records:
                self.delete(id)


def _left(running: _Running, steps: int) -> float | None:
    """Return the seconds that the job still takes, by its steps so far."""
    if not running.step:
        return None
    pace = (running.stepped - running.began) / running.step
    return max(0.0, running.stepped + pace * (steps - running.step) - time.time())
