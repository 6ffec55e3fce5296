"""A start for the projection: make 128 dimensions score as the base scores at full width.

A projection cut from the base's leading directions (PCA) keeps vectors, not rankings, and starts below the unprojected
base. So before the encoder is trained, the projection alone learns the base's own MaxSim distributions over a batch (KL
divergence, as in distillation from a teacher). Its inputs are frozen vectors that are computed anyway, so this takes
seconds; `model.projection=pca` leaves it out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from colbertxm.errors import UserError, nearest
from colbertxm.model.checkpoints import pca_projection
from colbertxm.model.encoder import Encoder, Vectors
from colbertxm.model.scores import packed_maxsim
from colbertxm.records import Triple

STARTS = ("random", "pca", "distilled")
STEPS, BATCH, LEARNING_RATE, TEMPERATURE = 200, 48, 1e-3, 0.02


@dataclass(frozen=True)
class Material:
    """Triples, and the base's unprojected vectors: of query i in `queries[i]`, of a passage in
    `passages[rows[passage id]]`."""

    triples: list[Triple]
    queries: Vectors
    passages: Vectors
    rows: dict[str, int]


def check_start(start: str) -> None:
    """Raise UserError for a start that there is not, with the nearest one. To be asked before the vectors are made."""
    if start not in STARTS:
        known = ", ".join(STARTS)
        raise UserError(f"model.projection={start!r} is unknown{nearest(start, STARTS)}: choose from {known}")


def start_projection(encoder: Encoder, material: Material, start: str, seed: int) -> None:
    """Set the projection: `random` leaves it as it is, `pca` takes the leading directions, `distilled` goes on
    from there. Nothing to do for an encoder without one. Raises UserError for another name."""
    check_start(start)
    if encoder.linear is None or start == "random":
        return
    pca_projection(encoder, torch.cat([material.queries.values, material.passages.values]))
    if start == "distilled" and encoder.pooling == "multi":
        distil_projection(encoder, material, seed)


def distil_projection(encoder: Encoder, material: Material, seed: int, steps: int = STEPS) -> list[float]:
    """Train the projection alone to the base's distribution over each batch's positives and one hard negative each;
    the learning rate falls linearly to zero. Returns the loss of every step, the KL divergence of the two."""
    if encoder.linear is None:
        raise UserError("model.dim=0 has no projection to train")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(encoder.linear.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    losses = []
    for _ in range(steps):
        queries, passages = _batch(material, generator)
        with torch.no_grad():
            teacher = mean_maxsim(queries, passages) / TEMPERATURE
        student = mean_maxsim(project(encoder.linear, queries), project(encoder.linear, passages)) / TEMPERATURE
        loss = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def project(linear: torch.nn.Linear, vectors: Vectors) -> Vectors:
    """Project and normalise."""
    return Vectors(F.normalize(linear(vectors.values), dim=-1), vectors.offsets)


def mean_maxsim(queries: Vectors, passages: Vectors) -> Tensor:
    """MaxSim divided by the number of query vectors, all pairs [B, C]."""
    return packed_maxsim(queries.values, queries.offsets, passages.values, passages.offsets, mean=True)


def _batch(material: Material, generator: torch.Generator) -> tuple[Vectors, Vectors]:
    chosen = torch.randperm(len(material.triples), generator=generator)[:BATCH].tolist()
    triples = [material.triples[i] for i in chosen]
    picks = torch.rand(len(triples), generator=generator).tolist()
    negatives = [t.negatives[int(pick * len(t.negatives))] for t, pick in zip(triples, picks, strict=True)]
    rows = [material.rows[p.id] for p in [*(t.positive for t in triples), *negatives]]
    return _take(material.queries, chosen), _take(material.passages, rows)


def _take(vectors: Vectors, rows: list[int]) -> Vectors:
    return Vectors.of([vectors[i] for i in rows], vectors.values.shape[1])
