"""sentence-transformers 6 as its documentation has it: MultiVectorEncoderTrainer with in-batch and hard negatives."""

import hugging
from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss

job = hugging.job()
model = MultiVectorEncoder(f"{job['folder']}/multi_vector", device="cpu")
query, document = model.prompts["query"], model.prompts["document"]
hugging.train(
    job,
    model,
    MultiVectorMultipleNegativesRankingLoss(model, scale=1 / job["temperature"]),
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
    # In training it writes no prompt of the model's own before a text unless it is told to, by column.
    prompts={"query": query, "positive": document, "negative": document},
)
