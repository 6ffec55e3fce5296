"""What the three peers' scripts share. They run in environments without colbertxm: plain json in, npz out.

A job: {"folder", "queries": [[adapter, text], ...], "passages": [...], "adapter": null | one for all,
"resave": null | where to save the model again}. What is written:
query_ids, query_vectors and their lengths, the same of passages, and scores [queries, passages].
"""

import json
import sys

import numpy as np


def job():
    """The job file named on the command line, and where to write."""
    with open(sys.argv[1], encoding="utf-8") as file:
        return json.load(file), sys.argv[2]


def by_adapter(pairs, encode, only=None):
    """encode(adapter, texts) -> [(ids, vectors)] once for each adapter, as these libraries have one at a time; the
    results in the texts' order."""
    found = [None] * len(pairs)
    for adapter in sorted({a for a, _ in pairs}):
        places = [i for i, (a, _) in enumerate(pairs) if a == adapter]
        for i, result in zip(places, encode(only or adapter, [pairs[i][1] for i in places]), strict=True):
            found[i] = result
    return found


def write(path, queries, passages, scores):
    """All ids and vectors end to end, with their lengths."""
    out = {"scores": np.asarray(scores, np.float32)}
    for name, results in (("query", queries), ("passage", passages)):
        out[f"{name}_ids"] = np.concatenate([np.asarray(ids, np.int32) for ids, _ in results])
        out[f"{name}_id_counts"] = np.array([len(ids) for ids, _ in results], np.int32)
        out[f"{name}_vectors"] = np.concatenate(
            [np.asarray(v, np.float32).reshape(-1, np.shape(v)[-1]) for _, v in results]
        )
        out[f"{name}_counts"] = np.array([1 if np.ndim(v) == 1 else len(v) for _, v in results], np.int32)
    np.savez_compressed(path, **out)
