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
from colbertxm.model.encoder import Encoder, Vectors, joined
from colbertxm.model.trunk import Trunk
from colbertxm.retriever import Retriever
from colbertxm.training.batches import Batch, RetrievalData, Side
from colbertxm.training.gather import average_gradients
from colbertxm.training.gradcache import cached_step
from colbertxm.training.objective import LossSettings, Objective


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
    """Trains `encoder`; parameters that `freeze` froze keep out of checkpoints, since the base has them. Batches in
    several parts (`chunk` of the data) go through cached gradients, which `cached` announces."""

    def __init__(
        self,
        encoder: Encoder,
        loss: LossSettings,
        optimizer: OptimizerSettings,
        steps: int,
        trunk: Trunk | None = None,
        gather: bool = True,
        cached: bool = False,
        gradient_clip: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.objective = Objective(loss, encoder.pooling, gather)
        self.optimizer_settings, self.steps = optimizer, steps
        # With cached gradients a step goes backward once for every part, and Lightning leaves clipping to us.
        self.automatic_optimization = not cached
        self.gradient_clip = gradient_clip
        # In a tuple, so that nn.Module does not register the trunk's own encoder a second time.
        self._trunk = (trunk,)
        self.data: RetrievalData | None = None
        """Told how many samples are done; a resumed run starts behind them."""

    def vectors(self, side: Side) -> Vectors:
        """Vectors with gradient of a side in one part, in the texts' order."""
        (part,), trunk = side.parts, self._trunk[0]
        packed = part.to(self.device)
        if trunk is None:
            return self.encoder(packed)
        return self.encoder(packed, trunk.states(side.ids, side.adapters).to(self.device), trunk.depth)

    def scores(self, batch: Batch) -> Tensor:
        """Scores of all queries against all passages of the batch, [B, C]."""
        return self.objective.scores(self.vectors(batch.queries), self.vectors(batch.passages))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the losses; each is logged on its own too."""
        if self.automatic_optimization:
            found = self.objective.losses(self.vectors(batch.queries), self.vectors(batch.passages), batch)
        else:
            found = self._cached_step(batch)
        shared = self.trainer.world_size > 1
        parts = {f"train/{name}": value.detach() for name, value in found.items() if name != "loss"}
        self.log_dict(parts, sync_dist=shared)
        self.log("train/loss", found["loss"].detach(), prog_bar=True, sync_dist=shared)
        # Counted here and not when the batch ends: callbacks, and with them the checkpoint, come before that hook.
        if self.data is not None:
            self.data.samples_done += self.data.batch_size
        return found["loss"]

    def _cached_step(self, batch: Batch) -> dict[str, Tensor]:
        """A whole optimiser step with cached gradients."""
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        pieces = [*batch.queries.pieces(), *batch.passages.pieces()]
        cut = len(batch.queries.parts)
        found: dict[str, Tensor] = {}

        def loss(parts: list[Vectors]) -> Tensor:
            found.update(self.objective.losses(joined(parts[:cut]), joined(parts[cut:]), batch))
            return found["loss"]

        cached_step(self.vectors, pieces, loss)
        average_gradients(self.encoder.parameters())
        if self.gradient_clip:
            self.clip_gradients(optimizer, self.gradient_clip, "norm")  # type: ignore[arg-type]
        optimizer.step()  # type: ignore[union-attr, call-arg]
        optimizer.zero_grad()  # type: ignore[union-attr]
        schedule.step()  # type: ignore[union-attr, call-arg]
        return {name: value.detach() for name, value in found.items()}

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
        for name, parameter in self.encoder.named_parameters():
            if parameter.requires_grad:
                lr = s.head_lr if name.startswith("linear.") and s.head_lr is not None else s.lr
                decay = s.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((lr, decay), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()],
            eps=s.eps,
            fused=self._fused() or None,
        )
        warm = max(1, round(s.warmup * self.steps))

        def scale(step: int) -> float:
            return min((step + 1) / warm, max(0.0, (self.steps - step) / max(1, self.steps - warm)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _fused(self) -> bool:
        """AdamW in one kernel, on the CPU ten times as fast as torch's loop there (118M parameters, one core: 0.12
        against 1.18 s). Not on GPUs, where the default is fast, and not in mixed precision, where Lightning refuses to
        clip for it."""
        trained = [p for p in self.encoder.parameters() if p.requires_grad]
        precision = self._trainer.precision if self._trainer is not None else "32-true"
        return precision == "32-true" and all(p.device.type == "cpu" for p in trained)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen parameters out: they are the base model's, and most of the bytes."""
        trained = {f"encoder.{name}" for name, p in self.encoder.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the frozen parameters back; refuse a checkpoint of another freezing policy."""
        own = self.state_dict()
        trained = {f"encoder.{name}" for name, p in self.encoder.named_parameters() if p.requires_grad}
        if set(checkpoint["state_dict"]) != trained:
            raise UserError("the checkpoint to resume from trained other parameters: resume with the same freeze=")
        checkpoint["state_dict"] = {**own, **checkpoint["state_dict"]}
