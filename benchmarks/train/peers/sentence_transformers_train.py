"""sentence-transformers 6 as its documentation has it: MultiVectorEncoderTrainer with in-batch and hard negatives."""

import hugging
from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss

job = hugging.job()
model = MultiVectorEncoder(f"{job['folder']}/multi_vector", device="cpu")
hugging.train(
    job,
    model,
    MultiVectorMultipleNegativesRankingLoss(model, scale=1 / job["temperature"]),
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
)
