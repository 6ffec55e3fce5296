"""Qdrant: token vectors as a multivector that MaxSim compares, their mean as a first stage.

The token vectors have no HNSW graph (m = 0): a graph over sums of maxima costs as many comparisons of whole passages
as it has edges, while only some hundred candidates are ever reranked by them. Passages' ids and languages are in the
payload, for Qdrant's own ids are uuids.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from colbertxm.databases.passages import Array, Passage, point_id, pooled
from colbertxm.errors import MissingExtra, UserError

TOKENS, MEAN = "tokens", "mean"
KEY = "QDRANT_API_KEY"
T = TypeVar("T")


class Qdrant:
    """A collection, embedded in the folder `path` or at `url` (whose key is in the environment, QDRANT_API_KEY); made
    where it is not there. Raises UserError where there is no server, and for a collection of another shape."""

    def __init__(self, collection: str, dim: int, path: str | None = None, url: str | None = None) -> None:
        try:
            import qdrant_client
        except ImportError:
            raise MissingExtra("qdrant-client", "qdrant") from None
        if (path is None) == (url is None):
            raise UserError("to=qdrant needs path=FOLDER (embedded) or url=http://host:6333 (a server), one of them")
        self.models: Any = qdrant_client.models
        self.collection, self.dim, self.where = collection, dim, url or path
        given = {"path": path} if url is None else {"url": url, "api_key": os.environ.get(KEY), "timeout": 60}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys over http, of servers of another version
            self.client: Any = self._try(lambda: qdrant_client.QdrantClient(**given))
            self._try(self._make)

    def write(self, passages: Sequence[Passage]) -> None:
        points = [
            self.models.PointStruct(
                id=point_id(p.id),
                vector={TOKENS: p.vectors.tolist(), MEAN: p.mean.tolist()},
                payload={"id": p.id, "lang": p.lang, "text": p.text},
            )
            for p in passages
        ]
        self._try(lambda: self.client.upsert(self.collection, points, wait=True))

    def finish(self) -> None:
        pass

    def count(self) -> int:
        return int(self._try(lambda: self.client.count(self.collection)).count)

    def search(self, query: Array, k: int, candidates: int, lang: str | None = None) -> list[tuple[str, float]]:
        m = self.models
        only = m.Filter(must=[m.FieldCondition(key="lang", match=m.MatchValue(value=lang))]) if lang else None
        near = m.Prefetch(query=pooled(query).tolist(), using=MEAN, limit=candidates, filter=only)
        found = self._try(
            lambda: self.client.query_points(
                self.collection, prefetch=near, query=query.tolist(), using=TOKENS, limit=k, with_payload=["id"]
            )
        )
        return [(point.payload["id"], float(point.score)) for point in found.points]

    def close(self) -> None:
        """Give an embedded folder back."""
        self.client.close()

    def _make(self) -> None:
        m = self.models
        if self.client.collection_exists(self.collection):
            vectors = self.client.get_collection(self.collection).config.params.vectors
            shape = {name: vectors[name].size for name in vectors} if isinstance(vectors, dict) else None
            if shape != {TOKENS: self.dim, MEAN: self.dim}:
                raise UserError(
                    f"the collection {self.collection!r} at {self.where} has other vectors than {self.dim} dimensions "
                    f"as {TOKENS!r} and {MEAN!r}: name another with collection=..."
                )
            return
        tokens = m.VectorParams(
            size=self.dim,
            distance=m.Distance.DOT,
            multivector_config=m.MultiVectorConfig(comparator=m.MultiVectorComparator.MAX_SIM),
            hnsw_config=m.HnswConfigDiff(m=0),
            datatype=m.Datatype.FLOAT16,
            on_disk=True,
        )
        mean = m.VectorParams(size=self.dim, distance=m.Distance.DOT)
        self.client.create_collection(self.collection, vectors_config={TOKENS: tokens, MEAN: mean})
        self.client.create_payload_index(self.collection, "lang", m.PayloadSchemaType.KEYWORD)

    def _try(self, call: Callable[[], T]) -> T:
        """`call`, with what the server or the folder refuses as one line."""
        from qdrant_client.http.exceptions import ApiException

        try:
            return call()
        except (ApiException, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"qdrant at {self.where} refuses: {reason}; see to it, then export again") from None
