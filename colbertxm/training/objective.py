"""What is minimised: a weighted sum of losses over the scores of a batch, as the configuration group `loss` says.

Shapes: B queries of this rank, K = 1 + N passages of each (its positive first), G queries and C = G * K passages of all
ranks that share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from colbertxm.errors import UserError
from colbertxm.model.encoder import Pooling, Vectors
from colbertxm.model.scores import dot, packed_maxsim
from colbertxm.training.batches import Batch
from colbertxm.training.gather import gather_keys, gather_passages
from colbertxm.training.losses import (
    OwnHardNegative,
    check_reading,
    in_batch_softmax,
    kl_distillation,
    margin_mse,
    n_way_softmax,
    own_passages,
)
from colbertxm.training.marks import false_negatives

WEIGHTS = ("pairwise", "in_batch", "distillation", "margin_mse")


@dataclass(frozen=True)
class LossSettings:
    """Weights of the losses (0 = left out), and the scale of the scores that they see."""

    pairwise: float = 1.0
    """Softmax of the positive among the query's own passages; n-way where trainer.negatives is above 1."""
    in_batch: float = 1.0
    """Softmax of the positive among all passages of the batch."""
    distillation: float = 0.0
    """KL divergence from a teacher's softmax over the query's own passages."""
    margin_mse: float = 0.0
    """Squared difference between the margins of student and teacher."""
    temperature: float = 1.0
    """Scores are divided by it in every softmax. The paper has none (1.0) and sums 32 cosines."""
    teacher_temperature: float = 1.0
    mean_over_query: bool = False
    """Divide MaxSim by the number of query vectors, so that scores are mean cosines."""
    own_hard_negative: OwnHardNegative = "included"
    """Whether a query's own hard negatives stand among the in-batch candidates, too: `included` as the paper writes
    it, `excluded` as its code does."""
    mask_false_negatives: bool = True
    """Leave passages out of a query's in-batch denominator that share the text of one of its positives."""

    @property
    def needs_teacher(self) -> bool:
        """Whether training triples must bring a teacher's scores."""
        return self.distillation > 0 or self.margin_mse > 0

    def __post_init__(self) -> None:
        """Raise UserError for settings that mean nothing."""
        for name in ("temperature", "teacher_temperature"):
            if getattr(self, name) <= 0:
                raise UserError(f"loss.{name}={getattr(self, name)} must be above 0")
        weights = {name: getattr(self, name) for name in WEIGHTS}
        if min(weights.values()) < 0 or not any(weights.values()):
            named = ", ".join(f"loss.{name}={weight:g}" for name, weight in weights.items())
            raise UserError(f"{named}: weights are 0 or more, and one at least above 0")
        check_reading(self.own_hard_negative)


class Objective:
    """The losses of a batch. `gather` shares passages among ranks, where there are several."""

    def __init__(self, settings: LossSettings, pooling: Pooling, gather: bool = True) -> None:
        self.settings, self.pooling, self.gather = settings, pooling, gather

    def scores(self, queries: Vectors, passages: Vectors) -> Tensor:
        """Of all queries and all passages."""
        if self.pooling == "single":
            return dot(queries.values, passages.values)
        mean = self.settings.mean_over_query
        return packed_maxsim(queries.values, queries.offsets, passages.values, passages.offsets, mean)

    def own_scores(self, queries: Vectors, passages: Vectors) -> Tensor:
        """Of each query and its own passages alone, [B, K]: the B * C others are not computed."""
        B = len(queries)
        starts, lengths = passages.offsets[:-1], passages.offsets.diff()
        rows = []
        for b in range(B):
            wanted = range(b, len(passages), B)
            values = torch.cat([passages[c] for c in wanted])
            offsets = torch.cat([starts.new_zeros(1), lengths[b::B].cumsum(0)])
            rows.append(self.scores(_one(queries, b), Vectors(values, offsets)))
        return torch.cat(rows)

    def losses(self, queries: Vectors, passages: Vectors, batch: Batch) -> dict[str, Tensor]:
        """Every loss of weight above 0, and `loss`, their weighted sum. Raises UserError where a teacher's scores are
        asked for and not there."""
        s, device = self.settings, queries.values.device
        found: dict[str, Tensor] = {}
        if s.in_batch:
            shared = gather_passages(passages, len(queries)) if self.gather else None
            first, G = (shared.first, shared.queries) if shared else (0, len(queries))
            scores_BC = self.scores(queries, shared.passages if shared else passages)
            own_BK = own_passages(scores_BC, G, first)
            ignore_BC = self._ignore(batch, first, len(queries), device) if s.mask_false_negatives else None
            found["in_batch"] = in_batch_softmax(
                scores_BC, ignore_BC, s.own_hard_negative, s.temperature, G, first
            )  # fmt: skip
        else:
            own_BK = self.own_scores(queries, passages)
        if s.pairwise:
            found["pairwise"] = n_way_softmax(own_BK, s.temperature)
        if s.needs_teacher:
            if batch.teacher_BK is None:
                raise UserError("loss.distillation and loss.margin_mse need a teacher's scores, which these data lack")
            teacher_BK = batch.teacher_BK.to(device, non_blocking=True)
            if s.distillation:
                found["distillation"] = kl_distillation(own_BK, teacher_BK, s.temperature, s.teacher_temperature)
            if s.margin_mse:
                found["margin_mse"] = margin_mse(own_BK, teacher_BK)
        parts = [getattr(s, name) * value for name, value in found.items()]
        return {**found, "loss": torch.stack(parts).sum()}

    def _ignore(self, batch: Batch, first: int, rows: int, device: torch.device) -> Tensor:
        keys = (batch.query_keys.to(device), batch.passage_keys.to(device))
        return false_negatives(*(gather_keys(*keys) if self.gather else keys), first, rows)


def _one(vectors: Vectors, i: int) -> Vectors:
    own = vectors[i]
    return Vectors(own, torch.tensor([0, len(own)]))
