"""A miniature of a row: its files under their real names and in their real shapes, with a few lines of invented words.

It shows that every command of a row runs from the first to the last, and nothing else: the words mean nothing, the base
is `small`, and training takes two steps. What is appended to the commands stands in `extra`, so that all that a row
says itself is used as it stands.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from colbertxm.data.formats.folders import MMARCO
from colbertxm.data.formats.scores import Scores
from colbertxm.errors import UserError
from colbertxm.evaluation.collections.registry import TYDI
from colbertxm.evaluation.reproduction import Row

PASSAGES, QUERIES = 32, 8
FIRST_QUERY = 100
TRAIN = (
    "model=small model.projection=random trainer.steps=2 trainer.batch_size=4 trainer.workers=0 trainer.log_every=1 "
    "trainer.accelerator=cpu trainer.precision=bf16-mixed data.examples=40 logger.mode=disabled energy.mode=off"
)


def extra(row: Row) -> dict[str, list[str]]:
    """What is appended to the commands of each verb."""
    width = ["model.dim=16"] if row.vectors == "multi" else []
    return {"train": [*TRAIN.split(), *width], "evaluate": ["logger.mode=disabled"], "index": ["energy.mode=off"]}


def write(row: Row, data: Path) -> None:
    """The files that the row's commands read, in `data`. The same bytes every time."""
    if "train" in row.commands:
        _training(data)
    if row.collection == "mmarco":
        _mmarco(data / "mmarco", row.languages, row.split)
    elif row.collection == "mrtydi":
        _mrtydi(data / "mrtydi", row.languages, row.split)
    else:
        raise UserError(f"{row.name}: nobody has written a miniature of {row.collection}")


def passages(lang: str) -> list[str]:
    """Invented words, a language's own."""
    rng = random.Random(f"words of {lang}")
    words = ["".join(rng.choice(pair) for pair in [("bdfg", "aeio")[i % 2] for i in range(6)]) for _ in range(48)]
    return [" ".join(rng.sample(words, 9)) for _ in range(PASSAGES)]


def queries(lang: str) -> list[str]:
    """Three words of passage 0, 1, 2, ... for query 0, 1, 2, ..."""
    return [" ".join(text.split()[2:5]) for text in passages(lang)[:QUERIES]]


def _training(data: Path) -> None:
    """MS MARCO's English files and the negatives of the paper's recipe, scored clearly below the positives."""
    google = data / "mmarco" / "google"
    _tsv(google / "collections" / "english_collection.tsv", 0, passages("en"))
    _tsv(google / "queries" / "train" / "english_queries.train.tsv", FIRST_QUERY, queries("en"))
    lines = [
        {"qid": FIRST_QUERY + i, "pos": [i], "neg": {"bm25": [i + 8, i + 9], "dense": [i + 16]}} for i in range(QUERIES)
    ]
    packed = gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode(), mtime=0)
    (data / "msmarco-hard-negatives.jsonl.gz").write_bytes(packed)
    # Beside the pickle's place as it is kept once it has been read; a pickle is not written here.
    candidates = np.concatenate([[i, i + 8, i + 9, i + 16] for i in range(QUERIES)]).astype(np.int32)
    Scores(
        np.arange(FIRST_QUERY, FIRST_QUERY + QUERIES),
        np.arange(0, 4 * QUERIES + 1, 4),
        candidates,
        np.tile(np.array([9.0, 1.0, 2.0, 0.5], np.float32), QUERIES),
    ).save(data / "cross-encoder-ms-marco-MiniLM-L-6-v2-scores.npz")


def _mmarco(folder: Path, langs: Sequence[str], split: str) -> None:
    """Collections and queries of each language under the same ids, and one qrels file."""
    for lang in langs:
        _tsv(folder / "google" / "collections" / f"{MMARCO[lang]}_collection.tsv", 0, passages(lang))
        name = f"{MMARCO[lang]}_queries.{split}.tsv"
        _tsv(folder / "google" / "queries" / "dev" / name, FIRST_QUERY, queries(lang))
    marks = "".join(f"{FIRST_QUERY + i}\t0\t{i}\t1\n" for i in range(QUERIES))
    (folder / f"qrels.{split}.tsv").write_text(marks, encoding="utf-8")


def _mrtydi(folder: Path, langs: Sequence[str], split: str) -> None:
    """Topics, qrels and corpus of each language, its ids `article#passage`."""
    for lang in langs:
        lines = [{"docid": f"{i}#0", "title": f"title {i}", "text": text} for i, text in enumerate(passages(lang))]
        corpus = folder / f"mrtydi-v1.1-{TYDI[lang]}" / "corpus.jsonl"
        for path in (corpus, folder / "topics" / "x", folder / "qrels" / "x"):
            path.parent.mkdir(parents=True, exist_ok=True)
        corpus.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        topics = folder / "topics" / f"topics.mrtydi-v1.1-{lang}.{split}.txt"
        _tsv(topics, FIRST_QUERY, queries(lang))
        marks = "".join(f"{FIRST_QUERY + i} Q0 {i}#0 1\n" for i in range(QUERIES))
        (folder / "qrels" / f"qrels.mrtydi-v1.1-{lang}.{split}.txt").write_text(marks, encoding="utf-8")


def _tsv(path: Path, first: int, texts: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{first + i}\t{text}\n" for i, text in enumerate(texts)), encoding="utf-8", newline="\n")
