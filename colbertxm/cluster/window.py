"""Tasks to workers that may be lost, results back in order.

A worker is told of its next task while it does one, so that it never waits for the coordinator; it gets tasks only when
it has said that it is ready, so that nothing waits for a worker that the cluster has no room for. The tasks of a lost
worker go to whoever is free, and another worker is asked for in its place.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from colbertxm.cluster.journal import Shard, Shards
from colbertxm.errors import UserError
from colbertxm.records import Text

DEPTH = 2  # tasks that a worker has at a time: one that it does, and the next
AHEAD = 8  # shards for each worker that may be under way or wait for an earlier one
PATIENCE_S = 600.0  # without a ready worker, or any answer
Handle = Hashable
Task = tuple[int, Sequence[Text]]
"""A shard's number and its passages."""


class Lost(Exception):
    """A worker or its machine is gone, and with it what it was doing."""


class Pool(Protocol):
    """`size` places, each with a worker that encodes shards."""

    size: int

    def ready(self, place: int) -> Handle:
        """Asks for a (new) worker; the handle is finished when it can take tasks."""

    def start(self, place: int, texts: Sequence[Text]) -> Handle: ...

    def wait(self, handles: Sequence[Handle], seconds: float) -> Handle | None:
        """One that is finished; None where there is none in so many seconds."""

    def result(self, handle: Handle) -> Shard | None:
        """Raises Lost."""

    def close(self) -> None:
        """Let all workers go."""


@dataclass
class _State:
    """`generation` counts the workers that a place has had; a running handle knows its worker's, and its task (None
    where the worker was asked for). `free`: a place for each task that its worker has room for. `order`: shards that
    were begun and not yielded, `todo`: those of them that nobody does."""

    generation: list[int]
    running: dict[Handle, tuple[int, int, Task | None]] = field(default_factory=dict)
    free: deque[int] = field(default_factory=deque)
    order: deque[int] = field(default_factory=deque)
    todo: deque[Task] = field(default_factory=deque)
    done: set[int] = field(default_factory=set)
    losses: Counter[int | None] = field(default_factory=Counter)


def in_order(
    pool: Pool, tasks: Iterable[Task], shards: Shards, retries: int, note: Callable[[str], None]
) -> Generator[tuple[Sequence[Text], Shard], None, None]:
    """Each task's passages with their vectors, in the order of `tasks`. What `shards` has is not made again; `note` is
    told of losses.

    Raises UserError where a shard was lost more than `retries` times, or nobody answers; its cause is an OSError, for
    what is done stays of use.
    """
    state, waiting = _State([0] * pool.size), iter(tasks)
    texts: dict[int, Sequence[Text]] = {}
    for place in range(pool.size):
        _ask(pool, state, place)
    while True:
        while len(state.order) < AHEAD * pool.size and (task := next(waiting, None)) is not None:
            number, texts[number] = task[0], task[1]
            state.order.append(number)
            if shards.has(number):
                state.done.add(number)
            else:
                state.todo.append(task)
        while state.free and state.todo:
            place, task = state.free.popleft(), state.todo.popleft()
            state.running[pool.start(place, task[1])] = place, state.generation[place], task
        if not state.order:
            return
        if state.order[0] in state.done:
            number = state.order.popleft()
            state.done.remove(number)
            yield texts.pop(number), shards.take(number)
        else:
            _receive(pool, state, shards, retries, note)


def _ask(pool: Pool, state: _State, place: int) -> None:
    """For a (new) worker."""
    state.generation[place] += 1
    state.free = deque(other for other in state.free if other != place)
    state.running[pool.ready(place)] = place, state.generation[place], None


def _receive(pool: Pool, state: _State, shards: Shards, retries: int, note: Callable[[str], None]) -> None:
    """Wait for one handle, and keep its result or do it again."""
    handle = pool.wait(list(state.running), PATIENCE_S)
    if handle is None:
        raise UserError(
            f"no worker answered for {PATIENCE_S:.0f} s: look whether the cluster has room for {pool.size} of them "
            "(`ray status`); the same command goes on where this one stopped"
        ) from ConnectionError("no answer")
    place, generation, task = state.running.pop(handle)
    try:
        shard = pool.result(handle)
    except Lost as lost:
        number = None if task is None else task[0]
        what = "a worker that was to start" if number is None else f"shard {number}"
        state.losses[number] += 1
        if state.losses[number] > retries * (pool.size if number is None else 1):
            raise UserError(
                f"{what} was lost {state.losses[number]} times ({lost}): see to the machines; the same command goes on "
                "where this one stopped"
            ) from ConnectionError(str(lost))
        note(f"{what} was lost ({lost}) and is done again")
        if task is not None:
            state.todo.appendleft(task)
        if generation == state.generation[place]:
            _ask(pool, state, place)
        return
    if generation == state.generation[place]:
        state.free.extend([place] * (DEPTH if task is None else 1))
    if task is not None and shard is not None:
        shards.keep(task[0], shard)
        state.done.add(task[0])
