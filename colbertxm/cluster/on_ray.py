"""The workers as Ray actors: the one file that knows Ray.

Actors and not `ray.data`: a shard's result is written to the journal the moment it is there, a shard that is lost again
and again ends the build with a line instead of being tried for ever, and nothing waits for an actor that a dead machine
has no room for (benchmarks/ray compares their speed). Each actor compares its weights and libraries with the
coordinator's before its first shard: other ones would make other vectors.

Every machine has colbertxm[ray] installed and sees the model, and for a search the index, under the same path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import colbertxm
from colbertxm.cluster.groups import Found, Group, ends_of, plan, version
from colbertxm.cluster.indexing import encoded
from colbertxm.cluster.journal import Shard
from colbertxm.cluster.searching import ClusterEngine
from colbertxm.cluster.window import Handle, Lost
from colbertxm.engine.index import CompressedIndex
from colbertxm.engine.store import Index
from colbertxm.errors import MissingExtra, UserError
from colbertxm.model.checkpoints import load_model
from colbertxm.model.encoder import Encoder
from colbertxm.records import Text
from colbertxm.retriever import Retriever

ANSWER_S = 120.0
"""Seconds in which a search's worker must answer, starting included, before it counts as lost."""


@dataclass(frozen=True)
class RaySettings:
    """`address`: of a running cluster (`auto`: the one that this machine belongs to); None starts a Ray of our own.
    `actors` None: as many as there is room for. `cpus` None: this process's threads; an actor computes with as many
    threads as it has processors, and vectors have the same bytes for the same number of threads."""

    address: str | None = None
    actors: int | None = None
    cpus: int | None = None
    gpus: float = 0
    retries: int = 3
    partial: bool = False

    @property
    def threads(self) -> int:
        return self.cpus or torch.get_num_threads()


def import_ray() -> Any:
    """Raises MissingExtra without Ray."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads it on import: nothing leaves the machine
    try:
        import ray
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    return ray


def connect(settings: RaySettings) -> Any:
    """Ray, connected. Raises UserError where no cluster answers at the address."""
    ray = import_ray()
    if ray.is_initialized():
        return ray
    own = {"include_dashboard": False} if settings.address is None else {}
    try:
        ray.init(settings.address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"no Ray cluster at ray.address={settings.address} ({reason}): start one with `ray start --head`, or leave "
            "ray.address out to start one here"
        ) from None
    return ray


def actors(ray: Any, settings: RaySettings) -> int:
    """How many there will be. Raises UserError where the cluster has no room for them."""
    have: Mapping[str, float] = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 0), have.get("GPU", 0)
    room = int(cpus // settings.threads)
    if settings.gpus:
        room = min(room, int(gpus / settings.gpus))
    wanted = room if settings.actors is None else settings.actors
    if not 1 <= wanted <= room:
        raise UserError(
            f"the cluster has {cpus:g} processors and {gpus:g} GPUs, room for {room} actors of {settings.threads} "
            f"processors and {settings.gpus:g} GPUs: ray.actors={settings.actors} does not fit; lower it or ray.cpus"
        )
    return wanted


def identity(encoder: Encoder) -> dict[str, str]:
    """What vectors depend on besides texts, threads and the kind of machine."""
    return {
        "colbertxm": colbertxm.__version__,
        "torch": torch.__version__.split("+")[0],
        "model": Retriever(encoder)._source([]),
    }


class EncoderActor:
    """In a process of its own: a model that encodes shards."""

    def __init__(
        self, model: str, lang_proxy: Mapping[str, str], expected: Mapping[str, str], threads: int, gpu: bool
    ) -> None:
        self.model, self.lang_proxy, self.expected, self.gpu = model, lang_proxy, expected, gpu
        torch.set_num_threads(threads)

    @cached_property
    def retriever(self) -> Retriever:
        """Raises UserError where this machine's model or libraries are others than the coordinator's."""
        try:
            encoder = load_model(Path(self.model))
        except UserError as error:
            raise UserError(f"{os.uname().nodename}: {error}; every machine needs the model at that path") from None
        encoder.lang_proxy = dict(self.lang_proxy)
        own = identity(encoder)
        if differ := sorted(name for name in own if own[name] != self.expected[name]):
            raise UserError(
                f"{os.uname().nodename} has another {', '.join(differ)} than the coordinator, which would make other "
                "vectors: install the same versions and share the model's folder"
            )
        return Retriever(encoder.cuda() if self.gpu else encoder)

    def ready(self) -> None:
        _ = self.retriever

    def encode(self, texts: Sequence[Text]) -> Shard:
        return encoded(self.retriever, texts)

    def pid(self) -> int:
        return os.getpid()


class GroupActor:
    """In a process of its own: a group of an index."""

    def __init__(self, folder: str, first: int, last: int, version: str, threads: int) -> None:
        self.given = Path(folder), first, last
        self.expected = version
        torch.set_num_threads(threads)

    @cached_property
    def group(self) -> Group:
        """Raises UserError where this machine does not see the coordinator's index."""
        try:
            group = Group(*self.given)
        except UserError as error:
            raise UserError(f"{os.uname().nodename}: {error}; every machine needs the index at that path") from None
        if group.version != self.expected:
            raise UserError(f"{self.given[0]} changed while it was opened, or is another one on {os.uname().nodename}")
        return group

    def search(self, queries: Sequence[Tensor], k: int, lang: str | None) -> list[Found]:
        return self.group.search(queries, k, lang)

    def pid(self) -> int:
        return os.getpid()


def _got(ray: Any, handle: Handle, seconds: float | None = None) -> Any:
    """An answer. Raises Lost where its actor is gone, and what the actor raised."""
    gone = ray.exceptions
    try:
        return ray.get(handle, timeout=seconds)
    except gone.RayTaskError as error:
        raise error.cause from None
    except (gone.RayActorError, gone.ObjectLostError, gone.WorkerCrashedError, gone.OutOfMemoryError) as error:
        raise Lost(type(error).__name__) from None
    except gone.GetTimeoutError:
        raise Lost(f"no answer for {seconds:.0f} s") from None


class RayEncoders:
    """A `Pool` of EncoderActors."""

    def __init__(self, ray: Any, settings: RaySettings, model: Path, encoder: Encoder) -> None:
        self.ray, self.size = ray, actors(ray, settings)
        options = {"num_cpus": settings.threads, "num_gpus": settings.gpus, "max_restarts": 0}
        self._make = ray.remote(**options)(EncoderActor)
        proxies = dict(encoder.lang_proxy)
        self._given = str(model.resolve()), proxies, identity(encoder), settings.threads, bool(settings.gpus)
        self.actors: list[Any] = [None] * self.size

    def ready(self, place: int) -> Handle:
        self._let_go(place)
        self.actors[place] = self._make.remote(*self._given)
        return self.actors[place].ready.remote()  # type: ignore[no-any-return]

    def start(self, place: int, texts: Sequence[Text]) -> Handle:
        return self.actors[place].encode.remote(list(texts))  # type: ignore[no-any-return]

    def wait(self, handles: Sequence[Handle], seconds: float) -> Handle | None:
        done, _ = self.ray.wait(list(handles), num_returns=1, timeout=seconds)
        return done[0] if done else None

    def result(self, handle: Handle) -> Shard | None:
        return _got(self.ray, handle)  # type: ignore[no-any-return]

    def close(self) -> None:
        """At once: an exception's traceback would keep them, and their processors, from the next pool."""
        for place in range(self.size):
            self._let_go(place)

    def _let_go(self, place: int) -> None:
        if self.actors[place] is not None:
            self.ray.kill(self.actors[place])
        self.actors[place] = None


class RaySearchers:
    """`Searchers` of GroupActors."""

    def __init__(
        self, ray: Any, settings: RaySettings, folder: Path, version: str, groups: Sequence[tuple[int, int]]
    ) -> None:
        self.ray, self.groups = ray, groups
        self._make = ray.remote(num_cpus=settings.threads, max_restarts=0)(GroupActor)
        self._given, self._rest = str(folder.resolve()), (version, settings.threads)
        self.actors: list[Any] = [None] * len(groups)
        for group in range(len(groups)):
            self.renew(group)

    def renew(self, group: int) -> None:
        if self.actors[group] is not None:
            self.ray.kill(self.actors[group])  # one that does not answer must not keep its room
        self.actors[group] = self._make.remote(self._given, *self.groups[group], *self._rest)

    def ask(self, group: int, queries: Sequence[Tensor], k: int, lang: str | None) -> Handle:
        return self.actors[group].search.remote(list(queries), k, lang)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let all actors go."""
        for actor in self.actors:
            self.ray.kill(actor)

    def answer(self, handle: Handle) -> list[Found]:
        return _got(self.ray, handle, ANSWER_S)  # type: ignore[no-any-return]


def cluster_engine(
    index: Index | CompressedIndex, folder: Path, settings: RaySettings, note: Callable[[str], None]
) -> ClusterEngine:
    """The engine over the index in `folder`, which the coordinator has opened for its names."""
    ray = connect(settings)
    searchers = RaySearchers(ray, settings, folder, version(folder), plan(ends_of(index), actors(ray, settings)))
    return ClusterEngine(searchers, index.langs, settings.retries, settings.partial, note)
