"""The LightningModule: encoder, loss, optimiser; validation by exact search on small pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from colbertxm.data.collection import Collection
from colbertxm.errors import UserError
from colbertxm.evaluation.metrics import evaluate
from colbertxm.model.encoder import Encoder, Vectors
from colbertxm.model.scores import dot, packed_maxsim
from colbertxm.model.trunk import Trunk
from colbertxm.retriever import Retriever
from colbertxm.training.batches import Batch, RetrievalData, Side
from colbertxm.training.losses import OwnHardNegative, in_batch_softmax, pairwise_softmax


@dataclass(frozen=True)
class LossSettings:
    """Weights of the two losses, and the scale of the scores that they see."""

    pairwise: float = 1.0
    in_batch: float = 1.0
    temperature: float = 1.0
    """Scores are divided by it. The paper has none (1.0) and sums 32 cosines."""
    mean_over_query: bool = False
    """Divide MaxSim by the number of query vectors, so that scores are mean cosines."""
    own_hard_negative: OwnHardNegative = "included"
    """Whether a query's own hard negatives stand among the in-batch candidates, too: `included` as the paper writes
    it, `excluded` as its code does."""
    mask_false_negatives: bool = True
    """Leave passages out of a query's denominator that share the text of one of its positives."""


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with linear warm-up and linear decay to zero."""

    lr: float = 3e-6
    head_lr: float | None = None
    """Learning rate of the projection where it differs; it starts far from its optimum, the encoder near."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.01
    eps: float = 1e-8


class RetrieverModule(L.LightningModule):
    """Trains `encoder`; parameters that `freeze` froze keep out of checkpoints, since the base has them."""

    def __init__(
        self,
        encoder: Encoder,
        loss: LossSettings,
        optimizer: OptimizerSettings,
        steps: int,
        trunk: Trunk | None = None,
    ) -> None:
        super().__init__()
        if loss.temperature <= 0:
            raise UserError(f"loss.temperature={loss.temperature} must be above 0")
        self.encoder = encoder
        # Noted before FSDP or a compiler wraps modules and changes names.
        self.trained = frozenset(f"encoder.{name}" for name, p in encoder.named_parameters() if p.requires_grad)
        # A shard of a matrix is flat, and still a matrix's.
        self.matrices = {name for name, p in encoder.named_parameters() if p.ndim > 1}
        # Checkpoints have no frozen parameters; `on_load_checkpoint` compares the names of the others.
        self.strict_loading = False
        self.loss, self.optimizer_settings, self.steps = loss, optimizer, steps
        # In a tuple, so that nn.Module does not register the trunk's own encoder a second time.
        self._trunk = (trunk,)
        self.data: RetrievalData | None = None
        """Told how many samples are done; a resumed run starts behind them."""

    def vectors(self, side: Side) -> Vectors:
        """Vectors with gradient, in the texts' order."""
        trunk = self._trunk[0]
        packed = side.packed.to(self.device)
        if trunk is None:
            return self.encoder(packed)
        return self.encoder(packed, trunk.states(side.ids, side.adapters).to(self.device), trunk.depth)

    def scores(self, batch: Batch) -> Tensor:
        """Scores of all queries against all passages of the batch, [B, C]."""
        queries, passages = self.vectors(batch.queries), self.vectors(batch.passages)
        if self.encoder.pooling == "single":
            return dot(queries.values, passages.values)
        mean = self.loss.mean_over_query
        return packed_maxsim(queries.values, queries.offsets, passages.values, passages.offsets, mean)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of both losses; both are logged on their own too."""
        scores = self.scores(batch)
        ignore = batch.ignore_BC.to(self.device) if self.loss.mask_false_negatives else None
        reading, temperature = self.loss.own_hard_negative, self.loss.temperature
        pairwise = pairwise_softmax(scores, temperature)
        in_batch = in_batch_softmax(scores, ignore, reading, temperature)
        total = self.loss.pairwise * pairwise + self.loss.in_batch * in_batch
        self.log_dict({"train/pairwise": pairwise.detach(), "train/in_batch": in_batch.detach()})
        self.log("train/loss", total.detach(), prog_bar=True)
        # Counted here and not when the batch ends: callbacks, and with them the checkpoint, come before that hook.
        if self.data is not None:
            self.data.samples_done += self.data.batch_size
        return total

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing to move here: `vectors` moves what it needs, without waiting."""
        return batch

    def validation_step(self, pool: Collection, batch_idx: int) -> None:
        """MRR@10 of exact search in the pool. A small pool of the development split: a guide, no result."""
        run = Retriever(self.encoder, trunk=self._trunk[0]).run(pool, k=10)
        mrr = evaluate(run, pool.judgements, ("RR@10",)).mean("RR@10")
        name = f"val/mrr@10/{pool.query_lang}-{pool.passage_lang}"
        self.log(name, mrr, batch_size=1, prog_bar=True, on_epoch=True)

    def configure_optimizers(self) -> Any:
        """AdamW over what is not frozen; no weight decay on biases and LayerNorms."""
        s = self.optimizer_settings
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for wrapped, parameter in self.encoder.named_parameters():
            name = wrapped.replace("_fsdp_wrapped_module.", "")
            if parameter.requires_grad:
                lr = s.head_lr if name.startswith("linear.") and s.head_lr is not None else s.lr
                decay = s.weight_decay if name in self.matrices else 0.0
                groups.setdefault((lr, decay), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()],
            eps=s.eps,
        )
        warm = max(1, round(s.warmup * self.steps))

        def scale(step: int) -> float:
            return min((step + 1) / warm, max(0.0, (self.steps - step) / max(1, self.steps - warm)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """By the norm over all ranks' shards where FSDP has them; Lightning refuses to there."""
        sharded: Any = self.trainer.strategy.model
        if hasattr(sharded, "clip_grad_norm_") and gradient_clip_val:
            sharded.clip_grad_norm_(gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen parameters out: they are the base model's, and most of the bytes."""
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in self.trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another freezing policy; frozen parameters keep the base's values."""
        if set(checkpoint["state_dict"]) != self.trained:
            raise UserError("the checkpoint to resume from trained other parameters: resume with the same freeze=")
