"""PyLate's loader, as sentence-transformers' trainer builds it: a map-style dataset, a seeded sampler, and PyLate's
collator, which tokenises in the workers; a restart skips the batches done, as the trainer does."""

import common
import torch
from accelerate import skip_first_batches
from datasets import load_dataset
from pylate import models, utils
from torch.utils.data import DataLoader, RandomSampler

job = common.job()
lengths = {"query_length": job["query_maxlen"], "document_length": job["passage_maxlen"]}
model = models.ColBERT(job["model"], device="cpu", **lengths)
load_dataset("json", data_files=job["files"], split="train", cache_dir=job["cache"])  # its Arrow copy, made once


def batches():
    rows = load_dataset("json", data_files=job["files"], split="train", cache_dir=job["cache"])
    sampler = RandomSampler(rows, generator=torch.Generator().manual_seed(job["seed"]))
    collator = utils.ColBERTCollator(tokenize_fn=model.tokenize)
    return DataLoader(rows, job["size"], sampler=sampler, collate_fn=collator, num_workers=job["workers"])


found = common.timed(job, batches)
whole, resumed = common.nth(batches(), 5), common.nth(skip_first_batches(batches(), 5), 0)
common.report({**found, "exact": torch.equal(whole["positive_input_ids"], resumed["positive_input_ids"])})
