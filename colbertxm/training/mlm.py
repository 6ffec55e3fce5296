"""Masked-language modelling as a LightningModule: one part of a `Guesser` is trained, the rest is frozen.

X-MOD's recipe for a language that comes later (arXiv 2205.06266): the adapter of one language is trained on that
language's text, everything else stays. What differs here is the budget, minutes instead of GPU days, and that a base
without a head gets one first. The encoder is frozen then, so its states at hidden places are computed once, and the
head makes many cheap steps on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colbertxm.errors import UserError
from colbertxm.model.mlm import Guesser
from colbertxm.progress import progress
from colbertxm.training.mlm_data import Masking, MlmBatch, MlmData, States
from colbertxm.training.module import linear_schedule


@dataclass(frozen=True)
class MlmSettings:
    """How long, on what and how; `head_*` where the base has no head."""

    steps: int = 60
    """Of each adapter, `batch_size` texts each; lengths vary, and nothing is padded."""
    batch_size: int = 40
    lr: float = 1e-3
    head_steps: int = 500
    """Of the head, `head_batch_size` hidden places each, over those of `head_texts` texts of all languages."""
    head_batch_size: int = 256
    head_texts: int = 3000
    head_lr: float = 3e-3
    maxlen: int = 128
    warmup: float = 0.1
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    vocabulary: str = "corpus"
    """Pieces among which a hidden one is sought: `corpus`, those that occur in the texts at hand, or `full`."""
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
        counts = ("steps", "batch_size", "head_steps", "head_batch_size", "head_texts", "held_out_texts", "log_every")
        for name in counts:
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
    loss, right, pieces = 0.0, 0, 0
    for batch in masking.all_texts():
        logits_MR = guesser(batch.packed.to(guesser.rows_R.device), batch.places_M.to(guesser.rows_R.device)).float()
        rows_M = batch.rows_M.to(logits_MR.device)
        if len(rows_M):
            loss += float(F.cross_entropy(logits_MR, rows_M, reduction="sum"))
            right += int((logits_MR.argmax(1) == rows_M).sum())
            pieces += len(rows_M)
    if not pieces:
        raise UserError("no piece of the held-out texts was chosen to be hidden: raise mlm.held_out_texts, or add text")
    return Figures(loss / pieces, right / pieces, pieces)


@torch.no_grad()
def states_of(guesser: Guesser, masking: Masking) -> States:
    """What the frozen encoder makes of all hidden places, once and in a fixed order, so that a resumed run sees the
    same to the last bit."""
    advance = progress(len(masking.sentences), "texts read for the head")
    found = []
    for batch in masking.all_texts():
        packed = batch.packed.to(guesser.rows_R.device)
        found.append((guesser.states(packed, batch.places_M.to(guesser.rows_R.device)).cpu(), batch.rows_M))
        advance(len(batch.packed.lengths))
    return States(torch.cat([states for states, _ in found]), torch.cat([rows for _, rows in found]))


Loss = Callable[[Guesser, Any], tuple[Tensor, int]]
"""(what guesses, batch) -> the summed cross-entropy, and over how many pieces."""


def loss_of_texts(guesser: Guesser, batch: MlmBatch) -> tuple[Tensor, int]:
    """An adapter's: through the encoder."""
    device = guesser.rows_R.device
    logits_MR = guesser(batch.packed.to(device), batch.places_M.to(device))
    return F.cross_entropy(logits_MR.float(), batch.rows_M.to(device), reduction="sum"), len(batch.rows_M)


def loss_of_states(guesser: Guesser, batch: States) -> tuple[Tensor, int]:
    """The head's: from states that were computed before."""
    device = guesser.rows_R.device
    logits_MR = guesser.guess(batch.states_MH.to(device))
    return F.cross_entropy(logits_MR.float(), batch.rows_M.to(device), reduction="sum"), len(batch.rows_M)


class MlmModule(L.LightningModule):
    """Trains what `choose` chose. `key` says which run this is: a resume point of another one is refused."""

    def __init__(
        self, guesser: Guesser, data: MlmData, loss: Loss, settings: MlmSettings, lr: float, stage: str, key: str
    ) -> None:
        super().__init__()
        self.guesser, self.loss, self.settings = guesser, loss, settings
        self.lr, self.stage, self.key = lr, stage, key
        self.data = data
        self.trained = frozenset(f"guesser.{name}" for name, p in guesser.named_parameters() if p.requires_grad)
        # Checkpoints have no frozen parameters; `on_load_checkpoint` compares the names of the others.
        self.strict_loading = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean cross-entropy over the hidden pieces of the batch; 0 where none was drawn, and not the NaN of a mean."""
        total, pieces = self.loss(self.guesser, batch)
        loss = total / max(1, pieces)
        self.log("train/loss", loss.detach(), logger=False, batch_size=1)  # the terminal's
        self.log(f"{self.stage}/loss", loss.detach(), batch_size=1)
        # Counted here and not when the batch ends: callbacks, and with them the checkpoint, come before that hook.
        self.data.samples_done += self.data.batch_size
        return loss

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Nothing to move here: the loss moves what it needs, without waiting."""
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
