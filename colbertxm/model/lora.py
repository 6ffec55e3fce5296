"""LoRA (arXiv 2106.09685): instead of a weight W train a product of two thin matrices beside it, W + alpha/rank * B A.

The freezing policy still says where a run trains, LoRA says how: the matrices lie beside the linear modules that the
policy would train, and of X-MOD they alone are trained (the head's projection is, as ever). So what lies below the
lowest of them is frozen, a trunk may hold it, and `freeze=top_k_layers` with LoRA keeps its cache. B starts at zero:
before the first step the model is the base to the last bit.

peft makes them, in place, so that our classes and names stay. After training `merge` adds the products to the plain
weights and takes peft's modules out again: a saved model is an ordinary one, read without peft.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from colbertxm.errors import MissingExtra, UserError, nearest
from colbertxm.model.encoder import Encoder
from colbertxm.model.xmod import Linear, Xmod

MARK = ".lora_"
"""In the names of LoRA's parameters, and of no others."""


@dataclass(frozen=True)
class LoraSettings:
    """Which low-rank products are trained."""

    rank: int = 0
    """Columns of B and rows of A; 0 = no LoRA."""
    alpha: float = 16.0
    """The product is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of a product's inputs that a training step drops."""
    targets: Sequence[str] = ("query", "value")
    """Ends of the names of X-MOD's linear modules: `query`, `attention.output.dense`, `dense1` ..."""


def add_lora(encoder: Encoder, settings: LoraSettings, depth: int, seed: int) -> int:
    """Put LoRA beside each linear module that is named in `settings.targets` and trained as `freeze` left it, and
    freeze the rest of X-MOD. `depth` is what `freeze` returned; returns the same for what is trained now: the number of
    lowest layers without LoRA. Nothing happens with rank 0. Raises UserError for settings that do not fit, and where
    peft is not installed."""
    _check(settings)
    if settings.rank == 0:
        return depth
    chosen = _chosen(encoder.xmod, settings)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MissingExtra("peft", "lora") from None
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a factor: nothing asks that it be whole
        lora_dropout=settings.dropout,
        target_modules=chosen,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):  # the same A whatever was drawn before
        torch.manual_seed(seed)
        inject_adapter_in_model(config, encoder.xmod)
    encoder.train(encoder.training)  # new modules start in train mode, whatever the encoder is in
    return min(int(name.split(".")[2]) for name in chosen)


def has_lora(module: nn.Module) -> bool:
    """Whether `add_lora` changed it and `merge` has not yet changed it back."""
    return any(MARK in name for name, _ in module.named_parameters())


@torch.no_grad()
def merge(encoder: Encoder) -> Encoder:
    """Add each product to its weight, in place, and take LoRA out: the same vectors up to rounding, from plain modules.
    An encoder without LoRA comes back as it is. Raises UserError where training left a number that is not finite."""
    if not has_lora(encoder):
        return encoder
    from peft.tuners.lora import LoraLayer

    for name, module in list(encoder.xmod.named_modules()):
        if isinstance(module, LoraLayer):
            try:
                module.merge(safe_merge=True)
            except ValueError:
                raise UserError(f"LoRA of {name} is not finite: train again with a lower optimizer.lr") from None
            parent, _, last = name.rpartition(".")
            setattr(encoder.xmod.get_submodule(parent), last, module.get_base_layer())
    del encoder.xmod.peft_config
    return encoder


def _check(settings: LoraSettings) -> None:
    if settings.rank < 0:
        raise UserError(f"lora.rank={settings.rank} must be 1 or more, or 0 for none")
    if settings.alpha <= 0:
        raise UserError(f"lora.alpha={settings.alpha} must be above 0")
    if not 0 <= settings.dropout < 1:
        raise UserError(f"lora.dropout={settings.dropout} must lie between 0 and 1, 1 excluded")


def _chosen(xmod: Xmod, settings: LoraSettings) -> list[str]:
    """Full names of the modules that get LoRA."""
    linear = {name: module for name, module in xmod.named_modules() if isinstance(module, Linear)}
    ends = {name.rpartition(".")[2] for name in linear}
    chosen: dict[str, None] = {}
    for target in settings.targets:
        named = [name for name in linear if name.endswith(f".{target}")]
        if not named:
            raise UserError(
                f"lora.targets: X-MOD has no linear module {target!r}{nearest(target, ends)}; "
                f"there are {', '.join(sorted(ends))}"
            )
        chosen |= dict.fromkeys(name for name in named if linear[name].weight.requires_grad)
    if not chosen:
        raise UserError(
            f"lora.targets={list(settings.targets)} are all frozen by freeze.policy: choose modules that it trains"
        )
    if (room := min(min(linear[name].weight.shape) for name in chosen)) < settings.rank:
        raise UserError(f"lora.rank={settings.rank} is above the {room} of the smallest target: lower it")
    return list(chosen)
