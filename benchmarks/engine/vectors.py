"""Token vectors as a ColBERT model makes them, without a model: `python -m benchmarks.engine.vectors FOLDER`.

What decides how an index fares is in them: a direction that all vectors share, topics, thousands of senses of words
whose frequency falls by Zipf's law and whose clouds are long in a few directions of their own, a context that all
vectors of a document share (families of documents share most of theirs: near-duplicates), and a little noise.
A query takes some vectors of one document, re-words them, and fills up to 32 with mixtures, as mask expansion does.

    vectors-NNN.npy   [t, 128] float16 or float32, of length one
    lengths-NNN.npy   [n] int32: vectors of each document
    tokens-NNN.npy    [t] uint32: each vector's sense
    queries.npy       [queries, 32, 128] float32
    vectors.json      what was made; written last, so a folder with it is whole

A shard is a function of (shape, seed, its number), so half a million documents never lie in memory together.
Shapes: N documents, T vectors, E dimensions, R directions of a sense.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from colbertxm.errors import UserError
from colbertxm.evaluation.results import replacing

MANIFEST = "vectors.json"
QUERY_VECTORS = 32
BLOCK = 8192  # vectors made at a time; each needs a kB for its sense's directions
GENERAL = 300  # senses that every topic uses
SHARE_OF_FIRST_TOPIC = 0.7


@dataclass(frozen=True)
class Shape:
    """What to make."""

    documents: int
    queries: int = 200
    seed: int = 0
    dtype: str = "float32"
    dim: int = 128
    senses: int = 4000
    topics: int = 200
    directions: int = 8
    per_shard: int = 2000


class World:
    """What all shards share: topics, senses, families."""

    def __init__(self, shape: Shape) -> None:
        rng = np.random.default_rng([shape.seed, 0])
        self.shape = shape
        spectrum = np.arange(1, shape.dim + 1) ** -0.6
        self._spectrum = (spectrum / np.linalg.norm(spectrum)).astype(np.float32)
        rotation, _ = np.linalg.qr(rng.standard_normal((shape.dim, shape.dim)))
        self._rotation = rotation.astype(np.float32)
        self.topic_of = rng.integers(0, shape.topics, shape.senses)
        topics = self.anisotropic(rng, shape.topics)
        centres = 0.35 * self._rotation[:, 0] + 0.55 * topics[self.topic_of]
        self.centres = unit(centres + 0.85 * self.anisotropic(rng, shape.senses))
        flat = self.anisotropic(rng, shape.senses * shape.directions)
        self.directions = flat.reshape(shape.senses, shape.directions, shape.dim)
        self.families = self.anisotropic(rng, max(1, shape.documents // 12))

    @cached_property
    def cumulative(self) -> np.ndarray:
        """[topics * senses] float64: topic after topic, its number plus the cumulative frequencies of its senses, so
        that one search in a rising array draws for any topic."""
        frequency = (np.arange(self.shape.senses) + 20.0) ** -0.9
        frequency /= frequency.sum()
        inside = self.topic_of[None] == np.arange(self.shape.topics)[:, None]
        table = np.where(inside, frequency, 0.03 * frequency)
        table[:, :GENERAL] += 0.15 * frequency[:GENERAL]
        table = np.cumsum(table, 1)
        table /= table[:, -1:]
        return (table + np.arange(self.shape.topics)[:, None]).reshape(-1)

    def anisotropic(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """[count, E] of length about one, with a spectrum that falls by a power law."""
        normal = rng.standard_normal((count, self.shape.dim), np.float32)
        return (normal * self._spectrum) @ self._rotation.T

    def cloud(self, rng: np.random.Generator, senses: np.ndarray) -> np.ndarray:
        """[n, E]: a step from the sense's centre along its own directions."""
        steps = rng.standard_normal((len(senses), 1, self.shape.directions), np.float32)
        scaled = steps / np.float32(np.sqrt(self.shape.directions))
        return np.matmul(scaled, self.directions[senses])[:, 0]

    def noise(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """[count, E] of length about one, the same in all directions."""
        return rng.standard_normal((count, self.shape.dim), np.float32) / np.float32(np.sqrt(self.shape.dim))

    def senses_of(self, rng: np.random.Generator, topics: np.ndarray) -> np.ndarray:
        """A sense for each vector of such topics [n]."""
        drawn = np.searchsorted(self.cumulative, topics + rng.random(len(topics)), side="right")
        return np.minimum(drawn - topics * self.shape.senses, self.shape.senses - 1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length one."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def shard(world: World, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors [t, E] float32, lengths [n] int32, senses [t] of the documents of one shard."""
    shape = world.shape
    count = min(shape.per_shard, shape.documents - number * shape.per_shard)
    rng = np.random.default_rng([shape.seed, 1, number])
    lengths = np.clip(rng.normal(85, 22, count), 24, 160).astype(np.int32)
    families = rng.integers(0, len(world.families), count)
    contexts = 0.8 * world.families[families] + 0.6 * world.anisotropic(rng, count)
    topics = rng.integers(0, shape.topics, (count, 2))
    owner = np.repeat(np.arange(count), lengths)
    second = rng.random(len(owner)) >= SHARE_OF_FIRST_TOPIC
    senses = world.senses_of(rng, topics[owner, second.astype(np.int64)])
    vectors = np.empty((len(owner), shape.dim), np.float32)
    for start in range(0, len(owner), BLOCK):
        block = slice(start, min(start + BLOCK, len(owner)))
        made = world.centres[senses[block]] + 0.42 * contexts[owner[block]]
        made += 0.38 * world.cloud(rng, senses[block]) + 0.30 * world.noise(rng, len(made))
        vectors[block] = unit(made)
    return vectors, lengths, senses


def query(world: World, number: int, vectors: np.ndarray, senses: np.ndarray) -> np.ndarray:
    """[32, E]: a query that a document with such vectors answers."""
    rng = np.random.default_rng([world.shape.seed, 2, number])
    words = int(rng.integers(8, 20))
    picked = rng.integers(0, len(vectors), words)
    base, sense = vectors[picked], senses[picked]
    said = 0.75 * base + 0.45 * world.centres[sense] + 0.30 * world.cloud(rng, sense)
    said += 0.35 * world.noise(rng, words)
    other = rng.random(words) < 0.3  # another word from about the same place
    said[other] = 0.55 * world.centres[sense[other]] + 0.6 * base.mean(0)
    said[other] += 0.45 * world.anisotropic(rng, int(other.sum()))
    fill = QUERY_VECTORS - words
    mixed = rng.dirichlet(np.full(words, 0.25), fill).astype(np.float32) @ said
    mixed += 0.30 * world.noise(rng, fill) + 0.1 * world.anisotropic(rng, 1)
    return unit(np.concatenate([said, mixed]))


def targets(shape: Shape) -> np.ndarray:
    """The document that each query is made from, drawn among all shards': [queries] int64."""
    return np.random.default_rng([shape.seed, 3]).integers(0, shape.documents, shape.queries)


def shards(shape: Shape) -> int:
    """How many shards there are."""
    return -(-shape.documents // shape.per_shard)


def ask(world: World, number: int, made: tuple[np.ndarray, np.ndarray, np.ndarray], asked: np.ndarray) -> None:
    """Fill in `asked` [queries, 32, E] the queries whose documents are in the shard `number`, which is `made`."""
    vectors, lengths, senses = made
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    wanted = targets(world.shape)
    for which in np.flatnonzero(wanted // world.shape.per_shard == number).tolist():
        place = int(wanted[which]) % world.shape.per_shard
        rows = slice(offsets[place], offsets[place + 1])
        asked[which] = query(world, which, vectors[rows], senses[rows])


def queries(world: World) -> np.ndarray:
    """All queries [queries, 32, E] float32: of the shards only those with a query's document are made, none is kept."""
    asked = np.empty((world.shape.queries, QUERY_VECTORS, world.shape.dim), np.float32)
    for number in np.unique(targets(world.shape) // world.shape.per_shard).tolist():
        ask(world, number, shard(world, number), asked)
    return asked


def save(path: Path, array: np.ndarray) -> None:
    """A file that is there entirely or not at all."""
    with replacing(path) as part, part.open("wb") as file:
        np.save(file, array)


def make(folder: Path, shape: Shape) -> Path:
    """The folder with such vectors; made where it is not there. Raises UserError for one that holds others."""
    wanted = json.dumps(asdict(shape), sort_keys=True)
    manifest = folder / MANIFEST
    if manifest.is_file():
        if manifest.read_text(encoding="utf-8") != wanted:
            raise UserError(f"{folder} holds other vectors than asked for: name another folder or remove it")
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    world = World(shape)
    asked = np.empty((shape.queries, QUERY_VECTORS, shape.dim), np.float32)
    for number in range(shards(shape)):
        made = shard(world, number)
        ask(world, number, made, asked)
        for name, array in zip(("vectors", "lengths", "tokens"), made, strict=True):
            kind = {"vectors": shape.dtype, "lengths": "int32", "tokens": "uint32"}[name]
            save(folder / f"{name}-{number:03d}.npy", array.astype(kind))
    save(folder / "queries.npy", asked)
    with replacing(manifest) as part:
        part.write_text(wanted, encoding="utf-8")
    return folder


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float32")
    given = parser.parse_args()
    print(make(given.folder, Shape(given.documents, given.queries, given.seed, given.dtype)))


if __name__ == "__main__":
    main()
