"""One vector a text, whoever made it, searched exhaustively: mean pooling and sentence-transformers are two of these.

Shapes: Q queries, N passages, E dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from colbertxm.data.collection import Collection
from colbertxm.errors import UserError
from colbertxm.evaluation.runs import rank_hits
from colbertxm.records import Hit, Text

Kind = Literal["query", "passage"]
Encode = Callable[[Sequence[Text], Kind], Tensor]
"""Texts to their vectors, [N, E]."""
Similarity = Callable[[Tensor, Tensor], Tensor]
"""Queries [Q, E] and passages [N, E] to scores [Q, N], the higher the better."""
QUERIES = 256  # scored at a time


class Dense:
    """A system of one vector a text. Each distinct text is encoded once, whatever collections it comes in.

    `description` stands in every row. `similarity` None is the cosine.
    """

    def __init__(self, encode: Encode, description: str, similarity: Similarity | None = None) -> None:
        self.encode = encode
        self.description = description
        self.similarity = similarity
        self._known: dict[tuple[Kind, str, str], Tensor] = {}

    def vectors(self, texts: Sequence[Text], kind: Kind) -> Tensor:
        """[N, E] float32 on the CPU, of length one where scores are cosines. Raises UserError for vectors that are not
        finite or not one a text."""
        keys = [(kind, text.lang, text.text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        if missing:
            fresh = self.encode(list(missing.values()), kind).float().cpu()
            if fresh.ndim != 2 or len(fresh) != len(missing):
                raise UserError(f"{self.description}: {len(missing)} texts gave vectors of shape {list(fresh.shape)}")
            if not torch.isfinite(fresh).all():
                raise UserError(f"{self.description}: a vector is not finite; the model's weights are damaged")
            fresh = F.normalize(fresh, dim=-1) if self.similarity is None else fresh
            self._known.update(zip(missing, fresh, strict=True))
        return torch.stack([self._known[key] for key in keys])

    def run(self, collection: Collection, k: int = 100) -> list[Hit]:
        """The best `k` passages of each query; equal scores stand in passage order."""
        if not collection.passages or not collection.queries:
            return []
        passages_NE = self.vectors(collection.passages, "passage")
        queries_QE = self.vectors(collection.queries, "query")
        ids = [passage.id for passage in collection.passages]
        hits: list[Hit] = []
        for start in range(0, len(queries_QE), QUERIES):
            block = queries_QE[start : start + QUERIES]
            scores_QN = block @ passages_NE.T if self.similarity is None else self.similarity(block, passages_NE)
            for query, row in zip(collection.queries[start:], scores_QN.cpu().numpy(), strict=False):
                best = top(row, k)
                hits += rank_hits(query.id, [ids[i] for i in best.tolist()], row[best])
        return hits

    def how(self, collection: Collection) -> str:
        """The same for every collection."""
        return self.description


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the best `k` of scores [N], best first; of equal ones the earlier stands first."""
    places = np.arange(len(scores))
    if k < len(scores):
        places = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    return places[np.argsort(-scores[places], kind="stable")[:k]]
