"""Languages of a model that is there already: add one, keep some.

X-MOD's point is that a language can come later: its adapters are all that is new, and training them moves nothing
that the other languages use (Pfeiffer et al., 2022, arXiv 2205.06266, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from colbertxm.errors import UserError, nearest
from colbertxm.languages import ADAPTERS, language
from colbertxm.model.xmod import Adapter, Layer, Output, Xmod

IDENTITY, RANDOM = "identity", "random"


def name_of(spelling: str) -> str:
    """The adapter's name of a language: X-MOD's own, or `yo_XX` for one that X-MOD never had. Raises UserError for
    an unknown language."""
    found = language(spelling)
    return found.xmod or f"{found.code}_XX"


def later(names: Sequence[str]) -> dict[str, str]:
    """Adapters among `names` that X-MOD never had, by the code of their language."""
    return {name.removesuffix("_XX"): name for name in names if name not in ADAPTERS}


@torch.no_grad()
def add_adapter(xmod: Xmod, name: str, like: str = IDENTITY, seed: int = 0) -> None:
    """Give every layer an adapter `name`, in place: a copy of the adapter `like`, or, with `identity`, one whose
    up-projection is zero, so that until it is trained the language is read as if there were no adapter. Raises
    UserError where `name` is there already or `like` is not."""
    if name in xmod.config.languages:
        raise UserError(f"the model has an adapter {name} already: add another, or train this one")
    if like != IDENTITY and like not in xmod.config.languages:
        known = (*xmod.config.languages, IDENTITY)
        raise UserError(f"no adapter {like} to copy for {name}{nearest(like, known)}: there are {', '.join(known)}")
    generator = torch.Generator().manual_seed(seed)
    for output in _outputs(xmod):
        fresh = Adapter(xmod.config)
        if like == IDENTITY:
            start_as_identity(fresh, generator)
        else:
            fresh.load_state_dict(output.adapter_modules[like].state_dict())
        output.adapter_modules[name] = fresh.to(output.dense.weight.device, output.dense.weight.dtype).train(
            xmod.training
        )
    xmod.config = replace(xmod.config, languages=(*xmod.config.languages, name))


def start_as_identity(adapter: Adapter, generator: torch.Generator) -> None:
    """Give an adapter, which may be without memory, a small random down-projection and a zero up-projection."""
    shape = adapter.dense1.weight.shape
    adapter.dense1.weight = nn.Parameter(torch.randn(shape, generator=generator) * 0.02)
    adapter.dense1.bias = nn.Parameter(torch.zeros(shape[0]))
    adapter.dense2.weight = nn.Parameter(torch.zeros(shape[1], shape[0]))
    adapter.dense2.bias = nn.Parameter(torch.zeros(shape[1]))


@torch.no_grad()
def restart_adapter(xmod: Xmod, name: str, like: str, seed: int) -> None:
    """Have the adapters `name`, in place, start anew: as `identity`, at `random` (normal, 0.02, as X-MOD begins), or as
    a copy of the adapter `like`. Raises UserError where the model has not both."""
    xmod.check_adapters({name} if like in (IDENTITY, RANDOM) else {name, like})
    generator = torch.Generator().manual_seed(seed)
    for output in _outputs(xmod):
        adapter = output.adapter_modules[name]
        assert isinstance(adapter, Adapter)
        if like not in (IDENTITY, RANDOM):
            adapter.load_state_dict(output.adapter_modules[like].state_dict())
            continue
        start_as_identity(adapter, generator)
        if like == RANDOM:
            adapter.dense2.weight.copy_(torch.randn(adapter.dense2.weight.shape, generator=generator) * 0.02)


def keep_adapters(xmod: Xmod, names: Sequence[str]) -> None:
    """Drop all adapters but these, in place. Raises UserError for one that the model has not, or for none at all."""
    xmod.check_adapters(set(names))
    if not names:
        raise UserError("a model needs at least one adapter: name the languages to keep")
    kept = tuple(name for name in xmod.config.languages if name in set(names))
    for output in _outputs(xmod):
        for name in set(xmod.config.languages) - set(kept):
            del output.adapter_modules[name]
    xmod.config = replace(xmod.config, languages=kept)


def _outputs(xmod: Xmod) -> list[Output]:
    layers = [layer for layer in xmod.encoder.layer if isinstance(layer, Layer)]
    return [layer.output for layer in layers]
