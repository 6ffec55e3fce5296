"""One GPU, the paper's step: xmod-base's shape, 128 queries, a hard negative each, MS MARCO's lengths, bf16.

Weights are random (speed does not depend on them). A step is what `RetrieverModule` computes: both losses, backward,
clipping, AdamW over what the paper trains. Told are seconds a step; the share of the measured ceiling, which is what
one large bf16 product reaches on the same device; and where the device's time goes, by kind of kernel.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import row
from colbertxm.model.encoder import Encoder
from colbertxm.model.freeze import freeze
from colbertxm.model.packing import pack
from colbertxm.model.tokens import Tokens, TokenSettings
from colbertxm.model.xmod import Xmod, XmodConfig
from colbertxm.training.losses import paper_loss
from colbertxm.training.module import OptimizerSettings, RetrieverModule
from colbertxm.training.objective import LossSettings

TARGET = 0.06
"""Seconds a step on an H100."""


@dataclass(frozen=True)
class Shape:
    """Of the model and of the batch."""

    vocabulary: int = 250_002
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    inner: int = 3072
    batch: int = 128
    query_tokens: int = 32
    passage_tokens: int = 77
    product: int = 8192
    """Rows and columns of the product that measures the ceiling."""


KINDS = (
    ("attention", r"flash|fmha|attention|cudnn.*sdpa"),
    ("matrix products", r"gemm|cutlass|xmma|nvjet|sm\d+_|aten::(mm|addmm|bmm)|mkl|cublas"),
    ("optimiser and clipping", r"adam|multi_tensor|foreach|optimizer|lerp|addcdiv|addcmul|norm_kernel|linalg"),
    ("LayerNorm, GELU", r"layer_?norm|gelu"),
    ("MaxSim, gather and scatter", r"argmax|index|gather|scatter|embedding|sort|radix|searchsorted|segment|reduce"),
    ("copies and casts", r"copy|memcpy|memset|cast|to_copy|fill|zero"),
)


def build(shape: Shape, device: str) -> RetrieverModule:
    """The module with random weights; what the paper freezes is frozen."""
    vocabulary: Any = [(word, 0.0) for word in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    config = XmodConfig(
        shape.vocabulary, shape.hidden, shape.layers, shape.heads, shape.inner, max_position_embeddings=514
    )
    torch.manual_seed(0)
    with torch.device(device):
        encoder = Encoder(Xmod(config), Tokens(Tokenizer(models.Unigram(vocabulary, 3)), TokenSettings()))
    for name, parameter in encoder.named_parameters():
        torch.nn.init.ones_(parameter) if "LayerNorm.weight" in name else torch.nn.init.normal_(parameter, std=0.02)
    freeze(encoder, "paper")
    return RetrieverModule(encoder.train(), LossSettings(), OptimizerSettings(), steps=1000)


def batch_of(shape: Shape, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Random ids of queries and passages, passages' lengths as in MS MARCO (log-normal, 95th percentile 150)."""
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(np.log(shape.passage_tokens) - 0.5 * 0.44**2, 0.44, 2 * shape.batch)
    queries = rng.integers(5, shape.vocabulary, (shape.batch, shape.query_tokens)).tolist()
    return queries, [rng.integers(5, shape.vocabulary, n).tolist() for n in lengths.round().astype(int).clip(8, 256)]


def stepper(shape: Shape, device: str) -> Callable[[], None]:
    """A function that takes one training step; the batches were packed before, as loader processes do it."""
    module = build(shape, device)
    encoder = module.encoder
    optimizer = module.configure_optimizers()["optimizer"]
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    packed = [
        [pack(ids, ["en_XX"] * len(ids)) for ids in batch_of(shape, seed)] for seed in range(4)
    ]  # fmt: skip
    if device != "cpu":
        packed = [[side.pinned() for side in sides] for sides in packed]
    turn = 0

    def step() -> None:
        nonlocal turn
        queries, passages = (side.to(device) for side in packed[turn % len(packed)])
        turn += 1
        with torch.autocast(device, torch.bfloat16):
            q, p = encoder(queries), encoder(passages)
            loss = paper_loss(module.objective.scores(q, p))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 2.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], Any], device: str, repeats: int) -> float:
    """Mean seconds of a run after two to warm up; the host may run ahead within the repeats, as in training."""
    for _ in range(2):
        run()
    wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    wait(device)
    return (time.perf_counter() - started) / repeats


def ceiling(shape: Shape, device: str, repeats: int) -> float:
    """Floating-point operations per second of one large bf16 product."""
    n = shape.product
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / seconds_of(lambda: a @ b, device, repeats)


def kinds(step: Callable[[], None], device: str, repeats: int) -> dict[str, float]:
    """Seconds a step of the device's own time by kind of kernel (on the CPU: of operation), and `idle` beside them."""
    gpu = device != "cpu"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as found:
        started = time.perf_counter()
        for _ in range(repeats):
            step()
        wait(device)
        whole = (time.perf_counter() - started) / repeats
    taken: dict[str, float] = {}
    for event in found.key_averages():
        on_device = getattr(event, "device_type", None) == torch.autograd.DeviceType.CUDA
        if gpu and not on_device:
            continue
        micro = event.self_device_time_total if gpu else event.self_cpu_time_total
        kind = kind_of(event.key)
        taken[kind] = taken.get(kind, 0.0) + micro / 1e6 / repeats
    taken["idle"] = max(0.0, whole - sum(taken.values()))
    return dict(sorted(taken.items(), key=lambda item: -item[1]))


def kind_of(kernel: str) -> str:
    """The kind of a kernel or operation by its name."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, kernel, re.IGNORECASE)), "other elementwise")


def measure(shape: Shape, device: str, repeats: int) -> dict[str, Any]:
    """Seconds a step, its operations, the ceiling, the share of it that a step reaches, and kinds of kernels."""
    step = stepper(shape, device)
    step()
    with FlopCounterMode(display=False) as counter:
        step()
    seconds = seconds_of(step, device, repeats)
    reached, best = counter.get_total_flops() / seconds, ceiling(shape, device, repeats)
    return {
        "seconds": seconds, "operations": counter.get_total_flops(), "ceiling": best, "share": reached / best,
        "kinds": kinds(step, device, min(repeats, 5)),
    }  # fmt: skip


def report(found: dict[str, Any], shape: Shape, name: str) -> list[dict[str, Any]]:
    """Print what was measured, and its rows."""
    print(
        f"\nGPU ({name}): {found['seconds']:.4f} s a step of {shape.batch} triples (target {TARGET}), "
        f"{found['operations'] / 1e12:.1f} T operations; measured ceiling {found['ceiling'] / 1e12:.0f} T/s, share "
        f"{found['share']:.1%}"
    )
    whole = sum(found["kinds"].values())
    for kind, seconds in found["kinds"].items():
        print(f"  {kind:28}{seconds * 1e3:8.2f} ms {seconds / whole:6.1%}")
    settings = {"device": name, "batch": shape.batch, "precision": "bf16"}
    return [
        row("gpu_seconds_per_step", found["seconds"], "s", **settings, target=TARGET, kinds=found["kinds"]),
        row("gpu_share_of_ceiling", found["share"], "", **settings, ceiling=found["ceiling"]),
    ]


def rows(repeats: int = 30) -> list[dict[str, Any]]:
    """The figures where there is a GPU; else a line that says that there is none."""
    if not torch.cuda.is_available():
        print("\nGPU: not run: no GPU")
        return []
    shape = Shape()
    return report(measure(shape, "cuda", repeats), shape, torch.cuda.get_device_name())
