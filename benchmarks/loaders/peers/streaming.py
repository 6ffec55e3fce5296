"""`datasets` in streaming mode, as its pages on streaming show: shuffle buffer, map with the tokenizer, DataLoader."""

import itertools

import common
from datasets import load_dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

job = common.job()
special = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>", "bos_token": "<s>", "eos_token": "</s>"}
tokenizer = PreTrainedTokenizerFast(tokenizer_file=job["tokenizer"], **special)


def tokenise(rows):
    found = {}
    for name in common.COLUMNS:
        longest = job["query_maxlen"] if name == "query" else job["passage_maxlen"]
        found[f"{name}_ids"] = tokenizer(rows[name], truncation=True, max_length=longest)["input_ids"]
    return found


def collate(rows):
    batch = {}
    for name in common.COLUMNS:
        for key, value in tokenizer.pad({"input_ids": [r[f"{name}_ids"] for r in rows]}, return_tensors="pt").items():
            batch[f"{name}_{key}"] = value
    return batch


def stream():
    rows = load_dataset("json", data_files=job["files"], split="train", streaming=True)
    rows = rows.shuffle(seed=job["seed"], buffer_size=job["buffer"])
    return rows.map(tokenise, batched=True, remove_columns=list(common.COLUMNS))


def batches():
    return DataLoader(stream(), batch_size=job["size"], num_workers=job["workers"], collate_fn=collate)


if __name__ == "__main__":
    found = common.timed(job, batches)
    before, after = stream(), stream()
    rows = iter(before)
    for _ in itertools.islice(rows, 5 * job["size"]):
        pass
    state = before.state_dict()
    whole = [row["positive_ids"] for row in itertools.islice(rows, job["size"])]
    after.load_state_dict(state)
    resumed = [row["positive_ids"] for row in itertools.islice(after, job["size"])]
    common.report({**found, "exact": whole == resumed})
