"""The service's addresses: each says what it takes and gives in OpenAPI (/openapi.json), and fails in one line of JSON.

    POST /search      POST /matches      POST /documents      GET, DELETE /documents/{id}
    GET /info         GET /health        GET /metrics         GET /    the page

Annotations are not postponed here: FastAPI reads those of the handlers, whose bodies carry this service's limits.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from colbertxm import __version__
from colbertxm.service import bodies as shapes
from colbertxm.service.answers import Answer
from colbertxm.service.failures import ERRORS, add_failures
from colbertxm.service.guard import Guard
from colbertxm.service.limits import Limits
from colbertxm.service.metrics import MEDIA_TYPE, Metrics
from colbertxm.service.served import Served
from colbertxm.service.service import Service
from colbertxm.service.waiting import Line

PAGE = Path(__file__).parent / "page"
NOT_THERE: dict[int | str, Any] = {404: {"description": "no such passage", "model": shapes.ErrorAnswer}}


def create_app(
    main: Served, compare: Served | None, limits: Limits, key: str | None, hosts: tuple[str, ...] | None = ()
) -> ASGIApp:
    """The service behind its guard, whose arguments `key` and `hosts` are."""
    service, metrics = Service(main, compare, limits), Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.close()

    responses: dict[int | str, Any] = {
        status: {"description": about, "model": shapes.ErrorAnswer} for status, about in ERRORS.items()
    }
    app = FastAPI(
        title="colbertxm", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        redirect_slashes=False, responses=responses,
    )  # fmt: skip
    add_searches(app, service, shapes.bodies(limits))
    add_documents(app, service, shapes.bodies(limits))
    add_rest(app, service, metrics)
    add_failures(app)
    add_gauges(metrics, service)
    return Guard(app, limits, key, metrics, hosts)


def add_searches(app: FastAPI, service: Service, shape: shapes.Bodies) -> None:
    """What reads the index."""

    @app.post("/search", response_model=shapes.SearchAnswer)
    async def search(body: shape.search) -> Response:  # type: ignore[name-defined]
        """The best passages of a query."""
        return Answer((await service.search(body)).model_dump())

    @app.post("/matches", response_model=shapes.MatchAnswer, responses=NOT_THERE)
    async def matches(body: shape.match) -> Response:  # type: ignore[name-defined]
        """Which query token met which passage token."""
        return Answer((await service.match(body)).model_dump())


def add_documents(app: FastAPI, service: Service, shape: shapes.Bodies) -> None:
    """What changes the index, and shows what is in it."""

    @app.post("/documents", response_model=shapes.IndexedAnswer)
    async def add(body: shape.documents) -> Response:  # type: ignore[name-defined]
        """Index passages, each in the place of one with its id; all of them or none."""
        return Answer({"indexed": await service.add(body)})

    @app.get("/documents/{id:path}", response_model=shapes.PassageAnswer, responses=NOT_THERE)
    async def passage(id: str) -> Response:
        """A passage."""
        return Answer((await asyncio.to_thread(service.passage, id)).model_dump())

    @app.delete("/documents/{id:path}", response_model=shapes.IndexedAnswer, responses=NOT_THERE)
    async def delete(id: str) -> Response:
        """Delete a passage."""
        return Answer({"indexed": await service.delete(id)})


def add_rest(app: FastAPI, service: Service, metrics: Metrics) -> None:
    """What tells about the service, and the page."""

    @app.get("/info", response_model=shapes.InfoAnswer)
    async def info() -> Response:
        """Models, languages, limits."""
        return Answer(service.info().model_dump())

    @app.get("/health", response_model=shapes.HealthAnswer)
    async def health() -> Response:
        """Whether searches are answered; needs no key."""
        return Answer({"status": "ok"})

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def read_metrics() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), headers={"content-type": MEDIA_TYPE})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/page", StaticFiles(directory=PAGE), name="page")


def add_gauges(metrics: Metrics, service: Service) -> None:
    """What is read from the service when it is asked for."""
    lines: dict[str, Line[Any, Any]] = {
        **{f"search {which}": line for which, line in service.searches.items()},
        "change": service.changes,
    }
    metrics.gauge(
        "colbertxm_passages", "Passages that can be found.",
        lambda: {which: served.snapshot.living for which, served in service.models.items()},
    )  # fmt: skip
    metrics.gauge(
        "colbertxm_waiting", "Who waits or is worked on, by line.",
        lambda: {name: line.count for name, line in lines.items()},
    )  # fmt: skip
    metrics.gauge(
        "colbertxm_batch_queries", "Mean size of the last thousand batches.",
        lambda: {name: sum(line.batches) / max(1, len(line.batches)) for name, line in lines.items()},
    )  # fmt: skip
