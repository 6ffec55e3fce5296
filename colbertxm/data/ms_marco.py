"""MS MARCO, mMARCO and whatever has their files: built once into stores and rows on disk, then streamed.

    colbertxm train data=msmarco data.collection=collection.tsv data.queries=queries.train.tsv data.triples=triples.tsv

`folder` keeps what was built: texts/ (passages by memory map, one file a language), queries/, and triples/. Building
happens once, under a lock, before any rank trains; a killed build starts again, a finished one opens in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from colbertxm.data.collection import Collection
from colbertxm.data.examples import OnDisk
from colbertxm.data.formats.candidates import read_hard_negatives, read_nway
from colbertxm.data.formats.qrels import read_qrels
from colbertxm.data.formats.scores import Scores, load_scores, read_scores_pickle
from colbertxm.data.formats.tsv import read_queries
from colbertxm.data.keyed import Permutation
from colbertxm.data.negatives_paper import MARGIN, paper_rounds, paper_samples
from colbertxm.data.negatives_pools import numbered, pool_systems
from colbertxm.data.sampling import LanguageMix
from colbertxm.data.store import Store
from colbertxm.data.store_build import build_store, build_store_from_tsv
from colbertxm.data.training import TrainingData
from colbertxm.data.triples import Rows, Triples, to_rows, triples_from_tsv, write_triples
from colbertxm.errors import UserError
from colbertxm.files import MANIFEST
from colbertxm.languages import language
from colbertxm.records import Text

BLOCK = 65_536
POOL = 5
"""First part of the keys that draw a development pool's other passages."""


def ms_marco(
    folder: str,
    lang: str,
    collection: str | None = None,
    queries: str | None = None,
    triples: str | None = None,
    hard_negatives: str | None = None,
    scores: str | None = None,
    examples: int = 6_400_000,
    translations: Mapping[str, Mapping[str, str]] | None = None,
    mix: Mapping[str, float] | None = None,
    seed: int = 42,
    val_queries: str | None = None,
    val_qrels: str | None = None,
    val_sample: int = 200,
    val_passages: int = 5_000,
    languages: Sequence[str] | None = None,
) -> TrainingData:
    """Training data out of MS MARCO's files. Where `folder` is built already the files are not looked at.

    `triples` are `qid<TAB>pid<TAB>pid` lines or ColBERT's n-way lines (.json, .jsonl); without them they are drawn from
    `hard_negatives` and `scores` by the paper's recipe, `examples` of them. `translations` add languages under the same
    ids ({"fr": {"collection": file, "queries": file}}), and `mix` gives samples their languages by weight. Raises
    UserError for a file that is missing or wrong, by name and line."""
    root, code = Path(folder), language(lang).code
    files = {code: {"collection": collection, "queries": queries}, **(translations or {})}
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(str(root / ".lock")):
        passages = _store(root / "texts", "collection", files, code)
        asked = _store(root / "queries", "queries", files, code)
        found = _triples(root / "triples", asked, passages, triples, hard_negatives, scores, examples)
    weights = LanguageMix(mix, seed) if mix else None
    dev: tuple[Collection, ...] = ()
    if val_queries and val_qrels:
        dev = (_pool(passages, Path(val_queries), Path(val_qrels), code, val_sample, val_passages, seed),)
    return TrainingData(
        name="ms_marco",
        pairs=(),
        pools=dev,
        languages=tuple(languages or passages.languages),
        negatives_depth=0,
        checksums={"texts": passages.fingerprint, "queries": asked.fingerprint},
        examples=OnDisk(found, seed, weights),
    )


def _store(folder: Path, kind: str, files: Mapping[str, Mapping[str, str | None]], first: str) -> Store:
    """The store in `folder` with every language of `files`; languages that it lacks are added."""
    have = Store(folder).languages if (folder / MANIFEST).exists() else ()
    for lang, named in files.items():
        code = language(lang).code
        if code in have:
            continue
        path = named.get(kind)
        if path is None:
            key = f"data.{kind}" if code == first else f"data.translations.{lang}.{kind}"
            raise UserError(f"{folder} has no texts in {code!r} yet: give {key}=FILE (id<TAB>text)")
        if kind == "collection":
            build_store_from_tsv(folder, code, path)
        else:
            build_store(folder, code, read_queries(Path(path), code))
    return Store(folder, first)


def _triples(
    folder: Path,
    queries: Store,
    passages: Store,
    triples: str | None,
    hard_negatives: str | None,
    scores: str | None,
    examples: int,
) -> Triples:
    if (folder / MANIFEST).exists():
        return Triples(folder, queries, passages)
    if triples is not None:
        if ".json" in Path(triples).name:
            return write_triples(folder, queries, passages, _nway(Path(triples), queries, passages))
        return triples_from_tsv(folder, queries, passages, triples)
    if hard_negatives is None or scores is None:
        raise UserError(
            f"{folder} is not built yet: give data.triples=FILE, or data.hard_negatives=FILE and data.scores=FILE"
        )
    pools = pool_systems(numbered(read_hard_negatives(Path(hard_negatives))), _scores(Path(scores)).of, margin=MARGIN)
    rounds = paper_rounds(examples, 1, len(pools))
    drawn = ((to_rows(s.rows, queries, passages), s.scores) for s in paper_samples(pools, rounds))
    return write_triples(folder, queries, passages, _first(drawn, examples))


def _first(blocks: Iterator[tuple[Rows, np.ndarray]], count: int) -> Iterator[tuple[Rows, np.ndarray]]:
    """The first `count` rows of blocks."""
    for rows, scores in blocks:
        yield rows[:count], scores[:count]
        count -= len(rows[:count])
        if not count:
            return


def _scores(path: Path) -> Scores:
    """Cross-encoder scores; a pickle is read once and kept beside itself as .npz."""
    if path.suffix == ".npz":
        return load_scores(path)
    kept = path.with_name(path.name.split(".pkl")[0] + ".npz")
    if not kept.exists():
        read_scores_pickle(path).save(kept)
    return load_scores(kept)


def _nway(path: Path, queries: Store, passages: Store) -> Iterator[Rows | tuple[Rows, np.ndarray]]:
    """ColBERT's n-way lines as blocks of rows, with the teacher's scores where the file has them."""
    rows: list[list[int]] = []
    scores: list[tuple[float, ...]] = []
    for line in read_nway(path):
        rows.append([queries.row(line.query_id), *(passages.row(p) for p in line.passage_ids)])
        if len(rows[-1]) != len(rows[0]):
            raise UserError(
                f"{path}: query {line.query_id} has {len(rows[-1]) - 1} candidates, others {len(rows[0]) - 1}"
            )
        if line.scores is not None:
            scores.append(line.scores)
        if len(rows) == BLOCK:
            yield _block(rows, scores)
            rows, scores = rows[:0], []
    if rows:
        yield _block(rows, scores)


def _block(rows: list[list[int]], scores: list[tuple[float, ...]]) -> Rows | tuple[Rows, np.ndarray]:
    made = np.array(rows, np.int32)
    return (made, np.array(scores, np.float32)) if scores else made


def _pool(passages: Store, queries: Path, qrels: Path, lang: str, sample: int, others: int, seed: int) -> Collection:
    """A small development pool: `sample` judged queries, their passages, and `others` drawn from the collection."""
    judged = [j for j in read_qrels(qrels) if j.relevance > 0 and j.passage_id in passages]
    texts = {q.id: q for q in read_queries(queries, lang)}
    asked = sorted({j.query_id for j in judged} & texts.keys())
    if not asked:
        raise UserError(f"{qrels} judges no query of {queries} with a passage of the collection: are they one set?")
    order = Permutation(len(asked), POOL, seed)(np.arange(min(sample, len(asked))))
    chosen = {asked[i] for i in order.tolist()}
    kept = tuple(j for j in judged if j.query_id in chosen)
    drawn = Permutation(len(passages), POOL, seed, 1)(np.arange(min(others, len(passages)))).tolist()
    rows = dict.fromkeys([*(passages.row(j.passage_id) for j in kept), *drawn])
    found: list[Text] = passages.texts(list(rows))
    queries_found = tuple(texts[name] for name in asked if name in chosen)
    return Collection("ms_marco dev pool", lang, lang, queries_found, tuple(found), kept)
