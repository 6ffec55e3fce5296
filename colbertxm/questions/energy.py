"""What training, indexing and searching use: kWh with their method, seconds, and the paper's formula beside them.

Indexing and searching run without anything that other jobs have computed: texts are tokenised and encoded anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from colbertxm import stages
from colbertxm.energy.account import paper_formula
from colbertxm.entry import plain
from colbertxm.evaluation.collections.command import load_asked
from colbertxm.evaluation.experiment_rows import ALL
from colbertxm.questions.measured import Measured
from colbertxm.questions.workshop import Cost, Ready

HITS = 10


def measure(cfg: DictConfig, ready: Ready, folder: Path) -> list[Measured]:
    """Measure the three stages; training's figures come with the model, through all its resumptions."""
    loaded = load_asked(plain(cfg.evaluation))
    passages = list({p.id: p for c in loaded.collections for p in c.passages}.values())[: cfg.index.passages]
    queries = list({q.id: q for c in loaded.collections for q in c.queries}.values())
    retriever = ready.fresh
    retriever.encoder.check_languages(sorted({text.lang for text in (*passages, *queries)}))
    index = folder / "index"

    def build() -> None:
        retriever.write(index, passages, {"corpus": str(cfg.evaluation.collection)}, bits=cfg.index.bits)

    def search() -> None:
        for query in queries:  # one by one, as they come
            retriever.search([query], HITS)

    built = metered(cfg, ready, build)
    retriever.open(index)
    retriever.search(queries[:1], HITS)  # what is compiled once is not a query's cost
    found = [] if ready.folder is None else figures("training", with_tdp(cfg, ready.cost), 1.0)
    found += figures("indexing_a_million", built, 1e6 / len(passages))
    return found + figures("a_thousand_queries", metered(cfg, ready, search), 1e3 / len(queries))


def metered(cfg: DictConfig, ready: Ready, work: Callable[[], None]) -> Cost:
    """What `work` took."""
    with stages.meter(cfg, ready.fresh.encoder) as meter:
        work()
    energy = meter.stop()
    return Cost(energy.seconds, energy.kwh, energy.method, energy.tdp_watts, energy.paper_kwh)


def with_tdp(cfg: DictConfig, cost: Cost) -> Cost:
    """A training that did not know the TDP, by the one that is given now."""
    tdp = cfg.energy.tdp_watts
    if cost.paper_kwh is not None or tdp is None or cost.seconds is None:
        return cost
    return Cost(cost.seconds, cost.kwh, cost.method, tdp, paper_formula(tdp, cost.seconds)[0])


def figures(stage: str, cost: Cost, times: float) -> list[Measured]:
    """Measured kWh, seconds and the paper's kWh and kgCO2eq, for `times` the work; None is not known."""

    def scaled(value: float | None) -> float | None:
        return None if value is None else value * times

    paper = None if cost.tdp_watts is None or cost.seconds is None else paper_formula(cost.tdp_watts, cost.seconds)
    return [
        Measured(ALL, f"{stage}_kwh", scaled(cost.kwh), cost=cost),
        Measured(ALL, f"{stage}_seconds", scaled(cost.seconds), cost=cost),
        Measured(ALL, f"{stage}_paper_kwh", scaled(paper and paper[0]), cost=cost),
        Measured(ALL, f"{stage}_paper_kg", scaled(paper and paper[1]), cost=cost),
    ]
