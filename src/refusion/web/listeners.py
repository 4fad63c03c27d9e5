"""Those who listen to what happens to jobs, each with a queue of its own."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

MAX_EVENTS = 1000
"""Events that a listener may be behind before it is let go; it comes back and gets the whole list."""


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Args:
        name: jobs, job or deleted.
        text: of what, as JSON.
    """

    name: str
    text: str


Events = asyncio.Queue[Event | None]
"""What a listener has not heard yet; None is the end."""


class Listeners:
    """All who listen at the moment."""

    def __init__(self) -> None:
        self._queues: set[Events] = set()

    def __len__(self) -> int:
        return len(self._queues)

    @contextlib.contextmanager
    def listening(self, first: Event) -> Iterator[Events]:
        """Yield a queue of events, which begins with a first one."""
        events: Events = asyncio.Queue()
        events.put_nowait(first)
        self._queues.add(events)
        try:
            yield events
        finally:
            self._queues.discard(events)

    def publish(self, event: Event) -> None:
        """Tell everyone; who is too far behind is let go."""
        for events in list(self._queues):
            if events.qsize() < MAX_EVENTS:
                events.put_nowait(event)
            else:
                self._let_go(events)

    def hang_up(self) -> None:
        """Let everyone go."""
        for events in list(self._queues):
            self._let_go(events)

    def _let_go(self, events: Events) -> None:
        events.put_nowait(None)
        self._queues.discard(events)
