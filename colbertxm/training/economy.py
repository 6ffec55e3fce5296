"""What a run saves memory or time by without another result: activations computed twice, compiled layers."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import TYPE_CHECKING

import torch

from colbertxm.errors import UserError
from colbertxm.model.encoder import Encoder
from colbertxm.model.lora import has_lora

if TYPE_CHECKING:
    from colbertxm.training.fit import TrainerSettings


def economise(encoder: Encoder, trainer: TrainerSettings) -> None:
    """Set up `encoder` in place, before a strategy wraps it: what is compiled are its own layers, whose names and so a
    checkpoint's keys stay. Raises UserError for settings that do not go together, and where nothing can compile."""
    if has_lora(encoder) and "fsdp" in trainer.strategy:
        raise UserError(
            f"trainer.strategy={trainer.strategy} does not go with LoRA, whose merging needs whole weights: "
            "choose ddp, LoRA needs little memory"
        )
    encoder.xmod.checkpoint_activations = trainer.checkpoint_activations
    if trainer.compile:
        _check_compiler(trainer.accelerator)
        encoder.compile()


def _check_compiler(accelerator: str) -> None:
    """The first step would say the same in fifty lines."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        if importlib.util.find_spec("triton") is None:
            raise UserError("trainer.compile=true needs triton on a GPU: pip install triton, or compile=false")
    elif not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        raise UserError("trainer.compile=true needs a C++ compiler: install g++, set CXX, or trainer.compile=false")
