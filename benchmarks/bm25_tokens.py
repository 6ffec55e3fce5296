"""What tokens that suit the language are worth to BM25: RR@10 on smart_home's development split, never its test split.

python benchmarks/bm25_tokens.py            # needs colbertxm[bm25]
"""

from __future__ import annotations

from colbertxm.data.bm25_tokens import cutter
from colbertxm.evaluation.baselines import BM25System
from colbertxm.evaluation.metrics import evaluate
from colbertxm.stages import smart_home

AT_LEAST = 70  # pairs of the development split
CONSTANTS = ((0.9, 0.4), (1.2, 0.75), (1.5, 0.75))


def main() -> None:
    """A line a language: plain, full with Pyserini's constants, and full with Lucene's and bm25s's."""
    home = smart_home()
    print("| lang | queries | plain | full | full, k1=1.2 b=.75 | full, k1=1.5 b=.75 | tokens |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for lang in home.languages("dev", AT_LEAST):
        collection = home.collection("dev", lang, lang)
        systems = [BM25System("plain"), *(BM25System("full", k1, b) for k1, b in CONSTANTS)]
        scores = (evaluate(s.run(collection), collection.judgements, ("RR@10",)).mean("RR@10") for s in systems)
        cells = " | ".join(f"{score:.3f}" for score in scores)
        print(f"| {lang} | {len(collection.queries)} | {cells} | {cutter(lang, 'full').how} |", flush=True)


if __name__ == "__main__":
    main()
