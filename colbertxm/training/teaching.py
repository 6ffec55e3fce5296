"""The base as a teacher: its own full-width MaxSim beside every triple, for data that bring no teacher's scores."""

from __future__ import annotations

from dataclasses import replace

from colbertxm.model.encoder import Vectors
from colbertxm.records import Triple
from colbertxm.training.projection import Material, mean_maxsim


def taught(material: Material) -> list[Triple]:
    """The triples with the mean cosine of their query and each of their passages, by the base's unprojected vectors."""
    made = []
    for i, triple in enumerate(material.triples):
        rows = [material.rows[passage.id] for passage in (triple.positive, *triple.negatives)]
        own = Vectors.of([material.passages[row] for row in rows], material.passages.values.shape[1])
        query = Vectors.of([material.queries[i]], own.values.shape[1])
        made.append(replace(triple, scores=tuple(mean_maxsim(query, own)[0].tolist())))
    return made
