"""The writer of runs against a slow one that looks at one hit after the other: the same bytes or the same refusal."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colbertxm.errors import UserError
from colbertxm.evaluation.runs import write_run
from colbertxm.records import Hit

LARGEST = float(np.finfo(np.float32).max)


def slow_lines(path: Path, hits: Sequence[Hit], tag: str) -> bytes:
    """What the file should hold. Raises UserError with the message of the first fault."""
    seen: dict[str, set[str]] = {}
    last: dict[str, tuple[int, float]] = {}
    lines = []
    for hit in hits:
        for kind, name in (("query", hit.query_id), ("passage", hit.passage_id)):
            if name.split() != [name] or "\0" in name or "\ufeff" in name:
                where = "is empty or has white space, where TREC files split"
                raise UserError(f"cannot write {path}: {kind} id {name!r} {where}")
        rank, score = last.get(hit.query_id, (0, math.inf))
        fault = None
        if not abs(hit.score) <= LARGEST:
            fault = f"score {hit.score} is not finite in float32"
        elif hit.rank != rank + 1:
            fault = f"rank {hit.rank} comes after rank {rank}"
        elif not float(np.float32(hit.score)) < score:
            fault = f"score {hit.score} at rank {hit.rank} does not lie below the one before"
        elif hit.passage_id in seen.setdefault(hit.query_id, set()):
            fault = f"passage {hit.passage_id} comes twice"
        if fault:
            raise UserError(f"cannot write {path}: query {hit.query_id}: {fault}; make hits with `rank_hits`")
        last[hit.query_id] = (hit.rank, float(np.float32(hit.score)))
        seen[hit.query_id].add(hit.passage_id)
        line = f"{hit.query_id} Q0 {hit.passage_id} {hit.rank} {float(hit.score)!r} {tag}\n"
        try:
            lines.append(line.encode())
        except UnicodeEncodeError:
            raise UserError(f"cannot write {path}: {line!r} is no valid Unicode") from None
    return b"".join(lines)


def slow_gzip(content: bytes) -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=5, fileobj=file, mtime=0) as packed:
        packed.write(content)
    return file.getvalue()


def outcome(path: Path, hits: Sequence[Hit]) -> bytes | str:
    try:
        write_run(path, iter(hits), "tag")
    except UserError as error:
        assert not path.exists() and not list(path.parent.iterdir())
        return str(error)
    content = path.read_bytes()
    path.unlink()
    return content


def expected(path: Path, hits: Sequence[Hit]) -> bytes | str:
    try:
        content = slow_lines(path, hits, "tag")
    except UserError as error:
        return str(error)
    return slow_gzip(content) if path.suffix == ".gz" else content


IDS = st.one_of(st.sampled_from(["a", "b#1", "水", "ß:q:1"]), st.text(max_size=3))
NEXT = np.nextafter(np.float32(1), np.float32(0))
SCORES = st.one_of(
    st.sampled_from(
        [1.0, float(NEXT), 1.0 - 1e-12, 0.0, -0.0, LARGEST, 1e300, -1e300, math.inf, -math.inf, math.nan, -3]
    ),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@st.composite
def runs(draw: st.DrawFn) -> list[Hit]:
    """Mostly sound runs, the queries in one piece or mingled, and up to two hits replaced by others."""
    sizes = draw(st.dictionaries(st.sampled_from(["q1", "q2", "水#", "q-3"]), st.integers(0, 6), max_size=4))
    columns = []
    for query_id, size in sizes.items():
        scores = sorted({draw(st.floats(-9, 9, width=32)) for _ in range(size)}, reverse=True)
        columns.append([Hit(query_id, f"p{rank}", rank, score) for rank, score in enumerate(scores, 1)])
    hits = [hit for column in columns for hit in column]
    if draw(st.booleans()):
        places = draw(st.permutations([n for n, column in enumerate(columns) for _ in column]))
        rest = [iter(column) for column in columns]
        hits = [next(rest[n]) for n in places]
    for _ in range(draw(st.integers(0, 2)) if hits else 0):
        at = draw(st.integers(0, len(hits) - 1))
        fault = draw(st.sampled_from(["query_id", "passage_id", "rank", "score"]))
        values = {"query_id": IDS, "passage_id": st.one_of(IDS, st.just("p1")), "rank": st.integers(-1, 7)}
        hits[at] = hits[at]._replace(**{fault: draw(values.get(fault, SCORES))})
    return hits


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hits=runs(), packed=st.booleans())
def test_the_writer_is_the_slow_one(tmp_path: Path, hits: list[Hit], packed: bool) -> None:
    path = tmp_path / ("a.run.gz" if packed else "a.run")
    assert outcome(path, hits) == expected(path, hits)


MINGLED = [Hit("q", "a", 1, 3.0), Hit("r", "a", 1, 3.0), Hit("q", "b", 2, 2.0), Hit("r", "b", 2, 2.0)]


@pytest.mark.parametrize(
    "last",
    [
        Hit("q", "c", 3, 1.0),
        Hit("q", "a", 3, 1.0),
        Hit("q", "b", 3, 1.0),
        Hit("q", "c", 2, 1.0),
        Hit("q", "c", 3, 2.0),
        Hit("q", "c", 3, -1e300),
        Hit("q", "c", 3, -LARGEST * (1 + 2**-26)),
        Hit("q", "c\u00a0", 3, 1.0),
        Hit("q", "\ufeffc", 3, 1.0),
    ],
)
def test_a_query_that_comes_back_goes_on_where_it_was(tmp_path: Path, last: Hit) -> None:
    assert outcome(tmp_path / "a.run", [*MINGLED, last]) == expected(tmp_path / "a.run", [*MINGLED, last])


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, int])
def test_a_large_run_has_the_slow_ones_bytes(tmp_path: Path, kind: type) -> None:
    """More than the writer's buffer holds, in scores of any type."""
    rng = np.random.default_rng(0)
    hits = []
    for query in range(40):
        scores = np.sort(rng.choice(20_000, 100, replace=False))[::-1] / (1 if kind is int else 7)
        order = rng.permutation(500)[:100]
        hits += [Hit(f"q{query}", f"p{n}", r, kind(s)) for r, (n, s) in enumerate(zip(order, scores, strict=True), 1)]
    path = tmp_path / "a.run.gz"
    assert outcome(path, hits) == expected(path, hits)
    assert len(slow_lines(path, hits, "tag")) > 2**16
