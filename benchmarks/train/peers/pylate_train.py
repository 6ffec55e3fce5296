"""PyLate's training as its documentation has it: SentenceTransformerTrainer, Contrastive, ColBERTCollator.

Its collator pads every text to the model's limit; it must, since its loss stacks positives and negatives.
"""

import hugging
from pylate import losses, models, utils
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

job = hugging.job()
model = models.ColBERT(f"{job['folder']}/pylate", device="cpu")

hugging.train(
    job,
    model,
    losses.Contrastive(model, temperature=job["temperature"]),
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    utils.ColBERTCollator(model.tokenize),
)
