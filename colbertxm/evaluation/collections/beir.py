"""BEIR (Thakur et al. 2021) and NanoBEIR: English data sets in one layout, each a collection of its own.

    corpus.jsonl  queries.jsonl  qrels/test.tsv        below folder/DATASET, or in `folder` itself

NanoBEIR lies on the hub as parquet (three folders a data set), which the extra `datasets` reads; copies in BEIR's
layout are read without it. A document under the query's own id is no hit, as in BEIR's evaluation.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from colbertxm.data.collection import Collection
from colbertxm.data.formats.folders import COMPRESSED, Beir, one_of
from colbertxm.data.formats.hub import read_hub, read_hub_texts
from colbertxm.data.formats.qrels import read_qrels
from colbertxm.data.formats.tsv import read_queries
from colbertxm.data.lazy import read_passages
from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.collections.entry import Entry, Loaded, Request, judged, own_id, sampled
from colbertxm.evaluation.collections.remote import bring, files_of
from colbertxm.evaluation.collections.topics import absent, located
from colbertxm.files import put
from colbertxm.records import Judgement, Text

CQA = "android english gaming gis mathematica physics programmers stats tex unix webmasters wordpress".split()
ON_DEV = ("msmarco",)  # its test set is TREC DL's; BEIR reports the development set


def load_beir(entry: Entry, request: Request) -> Loaded:
    return _load(entry, request)


def load_nanobeir(entry: Entry, request: Request) -> Loaded:
    return _load(entry, request)


def _load(entry: Entry, request: Request) -> Loaded:
    entry.codes(request.langs)
    entry.crossing(request)
    loaded = Loaded([], own_id)
    for name in _subsets(entry, request):
        split = request.split or ("dev" if name in ON_DEV and entry.name == "beir" else entry.split(request))
        split = entry.split(Request(split=split))
        folder = request.folder or bring(files_of(entry.name, [name]))
        if request.folder is None and entry.name == "beir":
            unpack(folder / f"{name}.zip", folder)
        for part in [f"cqadupstack/{forum}" for forum in CQA] if name == "cqadupstack" else [name]:
            loaded.collections.append(_one(entry, request, folder, part, split))
            if len(loaded.collections[-1].passages):
                loaded.notes += absent(loaded.collections[-1])
            else:
                loaded.notes.append(f"{entry.name}/{part}: no corpus at hand in {folder}")
    return loaded


def _subsets(entry: Entry, request: Request) -> list[str]:
    """Those asked for; of a local folder, those that it has."""
    if request.subsets is not None:
        for name in request.subsets:
            if name not in entry.subsets:
                hint = nearest(name, entry.subsets)
                raise UserError(f"{entry.name} has no data set {name!r}{hint}: it has {', '.join(entry.subsets)}")
        return list(request.subsets)
    folder = request.folder
    if folder is None:
        return list(entry.subsets)
    if _is_beir(folder):
        return [folder.name]
    found = [name for name in entry.subsets if _has(entry, folder, name)]
    if not found:
        raise UserError(
            f"{folder} has no data set of {entry.name}: neither corpus.jsonl, queries.jsonl and qrels/, "
            f"nor a folder with them that is named as one of {', '.join(entry.subsets)}"
        )
    return found


def _has(entry: Entry, folder: Path, name: str) -> bool:
    if name == "cqadupstack":
        return _is_beir(folder / name / CQA[0])
    return _is_beir(folder / name) or _nano(folder, name) is not None or bool(_topics(entry, folder, name))


def _one(entry: Entry, request: Request, folder: Path, name: str, split: str) -> Collection:
    """The data set `name`, in the first layout that is there: BEIR's, NanoBEIR's parquet, Anserini's topics and
    qrels."""
    inner = folder / name if _is_beir(folder / name) else folder
    if _is_beir(inner):
        beir = Beir(inner, "en")
        queries, qrels = tuple(beir.queries()), tuple(beir.qrels(split))
        corpus = [path for s in COMPRESSED if (path := inner / f"corpus.jsonl{s}").is_file()]
        passages = read_passages([one_of(inner, ["corpus.jsonl"])], "en") if corpus else ()
    elif (nano := _nano(folder, name)) is not None:
        queries, passages, qrels = _read_nano(nano)
    elif topics := _topics(entry, folder, name):
        judgements = located(entry, entry.qrels, folder, name, "test")
        if not judgements:
            raise UserError(f"{folder} has topics of {entry.name}/{name} but no qrels")
        queries, passages, qrels = tuple(read_queries(topics[0], "en")), (), tuple(read_qrels(judgements[0]))
    else:
        raise UserError(
            f"{folder} has no {entry.name} data set {name!r}: corpus.jsonl, queries.jsonl, qrels/{split}.tsv"
        )
    kept, marks = judged(queries, qrels, f"{entry.name}/{name}, {split}")
    kept, marks = sampled(kept, marks, request, own_id)
    return Collection(f"{entry.name}/{name}", "en", "en", kept, passages, marks, entry.measures, without_itself=True)


def _is_beir(folder: Path) -> bool:
    return any((folder / f"queries.jsonl{suffix}").is_file() for suffix in COMPRESSED)


def _topics(entry: Entry, folder: Path, name: str) -> list[Path]:
    return located(entry, entry.queries, folder, name, "test")


def _nano(folder: Path, name: str) -> Path | None:
    """The folder of a NanoBEIR data set as the hub has it."""
    path = next((file.path for file in files_of("nanobeir", [name]) if file.key == name), None)
    found = folder / path.split("/")[0] if path else None
    return found if found and (found / "queries").is_dir() else None


def _read_nano(folder: Path) -> tuple[tuple[Text, ...], tuple[Text, ...], tuple[Judgement, ...]]:
    columns = {"id": "_id", "text": "text"}
    queries = tuple(read_hub_texts(str(folder / "queries"), "en", "train", columns, titles=False))
    passages = tuple(read_hub_texts(str(folder / "corpus"), "en", "train", columns, titles=False))
    rows = read_hub(str(folder / "qrels"), "train", ("query-id", "corpus-id"))
    marks = tuple(Judgement(str(row["query-id"]), str(row["corpus-id"]), int(row.get("score", 1))) for _, row in rows)
    return queries, passages, marks


def unpack(archive: Path, folder: Path) -> None:
    """A verified archive's files below `folder`; one that is there already must be the archive's, by size and CRC."""
    try:
        with zipfile.ZipFile(archive) as content:
            for member in content.infolist():
                target = folder / member.filename
                if member.is_dir() or not member.filename.endswith((".jsonl", ".tsv")):
                    continue
                if not target.resolve().is_relative_to(folder.resolve()):
                    raise UserError(f"{archive} holds {member.filename!r}, which lies outside its folder: delete it")
                if target.is_file() and target.stat().st_size == member.file_size and _crc(target) == member.CRC:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                put(target, content.read(member))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}): delete it and run again") from None


def _crc(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found = zlib.crc32(block, found)
    return found
