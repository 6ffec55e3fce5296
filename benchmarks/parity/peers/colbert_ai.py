"""colbert-ai's own tokens, vectors and scores of a Stanford checkpoint."""

import common
import torch
import transformers

if not hasattr(transformers, "AdamW"):
    transformers.AdamW = torch.optim.AdamW  # colbert-ai 0.2.19 imports it for training

from colbert.infra import ColBERTConfig
from colbert.modeling.checkpoint import Checkpoint
from colbert.modeling.colbert import ColBERT, colbert_score

ColBERT.loaded_extensions = True  # a C++ extension for packed scores, not used here
job, out = common.job()
checkpoint = Checkpoint(job["folder"], colbert_config=ColBERTConfig(), verbose=0)


def queries(adapter, texts):
    checkpoint.model.set_default_language(adapter)
    ids, mask = checkpoint.query_tokenizer.tensorize(texts)
    assert mask.all()
    return [(i.tolist(), v.numpy()) for i, v in zip(ids, checkpoint.query(ids, mask), strict=True)]


def passages(adapter, texts):
    checkpoint.model.set_default_language(adapter)
    ids, mask = checkpoint.doc_tokenizer.tensorize(texts)
    vectors = checkpoint.doc(ids, mask, keep_dims=False)
    return [(i[m.bool()].tolist(), v.numpy()) for i, m, v in zip(ids, mask, vectors, strict=True)]


found_q = common.by_adapter(job["queries"], queries, job["adapter"])
found_p = common.by_adapter(job["passages"], passages, job["adapter"])
documents = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(v) for _, v in found_p], batch_first=True)
mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(v)) for _, v in found_p], batch_first=True).bool()
config = ColBERTConfig()
scores = [colbert_score(torch.from_numpy(v)[None], documents, mask[..., None], config).tolist() for _, v in found_q]
if job["resave"]:
    checkpoint.save(job["resave"])
common.write(out, found_q, found_p, scores)
