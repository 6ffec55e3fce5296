"""Masked-language modelling as a LightningModule: one part of a `Guesser` is trained, the rest is frozen.

X-MOD's recipe for a language that comes later (arXiv 2205.06266): the adapter of one language is trained on that
language's text, everything else stays. What differs here is the budget, minutes instead of GPU days, and that a
base without a head gets one first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from colbertxm.errors import UserError
from colbertxm.model.mlm import Guesser
from colbertxm.training.mlm_data import Masking, MlmBatch, MlmData
from colbertxm.training.module import linear_schedule


@dataclass(frozen=True)
class MlmSettings:
    """How long, on what and how. `lr` and `steps` are an adapter's, `head_lr` and `head_steps` those of the head where
    the base has none."""

    steps: int = 60
    head_steps: int = 60
    batch_size: int = 40
    """Texts in a batch; lengths vary, and nothing is padded."""
    maxlen: int = 128
    lr: float = 1e-3
    head_lr: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    vocabulary: str = "corpus"
    """Pieces among which a hidden one is sought: `corpus`, those that occur in the texts of this run, or `full`."""
    held_out: float = 0.1
    """Of files; smart_home has development components."""
    held_out_texts: int = 300
    """Measured in each language at most."""
    checkpoint_every: int = 20
    log_every: int = 5
    accelerator: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if self.vocabulary not in ("corpus", "full"):
            raise UserError(f"mlm.vocabulary={self.vocabulary!r} must be corpus or full")
        for name in ("steps", "head_steps", "batch_size", "held_out_texts", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"mlm.{name}={getattr(self, name)} must be 1 or more")
        if self.maxlen < 8:
            raise UserError(f"mlm.maxlen={self.maxlen} leaves no room for text: give at least 8")
        if not 0 < self.held_out < 1:
            raise UserError(f"mlm.held_out={self.held_out} is a share: give one between 0 and 1")


@dataclass(frozen=True)
class Figures:
    """Of hidden pieces: mean cross-entropy in nats, the share guessed right, and how many there were."""

    loss: float
    accuracy: float
    pieces: int


def choose(guesser: Guesser, trained: Iterable[nn.Parameter]) -> None:
    """Train these parameters and no others."""
    guesser.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)


def adapter_parameters(guesser: Guesser, name: str) -> list[nn.Parameter]:
    """All of one language's adapters."""
    return [p for _, found, adapter in guesser.xmod.adapters() if found == name for p in adapter.parameters()]


@torch.no_grad()
def measure(guesser: Guesser, masking: Masking) -> Figures:
    """The held-out texts' figures, with the same pieces hidden each time."""
    device = guesser.rows_R.device
    loss, right, pieces = 0.0, 0, 0
    for batch in masking.held_out():
        if len(batch.rows_M):
            found, hits = guesser.loss(batch.packed.to(device), batch.places_M.to(device), batch.rows_M.to(device))
            loss, right, pieces = loss + float(found), right + int(hits), pieces + len(batch.rows_M)
    if not pieces:
        raise UserError("no piece of the held-out texts was chosen to be hidden: raise mlm.held_out_texts, or add text")
    return Figures(loss / pieces, right / pieces, pieces)


class MlmModule(L.LightningModule):
    """Trains what `choose` chose. `key` says which run this is: a resume point of another one is refused."""

    def __init__(self, guesser: Guesser, data: MlmData, settings: MlmSettings, lr: float, stage: str, key: str) -> None:
        super().__init__()
        self.guesser, self.settings, self.lr, self.stage, self.key = guesser, settings, lr, stage, key
        self.data = data
        self.trained = frozenset(f"guesser.{name}" for name, p in guesser.named_parameters() if p.requires_grad)
        # Checkpoints have no frozen parameters; `on_load_checkpoint` compares the names of the others.
        self.strict_loading = False

    def training_step(self, batch: MlmBatch, batch_idx: int) -> Tensor:
        """Mean cross-entropy over the hidden pieces of the batch."""
        device = self.device
        total, _ = self.guesser.loss(batch.packed.to(device), batch.places_M.to(device), batch.rows_M.to(device))
        loss = total / max(1, len(batch.rows_M))
        self.log("train/loss", loss.detach(), logger=False, batch_size=1)  # the terminal's
        self.log(f"{self.stage}/loss", loss.detach(), batch_size=1)
        # Counted here and not when the batch ends: callbacks, and with them the checkpoint, come before that hook.
        self.data.samples_done += self.data.batch_size
        return loss

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing to move here: `training_step` moves what it needs, without waiting."""
        return batch

    def configure_optimizers(self) -> Any:
        """AdamW over what is trained; no weight decay on vectors. One kernel on the CPU, as in `module.py`."""
        trained = [p for p in self.guesser.parameters() if p.requires_grad]
        decay = [(self.settings.weight_decay, [p for p in trained if p.ndim > 1])]
        groups = [*decay, (0.0, [p for p in trained if p.ndim == 1])]
        fused = self.settings.precision == "32-true" and all(p.device.type == "cpu" for p in trained)
        optimizer = torch.optim.AdamW(
            [{"params": group, "lr": self.lr, "weight_decay": share} for share, group in groups if group],
            fused=fused or None,
        )
        return linear_schedule(optimizer, self.settings.warmup, self.data.steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Only what is trained, and which run it is of."""
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in self.trained}
        checkpoint["mlm_key"] = self.key

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a resume point of another run."""
        if checkpoint.get("mlm_key") != self.key or set(checkpoint["state_dict"]) != self.trained:
            raise UserError(
                f"the resume point of {self.stage} was made with other settings, text or base: repeat that command, or "
                "give output=ANOTHER"
            )
