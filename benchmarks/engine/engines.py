"""The engines: how each is had, what its index is built with, and the settings that it searches with."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.parity.environments import Peer, ready

PEERS = Path(__file__).parent / "peers"
# Both are compiled against this very torch: with another they crash or don't load. Its Linux wheel brings CUDA, 5 GB.
TORCH_OF_PEERS = "torch==2.11.0"
Setting = Mapping[str, Any]
DEFAULTS: Setting = {"name": "defaults"}


@dataclass(frozen=True)
class Engine:
    """One way to build an index, and the settings, narrow to wide, to search it with. Without `peer` it is ours and
    runs as the module `script`."""

    name: str
    script: str
    settings: tuple[Setting, ...] = (DEFAULTS,)
    build: Mapping[str, Any] = field(default_factory=dict)
    peer: Peer | None = None

    def command(self) -> tuple[list[str], dict[str, str]]:
        """How its script is started, and what its environment needs. Raises UserError where it cannot be had."""
        if self.peer is None:
            return [sys.executable, "-m", self.script], {}
        python, first = ready(self.peer, "engine")
        return [str(python), str(PEERS / self.script)], {"PYTHONPATH": str(first) if first else ""}


FAST_PLAID = Peer("torch-2.11", "", (("fast-plaid==1.7.0.2110",),), torch=TORCH_OF_PEERS)
XTR_WARP = Peer("torch-2.11", "", (("xtr-warp-rs==2.1.0.2110",),), torch=TORCH_OF_PEERS)
# Its wheel names a newer C library than it uses.
TACHIOM = Peer("tachiom", "", (("numpy",),), legacy="tachiom==0.4.0", torch="", platform="manylinux_2_39_x86_64")
LANCEDB = Peer("lancedb", "", (("lancedb==0.40.0", "numpy"),), torch="")

ENGINES = {
    "fast-plaid": Engine(
        "fast-plaid 1.7.0, 4 bits",
        "fast_plaid_peer.py",
        (
            {"name": "n_full_scores 1024", "n_full_scores": 1024},
            DEFAULTS,
            {"name": "n_ivf_probe 32", "n_ivf_probe": 32},
        ),
        peer=FAST_PLAID,
    ),
    "tachiom": Engine(
        "tachiom 0.4.0",
        "tachiom_peer.py",
        (
            DEFAULTS,
            {"name": "60 centroids, 2,000 documents", "k_centroids": 60, "ef_search": 100, "k_docs_to_score": 2000},
            {"name": "200 centroids, 4,000 documents, no pruning", "k_centroids": 200, "ef_search": 300,
             "k_docs_to_score": 4000, "alpha": None},
        ),
        peer=TACHIOM,
    ),
    "xtr-warp-rs": Engine(
        "xtr-warp-rs 2.1.0, 4 bits",
        "xtr_warp_peer.py",
        (
            DEFAULTS,
            {"name": "nprobe 64", "nprobe": 64, "bound": 512},
            {"name": "nprobe 256", "nprobe": 256, "bound": 2048, "max_candidates": 100_000},
        ),
        peer=XTR_WARP,
    ),
    "lancedb": Engine(
        "LanceDB 0.40, IVF_PQ",
        "lancedb_peer.py",
        (
            DEFAULTS,
            {"name": "refine 4", "refine_factor": 4},
            {"name": "nprobes 20, refine 10", "nprobes": 20, "refine_factor": 10},
        ),
        peer=LANCEDB,
    ),
}  # fmt: skip
