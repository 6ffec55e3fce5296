"""Encoding on a Ray cluster with one actor and with two: passages a second, and whether all bytes are one machine's.

    python -m benchmarks.ray.run            # 2,048 passages of smart_home, the embedded model; needs colbertxm[ray]
    python -m benchmarks.ray.run --data     # and by ray.data, for comparison (needs its pandas)

One thread an actor, and one for the build on one machine, or the bytes would not have to be the same. Writes
benchmarks/results/ray.json. The time is that of the shards alone: actors are ready before it begins.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

from benchmarks import record  # noqa: E402
from colbertxm import retriever  # noqa: E402
from colbertxm.cluster.indexing import ClusterRetriever, encoded  # noqa: E402
from colbertxm.cluster.journal import InMemory  # noqa: E402
from colbertxm.cluster.on_ray import RayEncoders, RaySettings, connect  # noqa: E402
from colbertxm.cluster.window import in_order  # noqa: E402
from colbertxm.evaluation.results import replacing  # noqa: E402
from colbertxm.model.checkpoints import build_encoder, load_model, save_model  # noqa: E402
from colbertxm.model.tokens import TokenSettings  # noqa: E402
from colbertxm.records import Text  # noqa: E402
from colbertxm.retriever import Retriever  # noqa: E402
from colbertxm.stages import smart_home  # noqa: E402

SIZE = 128  # passages a shard: small ones, for the whole is small


def checksums(folder: Path) -> dict[str, str]:
    """Of every file of an index."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.*")) if p.is_file()}


def rate(ray: Any, model: Path, passages: Sequence[Text], actors: int) -> float:
    """Passages a second by so many actors, which are warm."""
    pool = RayEncoders(ray, RaySettings(actors=actors, cpus=1), model, load_model(model))
    ray.get([pool.ready(place) for place in range(pool.size)])
    started_by = pool.actors
    pool.ready = lambda place: started_by[place].ready.remote()  # type: ignore[method-assign]
    tasks = [(n, passages[first : first + SIZE]) for n, first in enumerate(range(0, len(passages), SIZE))]
    started = time.perf_counter()
    for _ in in_order(pool, tasks, InMemory(), 0, print):
        pass
    seconds = time.perf_counter() - started
    pool.close()
    return len(passages) / seconds


def by_ray_data(ray: Any, model: Path, passages: Sequence[Text], actors: int) -> float:
    """The same shards through ray.data's map over a pool of actors."""
    import ray.data

    class Encode:
        def __init__(self) -> None:
            torch.set_num_threads(1)
            self.retriever = Retriever(load_model(model))

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            first = int(row["item"])
            shard = encoded(self.retriever, passages[first : first + SIZE])
            return {"first": first, "values": shard.values.tobytes(), "lengths": shard.lengths.tobytes()}

    rows = ray.data.from_items(list(range(0, len(passages), SIZE)), override_num_blocks=len(passages) // SIZE)
    started = time.perf_counter()
    for _ in rows.map(Encode, concurrency=actors, num_cpus=1).iter_rows():
        pass
    return len(passages) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=2048)
    parser.add_argument("--data", action="store_true", help="ray.data too; its actors are not warm")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    retriever.PASSAGES = SIZE
    found = smart_home().collection("train", "en", "en").passages[: arguments.passages]
    ray = connect(RaySettings())
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        tokens = TokenSettings("query: ", "passage: ")
        model = save_model(folder / "model", build_encoder("small", ["en"], tokens, "multi", 128, 0), {})
        Retriever(load_model(model)).write(folder / "one", found, {}, bits=4)
        encoder = load_model(model)
        pool = RayEncoders(ray, RaySettings(actors=2, cpus=1), model, encoder)
        ClusterRetriever(encoder, pool).write(folder / "two", found, {}, bits=4)
        figures: dict[str, Any] = {
            f"passages_per_s_{n}_actor{'s' * (n > 1)}": rate(ray, model, found, n) for n in (1, 2)
        }
        figures["identical"] = checksums(folder / "one") == checksums(folder / "two")
        if arguments.data:
            figures["passages_per_s_ray_data_2_actors_cold"] = by_ray_data(ray, model, found, 2)
    figures |= {"passages": len(found), "threads_an_actor": 1, "model": "small", "machine": record.machine()}
    record.RESULTS.mkdir(exist_ok=True)
    with replacing(record.RESULTS / "ray.json") as part:
        part.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
