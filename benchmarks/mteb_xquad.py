"""MTEB's own XQuADRetrieval task over XQuAD's files on disk, beside our own measures of the same hits, offline.

    python benchmarks/mteb_xquad.py CHECKPOINT FOLDER_OF_xquad.LANG.json de,th

Prints nDCG@10 of both, which must agree; the results file in MTEB's format goes to outputs/mteb. The files hold the
paragraphs and questions that they hold: with a part of XQuAD the figures are not MTEB's leaderboard's.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import mteb
from mteb.cache import ResultCache
from mteb.tasks.retrieval.multilingual.x_qu_ad_retrieval import XQuADRetrieval

from colbertxm.data.collection import Collection
from colbertxm.evaluation.metrics import evaluate
from colbertxm.mteb_search import MTEBSearch
from colbertxm.records import Judgement, Text
from colbertxm.retriever import Retriever
from colbertxm.stages import open_model


def read(file: Path, lang: str) -> Collection:
    """Questions over paragraphs."""
    paragraphs = [p for article in json.loads(file.read_text("utf-8"))["data"] for p in article["paragraphs"]]
    passages = tuple(Text(f"p{n}", p["context"].strip(), lang) for n, p in enumerate(paragraphs))
    asked = [(q["id"], q["question"], f"p{n}") for n, p in enumerate(paragraphs) for q in p["qas"]]
    queries = tuple(Text(i, text, lang) for i, text, _ in asked)
    return Collection("xquad", lang, lang, queries, passages, tuple(Judgement(i, p, 1) for i, _, p in asked))


def main(checkpoint: str, folder: str, langs: list[str]) -> None:
    """Both figures, language by language."""
    collections = {lang: read(Path(folder) / f"xquad.{lang}.json", lang) for lang in langs}

    class Local(XQuADRetrieval):  # type: ignore[misc]
        def load_data(self, *args: Any, **more: Any) -> None:
            self.dataset = {lang: {"validation": split(c)} for lang, c in collections.items()}
            self.data_loaded = True

    retriever = Retriever(open_model(Path(checkpoint)))
    task = Local()
    task.hf_subsets = langs
    model = MTEBSearch(retriever, "colbertxm/" + Path(checkpoint).absolute().parent.name)
    result = mteb.evaluate(model, task, cache=ResultCache("outputs/mteb"), overwrite_strategy="always")
    theirs = {score["hf_subset"]: score["main_score"] for score in result[0].scores["validation"]}
    for lang, c in collections.items():
        ours = evaluate(retriever.run(c, 1000), c.judgements, ("nDCG@10",)).mean("nDCG@10")
        print(f"{lang}  {len(c.queries)} questions  MTEB's nDCG@10 {theirs[lang]:.5f}  ours {ours:.5f}")


def split(c: Collection) -> dict[str, Any]:
    """A collection as MTEB holds it."""
    return {
        "corpus": datasets.Dataset.from_list([{"id": p.id, "title": "", "text": p.text} for p in c.passages]),
        "queries": datasets.Dataset.from_list([{"id": q.id, "text": q.text} for q in c.queries]),
        "relevant_docs": {j.query_id: {j.passage_id: 1} for j in c.judgements},
        "top_ranked": None,
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3].split(","))
