"""One figure of a job, before it has the job's settings around it."""

from __future__ import annotations

from dataclasses import dataclass, field

from colbertxm.questions.workshop import Cost


@dataclass(frozen=True)
class Measured:
    """`pair` as in results.csv; `condition` is what differs within a job, such as a search's budget."""

    pair: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    cost: Cost = field(default_factory=Cost)
    condition: str = ""
