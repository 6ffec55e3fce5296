"""A line of requests in front of one thread that works on several at a time.

Nobody waits for company longer than a few milliseconds: while the thread is busy the next batch gathers by itself, and
when it is idle the first one waits `wait_s` for others. The line has an end, and who waits too long leaves it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Work = Callable[[Sequence[Asked]], "Sequence[Answer | Exception]"]


class Full(Exception):
    """As many wait as may."""


class Late(Exception):
    """The time is over. `begun`: the work on it was, and goes on."""

    def __init__(self, begun: bool) -> None:
        super().__init__()
        self.begun = begun


@dataclass(eq=False)
class Place(Generic[Asked]):
    """One who waits."""

    asked: Asked
    answer: asyncio.Future[Any]
    begun: bool = False


class Line(Generic[Asked, Answer]):
    """`work` on at most `size` requests at a time, of at most `limit` that wait or are worked on. `work` runs in a
    thread of its own and gives an answer or an exception for each."""

    def __init__(
        self, work: Work[Asked, Answer], size: int, wait_s: float, limit: int, timeout_s: float, name: str = "line"
    ) -> None:
        self.work, self.size, self.wait_s, self.limit, self.timeout_s = work, size, wait_s, limit, timeout_s
        self.batches: deque[int] = deque(maxlen=1000)
        """Sizes of the last ones."""
        self.count = 0
        """Who waits or is worked on."""
        self._line: deque[Place[Asked]] = deque()
        self._news = asyncio.Event()
        self._open = True
        self._thread = ThreadPoolExecutor(1, f"colbertxm-{name}")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Let nobody in, finish what is there."""
        self._open = False
        self._news.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def ask(self, asked: Asked) -> Answer:
        """Wait for the answer. Raises Full, Late, and what `work` gave as an exception."""
        if not self._open or self.count >= self.limit:
            raise Full
        place = Place(asked, asyncio.get_running_loop().create_future())
        self._line.append(place)
        self.count += 1
        self._news.set()
        try:
            answer: Answer = await asyncio.wait_for(place.answer, self.timeout_s)
            return answer
        except asyncio.TimeoutError:  # cancelled the future: `_run` then passes it by
            raise Late(place.begun) from None
        finally:
            if not place.begun:
                self.count -= 1  # else when its work is done: a thread that is behind takes in no more

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._news.wait()
            self._news.clear()
            while self._line:
                if len(self._line) < self.size and self.wait_s and self._open:
                    await asyncio.sleep(self.wait_s)
                batch = self._next()
                if not batch:
                    continue
                self.batches.append(len(batch))
                try:
                    answers = await loop.run_in_executor(self._thread, self.work, [place.asked for place in batch])
                except Exception as error:
                    answers = [error] * len(batch)
                self.count -= len(batch)
                for place, answer in zip(batch, answers, strict=True):
                    self._give(place, answer)
            if not self._open:
                return

    def _next(self) -> list[Place[Asked]]:
        """The first of the line who still wait."""
        batch: list[Place[Asked]] = []
        while self._line and len(batch) < self.size:
            place = self._line.popleft()
            if not place.answer.done():
                place.begun = True
                batch.append(place)
        return batch

    @staticmethod
    def _give(place: Place[Asked], answer: Answer | Exception) -> None:
        if place.answer.done():
            return
        if isinstance(answer, Exception):
            place.answer.set_exception(answer)
        else:
            place.answer.set_result(answer)
