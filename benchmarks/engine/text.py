"""Vectors of real text for `--vectors`: `python -m benchmarks.engine.text FOLDER` (minutes).

    python -m benchmarks.engine.text FOLDER                                    # smart_home: descriptions and titles
    python -m benchmarks.engine.text FOLDER --texts en=pairs.jsonl.gz de=xquad.de.json
    python -m benchmarks.engine.run --vectors FOLDER --peers ""

Passages and queries are people's, each in its own language; a query is the title or question that one of the passages
answers. A file has lines of JSON with `query` and `positive` (plain or gzip), or is one in SQuAD's format; which texts
are taken, a hash of them decides. The model is one that multi-vector training made (`make demo` leaves one in
outputs/demo/trained/model). `--model base` is multilingual-e5-small untrained: it has no projection to 128 dimensions,
so it gets the leading directions of its own states of these passages (PCA). Queries keep their own lengths: this model
never learnt its <mask>, so there is no expansion to 32.

    vectors-000.npy [T, 128] float32, lengths-000.npy [N], tokens-000.npy [T] ids of pieces
    queries.npy [sum of lengths, 128] float32, query-lengths.npy [queries]
    texts.json      what was read, and by which model
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engine.vectors import save
from colbertxm.data.smart_home import open_smart_home
from colbertxm.errors import UserError
from colbertxm.evaluation.results import replacing
from colbertxm.languages import language
from colbertxm.model.checkpoints import build_encoder, load_model, pca_projection
from colbertxm.model.encoder import Encoder
from colbertxm.model.tokens import TokenSettings
from colbertxm.progress import progress
from colbertxm.records import Text
from colbertxm.sources import HOMEASSISTANT, fetch

Pair = tuple[str, str, str]
"""Language, query, passage."""
MODEL = "outputs/demo/trained/model"
BASE = "base"
MANIFEST = "texts.json"
SAMPLE = 1000  # passages whose states say which directions lead
BASE_TOKENS = TokenSettings("query: ", "passage: ", skip="punctuation", skip_prefix=True)  # as conf/model/small.yaml


def smart_home_pairs() -> Iterator[Pair]:
    """Titles and descriptions of the test and training components, in the languages that the demo's model reads."""
    home = open_smart_home(fetch(HOMEASSISTANT))
    for split in ("test", "train"):
        for lang in home.languages("test"):
            for query, passage in home.training_pairs(split, lang):
                yield lang, query.text, passage.text


def file_pairs(path: Path, lang: str) -> Iterator[Pair]:
    """The pairs of a file. Raises UserError for one of another format."""
    code = language(lang).code
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if path.suffix == ".json":
            for article in json.loads(raw)["data"]:
                for paragraph in article["paragraphs"]:
                    for asked in paragraph["qas"]:
                        yield code, asked["question"], paragraph["context"]
            return
        for line in raw.decode("utf-8").split("\n"):
            if line.strip():
                found = json.loads(line)
                yield code, found["query"], found["positive"]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: {error!r}; give lines of JSON with `query` and `positive`, or a file in SQuAD's format"
        ) from error


def drawn(pairs: Iterator[Pair], documents: int, count: int) -> tuple[list[Text], list[Text]]:
    """`documents` distinct passages and `count` queries that they answer, of as many passages. Raises UserError where
    there are fewer."""
    queries: dict[tuple[str, str], str] = {}
    for lang, query, passage in pairs:
        if query.strip() and passage.strip():
            queries.setdefault((lang, " ".join(passage.split())), " ".join(query.split()))
    order = sorted(queries, key=lambda key: hashlib.sha256("\0".join(key).encode()).digest())[:documents]
    if len(order) < max(documents, count):
        raise UserError(f"there are {len(order)} distinct passages, not {documents}: ask for fewer or give more files")
    passages = [Text(f"p{i}", text, lang) for i, (lang, text) in enumerate(order)]
    return passages, [Text(f"q{i}", queries[key], key[0]) for i, key in enumerate(order[:count])]


def opened(model: str, passages: Sequence[Text]) -> Encoder:
    """The encoder; it reads the passages' languages."""
    codes = sorted({passage.lang for passage in passages})
    if model != BASE:
        if not Path(model).is_dir():
            raise UserError(f"--model {model} is no folder: make one with `make demo`, or give --model {BASE}")
        encoder = load_model(Path(model))
    else:
        encoder = build_encoder("small", codes, BASE_TOKENS, "multi", 0)
        states = encoder.eval().encode(passages[:SAMPLE], "passage").values
        encoder.linear = torch.nn.Linear(states.shape[1], 128, bias=False)
        with torch.no_grad():
            pca_projection(encoder, states)
    encoder.check_languages(codes)
    return encoder.eval()


def make(folder: Path, passages: Sequence[Text], queries: Sequence[Text], model: str) -> dict[str, Any]:
    """Encode and write; returns what was read. The vectors' own file comes last."""
    encoder = opened(model, passages)
    told = progress(len(passages), "passages encoded")
    found, asked = encoder.encode(passages, "passage", progress=told), encoder.encode(queries, "query")
    kept = [np.array(text.ids)[np.array(text.keep)] for text in encoder.tokenise(passages, "passage")]
    lengths = found.offsets.diff().numpy().astype(np.int32)
    about = {
        "model": model,
        "dimensions": encoder.dim,
        "passages": len(passages),
        "vectors": len(found.values),
        "vectors_a_passage": float(lengths.mean()),
        "vectors_a_query": float(asked.offsets.diff().float().mean()),
        "languages": sorted({passage.lang for passage in passages}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "queries.npy", asked.values.numpy())
    save(folder / "query-lengths.npy", asked.offsets.diff().numpy())
    save(folder / "lengths-000.npy", lengths)
    save(folder / "tokens-000.npy", np.concatenate(kept).astype(np.uint32))
    save(folder / "vectors-000.npy", found.values.numpy())
    with replacing(folder / MANIFEST) as part:
        part.write_text(json.dumps(about, indent=1), encoding="utf-8")
    return about


def given_pairs(texts: Sequence[str]) -> Iterator[Pair]:
    """Of files LANGUAGE=FILE, or of smart_home where there are none."""
    if not texts:
        yield from smart_home_pairs()
    for text in texts:
        lang, equals, name = text.partition("=")
        if not equals:
            raise UserError(f"--texts {text}: write LANGUAGE=FILE, such as en={text}")
        yield from file_pairs(Path(name), lang)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--texts", nargs="*", default=[], metavar="LANGUAGE=FILE", help="(smart_home)")
    parser.add_argument("--model", default=MODEL, help=f"folder of a multi-vector model, or {BASE} ({MODEL})")
    given = parser.parse_args(arguments)
    if any(given.folder.glob("vectors-*.npy")) or (given.folder / "emb.npy").exists():
        raise UserError(f"{given.folder} holds vectors already: name another folder or remove it")
    about = make(given.folder, *drawn(given_pairs(given.texts), given.documents, given.queries), given.model)
    print(json.dumps(about))
    return about


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
