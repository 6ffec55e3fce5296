"""PyLate's own tokens, vectors and scores of a PyLate model or a Stanford checkpoint."""

import common
import torch
from pylate import models, scores

job, out = common.job()
torch.manual_seed(0)  # it adds random rows for markers that the vocabulary lacks
model = models.ColBERT(job["folder"], device="cpu")


def encode(is_query):
    def run(adapter, texts):
        model[0].auto_model.set_default_language(adapter)
        rows = model.encode(texts, is_query=is_query, output_value=None, convert_to_numpy=True)
        found = []
        for ids, attended, mask, v in zip(
            rows["input_ids"], rows["attention_mask"], rows["masks"], rows["token_embeddings"], strict=True
        ):
            found.append((ids[attended.astype(bool)].tolist(), v[mask.astype(bool)]))
        return found

    return run


found_q = common.by_adapter(job["queries"], encode(True), job["adapter"])
found_p = common.by_adapter(job["passages"], encode(False), job["adapter"])
queries = torch.stack([torch.from_numpy(v) for _, v in found_q])
documents = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(v) for _, v in found_p], batch_first=True)
mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(v)) for _, v in found_p], batch_first=True)
table = scores.colbert_scores(queries, documents, documents_mask=mask)
if job["resave"]:
    model.save(job["resave"])
common.write(out, found_q, found_p, table)
