"""Our tokens, vectors and scores against colbert-ai, PyLate and sentence-transformers: `make parity`.

Each case writes the miniature in a layout with our exporter, lets the peer read it in an environment of its own, reads
it again ourselves, and compares. `--record` keeps what the peers computed in tests/fixtures/parity, which
tests/test_formats.py holds ours against without them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.parity import environments, miniature
from benchmarks.parity.cases import AGREE, DIFFER, Case
from colbertxm.errors import UserError
from colbertxm.languages import language
from colbertxm.model.checkpoints import load_model
from colbertxm.model.encoder import Encoder
from colbertxm.model.formats import write_as
from colbertxm.model.formats.files import state_of

Arrays = dict[str, np.ndarray]
HERE = Path(__file__).parent
RECORD = HERE.parent.parent / "tests" / "fixtures" / "parity"
TOLERANCE = 1e-5


def ours(encoder: Encoder) -> Arrays:
    """The same arrays as a peer's script writes (peers/common.py)."""
    found: Arrays = {}
    padded = []
    for kind, texts in zip(("query", "passage"), miniature.texts(), strict=True):
        tokens = encoder.tokenise(texts, kind)  # type: ignore[arg-type]
        vectors = encoder.encode(texts, kind)  # type: ignore[arg-type]
        found[f"{kind}_ids"] = np.array([i for text in tokens for i in text.ids], np.int32)
        found[f"{kind}_id_counts"] = np.array([len(text.ids) for text in tokens], np.int32)
        found[f"{kind}_vectors"] = vectors.values.numpy()
        found[f"{kind}_counts"] = vectors.offsets.diff().numpy().astype(np.int32)
        padded.append(vectors.padded())
    (queries, query_mask), (passages, passage_mask) = padded
    cosines = torch.einsum("bqe,cde->bcqd", queries, passages).masked_fill(~passage_mask[None, :, None], -torch.inf)
    found["scores"] = (cosines.amax(-1) * query_mask[:, None]).sum(-1).numpy()
    return found


def thin(arrays: Arrays) -> Arrays:
    """What is recorded: all ids, counts and scores (in which every vector has its part), and every fifth vector."""
    return {name: array[::5] if name.endswith("vectors") else array for name, array in arrays.items()}


def theirs(case: Case, folder: Path, work: Path, resave: Path | None) -> Arrays:
    """What the peer makes of the checkpoint in `folder`. Raises UserError with the last line it printed."""
    peer = environments.PEERS[case.peer]
    python, first = environments.ready(peer)
    pairs = [[[language(t.lang).adapter, t.text] for t in texts] for texts in miniature.texts()]
    job = {"folder": str(folder), "queries": pairs[0], "passages": pairs[1], "adapter": case.adapter}
    job |= {"resave": str(resave) if resave else None, "single": case.pooling == "single"}
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    script = HERE / "peers" / peer.script
    path = [str(first)] if first else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(python), str(script), str(work / "job.json"), str(work / "out.npz")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=work)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise UserError(f"{case.peer} failed on {case.name}: {' | '.join(lines[-3:])}")
    with np.load(work / "out.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def compare(mine: Arrays, other: Arrays) -> dict[str, float | bool]:
    """Whether ids agree, the largest difference of vectors (inf where their numbers differ), and of scores: largest,
    and mean as a part of the mean score."""
    names = [f"{kind}_{what}" for kind in ("query", "passage") for what in ("ids", "id_counts")]
    vectors = 0.0
    for kind in ("query", "passage"):
        fits = np.array_equal(mine[f"{kind}_counts"], other[f"{kind}_counts"])
        difference = np.abs(mine[f"{kind}_vectors"] - other[f"{kind}_vectors"]).max() if fits else np.inf
        vectors = max(vectors, float(difference))
    scores = np.abs(mine["scores"] - other["scores"])
    return {
        "ids": all(np.array_equal(mine[name], other[name]) for name in names),
        "vectors": vectors,
        "scores": float(scores.max()),
        "relative": float(scores.mean() / np.abs(mine["scores"]).mean()),
        "kept": int(mine["passage_counts"].sum()),
        "peer_kept": int(other["passage_counts"].sum()),
    }


def reread(case: Case, encoder: Encoder, resaved: Path) -> bool:
    """Whether the peer's own saved copy gives the same tensors here as the folder that we wrote."""
    try:
        again, first = state_of(load_model(resaved)), state_of(encoder)
    except UserError as error:
        print(f"their copy: {error}", file=sys.stderr)
        return False
    return again.keys() == first.keys() and all(torch.equal(first[name], again[name]) for name in first)


def run(case: Case, work: Path) -> tuple[Arrays, dict[str, float | bool]]:
    """One case: the peer's arrays, and how ours differ."""
    made = miniature.encoder(work / "tokenizer", case.settings, case.pooling)
    folder = write_as(case.layout, work / "model", made)
    encoder = load_model(folder)
    resave = None if case.why else work / "resaved"
    other = theirs(case, folder, work, resave)
    figures = compare(ours(encoder), other)
    figures["reread"] = bool(resave and reread(case, encoder, resave))
    return other, figures


def main() -> None:
    """Run all cases and print the table; exit code 1 where a case that must agree does not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--record", action="store_true", help=f"keep the peers' arrays in {RECORD.name}")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    failed = 0
    print(f"{'case':20}{'layout':23}{'peer':27}{'ids':6}{'vectors':>9}{'scores':>9}  their copy reads back")
    for case in AGREE + DIFFER:
        if arguments.only not in case.name:
            continue
        with tempfile.TemporaryDirectory() as work:
            try:
                other, found = run(case, Path(work))
            except UserError as error:
                failed += 1
                print(f"{case.name:20}{error}", file=sys.stderr)
                continue
        head = f"{case.name:20}{case.layout:23}{case.peer:27}"
        if case.why:
            kept = f"{found['kept']} passage vectors, there {found['peer_kept']}"
            same = "the same ids" if found["ids"] else "other ids"
            print(f"{head}{same}, scores differ by {found['relative']:.1%} ({kept}): {case.why}")
            continue
        good = found["ids"] and found["vectors"] < TOLERANCE and found["scores"] < TOLERANCE
        failed += not (good and found["reread"])
        ids, back = "same" if found["ids"] else "OTHER", "yes" if found["reread"] else "NO"
        print(f"{head}{ids:6}{found['vectors']:9.1e}{found['scores']:9.1e}  {back}")
        if arguments.record and good:
            RECORD.mkdir(parents=True, exist_ok=True)
            part = RECORD / f"{case.name}.part.npz"
            np.savez_compressed(part, **thin(other))  # type: ignore[arg-type]
            shutil.move(part, RECORD / f"{case.name}.npz")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
