"""Cached gradients: contrastive batches of any size in the memory of a chunk (GradCache, Gao et al. 2021, arXiv
2101.06983).

    >>> loss = cached_step(encode, chunks, lambda vectors: paper_loss(scores_of(vectors)))
    >>> optimizer.step()

The loss needs the vectors of all texts at once, but not their activations. So every chunk is encoded twice: first
without a graph, for the vectors alone; then, when the loss has told the gradient of each vector, again with a graph,
to carry that gradient on to the parameters. The sum over chunks is the gradient of the whole batch, exactly. Its price
is a second forward pass; what grows with the batch is the vectors, and what the loss keeps of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

from colbertxm.errors import UserError
from colbertxm.model.encoder import Vectors

Chunk = TypeVar("Chunk")
RandomState = tuple[Tensor, Tensor | None]
"""Of the CPU's generator and the current GPU's."""


def cached_step(
    encode: Callable[[Chunk], Vectors],
    chunks: Sequence[Chunk],
    loss_fn: Callable[[list[Vectors]], Tensor],
    *,
    backward: Callable[[Tensor], None] = Tensor.backward,
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Tensor:
    """Add the gradient of `loss_fn([encode(chunk) for chunk in chunks])` to the parameters' `.grad`; the loss comes
    back detached. Queries and passages are chunks alike, so one encoder serves both; `encode` draws the same
    dropout both times. Chunks that the loss does not use are encoded once.

    `backward` starts the loss's backward pass (`manual_backward`, or with a GradScaler
    `lambda loss: scaler.scale(loss).backward()`: the scale goes with the vectors' gradients). Under DDP
    `no_sync=model.no_sync` averages over ranks once, with the last chunk. Parameters that `loss_fn` has of its own get
    their gradient too. Raises UserError where no chunk leads to a trainable parameter."""
    if not chunks:
        raise UserError("a step of cached gradients needs at least one chunk")
    states: list[RandomState] = []
    leaves: list[Vectors] = []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random_state())
            vectors = encode(chunk)
            leaves.append(Vectors(vectors.values.detach().requires_grad_(), vectors.offsets))
    # Before pytorch pull request 165068 autocast kept weights that it had cast without a graph for passes with one.
    torch.clear_autocast_cache()
    with no_sync():
        loss = loss_fn(leaves)
        backward(loss)
    used = [i for i, leaf in enumerate(leaves) if leaf.values.grad is not None]
    trained = False
    for i in used:
        with nullcontext() if i == used[-1] else no_sync():
            trained |= _carry_on(encode, chunks[i], leaves[i].values.grad, states[i])
    if not trained:
        raise UserError("the loss leads to no trainable parameter of the encoder: all are frozen, or no vector counts")
    return loss.detach()


def _carry_on(encode: Callable[[Chunk], Vectors], chunk: Chunk, grad: Tensor | None, state: RandomState) -> bool:
    """Encode a chunk as the first time, and take the gradient of its vectors on to the parameters; False where
    nothing in the chunk's encoding is trained. What is drawn later is not changed by the repetition."""
    cpu, cuda = state
    with torch.random.fork_rng(devices=[] if cuda is None else [torch.cuda.current_device()]):
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
        values = encode(chunk).values
    if not values.requires_grad:
        return False
    with torch.autocast(values.device.type, enabled=False):  # whose casts are for the forward pass alone
        torch.autograd.backward(values, grad)
    return True


def _random_state() -> RandomState:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
