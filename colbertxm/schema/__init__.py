"""The typed shape of every verb's configuration.

Hydra checks each key and type against these classes while it composes, so a misspelt key or `trainer.steps=many`
fails before anything is loaded. Values live in conf/; here stand types alone, so that no default has two homes.
`lang_proxy` is a mapping of languages, which `languages.proxies` checks: Hydra refuses new keys in a typed one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore

from colbertxm.schema.measuring import (
    DiagnoseDistributions,
    DiagnoseMatch,
    DiagnoseRecall,
    DiagnoseRuns,
    Evaluate,
    Report,
)
from colbertxm.schema.searching import Index, Search, Serve
from colbertxm.schema.sharing import Export, Push
from colbertxm.schema.training import Demo, Experiment, Graft, Pretrain, Train

SCHEMAS: dict[str, Any] = {
    "train": Train,
    "pretrain": Pretrain,
    "graft": Graft,
    "experiment": Experiment,
    "index": Index,
    "search": Search,
    "evaluate": Evaluate,
    "report": Report,
    "diagnose_runs": DiagnoseRuns,
    "diagnose_distributions": DiagnoseDistributions,
    "diagnose_recall": DiagnoseRecall,
    "diagnose_match": DiagnoseMatch,
    "push": Push,
    "export": Export,
    "serve": Serve,
    "demo": Demo,
}


@cache
def register() -> None:
    """Make the schemas known to Hydra as `<verb>_schema`; calling it twice does no harm."""
    for verb, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{verb}_schema", node=schema)
