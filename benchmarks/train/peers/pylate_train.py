"""PyLate's training as its documentation has it: SentenceTransformerTrainer, Contrastive, ColBERTCollator.

With `longest` as second argument the collator's tokenisation pads to the longest text of the batch, where PyLate's own
pads every text to the model's limit: what of the difference is padding.
"""

import sys

import hugging
from pylate import losses, models, utils
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

job = hugging.job()
model = models.ColBERT(f"{job['folder']}/pylate", device="cpu")


def to_the_longest(texts, is_query, pad=True, task=None):
    return model.tokenize(texts, is_query=is_query, pad=False, task=task)


tokenize = to_the_longest if sys.argv[2:] == ["longest"] else model.tokenize
hugging.train(
    job,
    model,
    losses.Contrastive(model, temperature=job["temperature"]),
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    utils.ColBERTCollator(tokenize),
)
