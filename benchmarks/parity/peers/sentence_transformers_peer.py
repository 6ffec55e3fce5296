"""sentence-transformers 6: MultiVectorEncoder, or SentenceTransformer where the job says "single"."""

import common
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer

job, out = common.job()
single = job["single"]
model = (SentenceTransformer if single else MultiVectorEncoder)(job["folder"], device="cpu")


def encode(task):
    def run(adapter, texts):
        model[0].auto_model.set_default_language(adapter)
        prompt = model.prompts.get(task) or None
        features = model.preprocess(texts, prompt=prompt, task=task)
        ids = [i[m.bool()].tolist() for i, m in zip(features["input_ids"], features["attention_mask"], strict=True)]
        run_ = model.encode_query if task == "query" else model.encode_document
        vectors = run_(texts, convert_to_numpy=True)
        return [(i, v) for i, v in zip(ids, vectors, strict=True)]

    return run


found_q = common.by_adapter(job["queries"], encode("query"), job["adapter"])
found_p = common.by_adapter(job["passages"], encode("document"), job["adapter"])
q, p = ([torch.from_numpy(v) for _, v in found] for found in (found_q, found_p))
table = model.similarity(torch.stack(q), torch.stack(p)) if single else model.similarity(q, p)
if job["resave"]:
    model.save(job["resave"])
common.write(out, found_q, found_p, table)
