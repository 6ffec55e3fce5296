"""The LightningModule: encoder, loss, optimiser; validation by exact search on small pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from colbertxm.data.collection import Collection
from colbertxm.errors import UserError
from colbertxm.model.encoder import Encoder, Vectors, joined
from colbertxm.model.trunk import Trunk
from colbertxm.retriever import Retriever
from colbertxm.training.batches import Batch, RetrievalData, Side
from colbertxm.training.gather import average_gradients, ranks_together
from colbertxm.training.gradcache import cached_step
from colbertxm.training.objective import LossSettings, Objective
from colbertxm.training.validation import WRONG_A_POOL, pool_name, validate


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


def linear_schedule(optimizer: torch.optim.Optimizer, warmup: float, steps: int) -> dict[str, Any]:
    """The optimiser for Lightning, its rates rising over a share `warmup` of the steps and falling to zero."""
    warm = max(1, round(warmup * steps))

    def scale(step: int) -> float:
        return min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


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
        # Noted before FSDP or a compiler wraps modules and changes names.
        self.trained = frozenset(f"encoder.{name}" for name, p in encoder.named_parameters() if p.requires_grad)
        # A shard of a matrix is flat, and still a matrix's.
        self.matrices = {name for name, p in encoder.named_parameters() if p.ndim > 1}
        # Checkpoints have no frozen parameters; `on_load_checkpoint` compares the names of the others.
        self.strict_loading = False
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
        shared = ranks_together()
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

    def validation_step(self, pool: Collection, batch_idx: int) -> dict[str, Any]:
        """Exact search in the pool, see `validation.py`. Returns a sample of `wrong` rankings for the logger."""
        wrong = WRONG_A_POOL if self.trainer.logger else 0
        found = validate(Retriever(self.encoder, trunk=self._trunk[0]), pool, wrong)
        for name, value in found.figures.items():
            self.log(f"val/{name}/{pool_name(pool)}", value, batch_size=1, on_epoch=True)
            self.log(f"val/{name}", value, batch_size=1, on_epoch=True)  # Lightning's mean over the epoch: over pools
        return {"wrong": found.wrong}

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
            fused=self._fused() or None,
        )
        return linear_schedule(optimizer, s.warmup, self.steps)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """By the norm over all ranks' shards where FSDP has them; Lightning refuses to there."""
        sharded: Any = self.trainer.strategy.model
        if hasattr(sharded, "clip_grad_norm_") and gradient_clip_val:
            sharded.clip_grad_norm_(gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _fused(self) -> bool:
        """AdamW in one kernel, on the CPU ten times as fast as torch's loop there (118M parameters, one core: 0.12
        against 1.18 s). Not on GPUs, where the default is fast, and not in mixed precision, where Lightning refuses to
        clip for it."""
        trained = [p for p in self.encoder.parameters() if p.requires_grad]
        precision = self._trainer.precision if self._trainer is not None else "32-true"
        return precision == "32-true" and all(p.device.type == "cpu" for p in trained)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen parameters out: they are the base model's, and most of the bytes."""
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in self.trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another freezing policy; frozen parameters keep the base's values."""
        if set(checkpoint["state_dict"]) != self.trained:
            raise UserError("the checkpoint to resume from trained other parameters: resume with the same freeze=")
