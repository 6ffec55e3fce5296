"""colbertxm's own loader: rows on disk beside stores of texts, tokenised and packed in the workers."""

from pathlib import Path

import common

from colbertxm.data.examples import OnDisk
from colbertxm.data.store import Store
from colbertxm.data.triples import Triples
from colbertxm.model.checkpoints import load_model
from colbertxm.training.batches import RetrievalData

job = common.job()
folder = Path(job["folder"])
encoder = load_model(folder / "model")
STEPS = 10**6


def batches(done=0):
    rows = Triples(folder / "triples", Store(folder / "queries", "en"), Store(folder / "passages", "en"))
    data = RetrievalData(OnDisk(rows, job["seed"]), encoder, job["size"], STEPS, 1, job["seed"], workers=job["workers"])
    data.load_state_dict({"samples_done": done})
    return data.train_dataloader()


found = common.timed(job, batches)
whole, resumed = common.nth(batches(), 5), common.nth(batches(5 * job["size"]), 0)
same = whole.passages.parts[0].ids_T.tolist() == resumed.passages.parts[0].ids_T.tolist()
common.report({**found, "exact": same and whole.queries.parts[0].ids_T.equal(resumed.queries.parts[0].ids_T)})
