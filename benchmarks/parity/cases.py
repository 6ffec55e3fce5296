"""What is compared with whom: cases that must agree to 1e-5, and cases that are known to differ, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.parity.miniature import PASSAGE_MAXLEN, QUERY_MAXLEN
from colbertxm.model.encoder import Pooling
from colbertxm.model.tokens import TokenSettings

AI = TokenSettings(
    query_maxlen=QUERY_MAXLEN,
    passage_maxlen=PASSAGE_MAXLEN,
    expand_queries_to=QUERY_MAXLEN,
    skip="colbert_ai",
    markers="colbert_ai",
)
TRAIN = replace(AI, markers="colbert_xm_train")
ADDED = replace(AI, markers="added", skip="pylate")
PROMPTS = replace(AI, markers="none", query_prefix="lamp: ", passage_prefix="off: ", skip="punctuation")
SINGLE = replace(PROMPTS, expand_queries_to=0, query_maxlen=PASSAGE_MAXLEN, skip="none")


@dataclass(frozen=True)
class Case:
    """The miniature with `settings`, written as `layout`, read by us and by `peer`."""

    name: str
    layout: str
    settings: TokenSettings
    peer: str
    pooling: Pooling = "multi"
    adapter: str | None = None
    """One adapter for all languages on the peer's side."""
    why: str = ""
    """Why the two differ; empty where they must agree."""


AGREE = (
    Case("train_markers", "stanford", TRAIN, "colbert-ai 0.2.19"),
    Case("unk_markers", "stanford", AI, "colbert-ai 0.2.22"),
    Case("added_markers", "pylate", ADDED, "PyLate 1.6.0"),
    Case("unk_in_pylate", "pylate", AI, "PyLate 1.6.0"),
    Case("added_in_mve", "multi_vector", replace(ADDED, skip="sentence_transformers"), "sentence-transformers 6.2"),
    Case("unk_in_mve", "multi_vector", AI, "sentence-transformers 6.2"),
    Case("prompts_in_mve", "multi_vector", replace(PROMPTS, expand_queries_to=10), "sentence-transformers 6.2"),
    Case("single", "sentence_transformers", SINGLE, "sentence-transformers 6.2", "single"),
)
DIFFER = (
    Case("train_today", "stanford", TRAIN, "colbert-ai 0.2.22", why="no '. ' before the text since August 2024"),
    Case("unk_before", "stanford", AI, "colbert-ai 0.2.19", why="'. ' before the text until August 2024"),
    Case("stanford_by_pylate", "stanford", AI, "PyLate 1.6.0", why="adds markers with random rows; skip list by word"),
    Case(
        "stanford_by_mve", "stanford", AI, "sentence-transformers 6.2",
        why="reads '[unused0] ' as text; skip list by word",
    ),
    Case(
        "english_adapter", "stanford", AI, "colbert-ai 0.2.22", adapter="en_XX",
        why="one default language for all texts",
    ),
)  # fmt: skip
