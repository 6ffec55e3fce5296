"""The encoder against transformers' XmodModel, at the real shape of xmod-base with its 81 adapters.

    make bench-encoder            # CPU: about four minutes and 9 GB; on a machine with a GPU also there

Weights are random (speed does not depend on them) and shared by both models; values are compared first. Ratios above
1 mean that ours is faster. Lengths "as in MS MARCO": log-normal with mean 77 and 95th percentile 150, cut at 256.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from memory import peak_bytes
from record import row, side_by_side, write
from safetensors.torch import save_file
from torch import Tensor
from transformers import XmodConfig as TheirConfig
from transformers import XmodModel

from colbertxm.languages import ADAPTERS
from colbertxm.model.packing import pack
from colbertxm.model.weights import read_xmod
from colbertxm.model.xmod import Xmod, XmodConfig

SHAPE: dict[str, Any] = dict(
    vocab_size=250_002, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
    max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5,
)  # fmt: skip


def models(device: str) -> tuple[Xmod, XmodModel]:
    """Ours and theirs on the same tensors."""
    config = TheirConfig(
        **SHAPE, languages=list(ADAPTERS), ln_before_adapter=True, adapter_reuse_layer_norm=True,
        adapter_layer_norm=False, adapter_reduction_factor=2,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("meta"):
        theirs = XmodModel(config, add_pooling_layer=False)
        ours = Xmod(XmodConfig(**SHAPE, languages=ADAPTERS))
    theirs.to_empty(device=device)
    for name, parameter in theirs.named_parameters():
        torch.nn.init.ones_(parameter) if "LayerNorm.weight" in name else torch.nn.init.normal_(parameter, std=0.02)
    positions = torch.arange(SHAPE["max_position_embeddings"], device=device)
    theirs.embeddings.position_ids = positions[None]
    theirs.embeddings.token_type_ids = torch.zeros_like(positions)[None]
    ours.load_state_dict(dict(theirs.named_parameters()), assign=True)
    return ours.eval(), theirs.eval()


def passages(count: int, seed: int) -> list[list[int]]:
    """Random token ids, lengths as in MS MARCO."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (torch.randn(count, generator=generator) * 0.44 + 4.247).exp().round().clamp(8, 256).int().tolist()
    return [torch.randint(4, 250_000, (n,), generator=generator).tolist() for n in lengths]


def reference(theirs: XmodModel, ids: Sequence[Sequence[int]], langs: Sequence[str], device: str) -> Callable[[], Any]:
    """A call of transformers' model as one makes it: padded to the longest, one language id a text."""
    longest = max(map(len, ids))
    padded = torch.tensor([[*text, *[1] * (longest - len(text))] for text in ids], device=device)
    mask = (padded != 1).long()
    lang_ids = torch.tensor([ADAPTERS.index(lang) for lang in langs], device=device)
    return lambda: theirs(input_ids=padded, attention_mask=mask, lang_ids=lang_ids).last_hidden_state[mask.bool()]


def compare(
    ours: Xmod, theirs: XmodModel, ids: list[list[int]], langs: list[str], repeats: int, device: str
) -> dict[str, float]:
    """Median seconds of both, after a look whether they agree."""
    theirs_run = reference(theirs, ids, langs, device)

    def our_run() -> Tensor:
        return ours(pack(ids, langs).to(device))

    with torch.no_grad():
        apart = float((our_run() - theirs_run()).abs().max())
        if apart > 1e-3:
            sys.exit(f"values differ by {apart}: no figure")
        return side_by_side({"ours": our_run, "transformers": theirs_run}, repeats)


def forward_figures(ours: Xmod, theirs: XmodModel, device: str, prefix: str = "") -> list[dict[str, Any]]:
    """Inference: a query, a mixed batch of equal lengths (routing alone), one of real lengths, packing alone."""
    langs16 = [ADAPTERS[i % 16] for i in range(64)]
    query = [torch.randint(4, 250_000, (32,)).tolist()]
    equal = [torch.randint(4, 250_000, (77,)).tolist() for _ in range(64)]
    real = passages(64, 1)
    rows = []

    def add(name: str, seconds: dict[str, float], **settings: Any) -> None:
        slow, fast = seconds.values()
        print(f"{prefix + name:34} {slow / fast:5.2f}x   {slow * 1e3:9.1f} ms -> {fast * 1e3:9.1f} ms", flush=True)
        rows.append(row(prefix + name, slow / fast, "x", seconds=seconds, device=device, **settings))

    def flipped(found: dict[str, float]) -> dict[str, float]:
        return {"transformers": found["transformers"], "ours": found["ours"]}

    add("single_query_speedup", flipped(compare(ours, theirs, query, ["de_DE"], 20, device)), tokens=32)
    add("routing_speedup", flipped(compare(ours, theirs, equal, langs16, 2, device)), passages="64 x 77, 16 languages")
    add("mixed_batch_speedup", flipped(compare(ours, theirs, real, langs16, 2, device)), passages="64, 16 languages")
    longest = max(map(len, real))
    padded = [[*text, *[1] * (longest - len(text))] for text in real]
    one = ["en_XX"] * 64
    with torch.no_grad():
        packing = side_by_side(
            {"padded": lambda: ours(pack(padded, one).to(device)), "packed": lambda: ours(pack(real, one).to(device))},
            2,
        )
    add("packed_speedup", packing, longest=longest, tokens=sum(map(len, real)))
    return rows


def training_figure(ours: Xmod, theirs: XmodModel) -> dict[str, Any]:
    """Forward and backward in bf16 of the paper's batch: 128 queries of 32 tokens, 256 passages. transformers' model
    fails under bf16 autocast, so it runs with weights in bf16, which is no slower."""
    ids = [torch.randint(4, 250_000, (32,)).tolist() for _ in range(128)] + passages(256, 2)
    langs = ["en_XX"] * len(ids)
    batch = pack(ids, langs).to("cuda")
    theirs = theirs.bfloat16()
    call = reference(theirs, ids, langs, "cuda")

    def our_run() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            states = ours(batch)
        states.float().square().mean().backward()

    def their_run() -> None:
        call().float().square().mean().backward()

    seconds = side_by_side({"transformers": their_run, "ours": our_run}, 5)
    ratio = seconds["transformers"] / seconds["ours"]
    print(f"gpu_training_speedup               {ratio:5.2f}x   {seconds}", flush=True)
    return row("gpu_training_speedup", ratio, "x", seconds=seconds, batch="128 x 32 + 256 passages, bf16")


def loading_figures(theirs: XmodModel) -> list[dict[str, Any]]:
    """Write all 81 languages in colbert-xm's layout; a fresh process reads two of them."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        state = {f"roberta.{name}": p.detach().contiguous() for name, p in theirs.named_parameters()}
        state["linear.weight"] = torch.zeros(128, 768)
        save_file(state, folder / "model.safetensors")
        config = {**theirs.config.to_dict(), "model_type": "xmod", "default_language": "en_XX"}
        (folder / "config.json").write_text(json.dumps(config, default=str))
        whole = (folder / "model.safetensors").stat().st_size
        with (folder / "model.safetensors").open("rb") as file:  # out of the page cache, so that reading is reading
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found = json.loads(subprocess.check_output([sys.executable, __file__, "load", str(folder)]))
    print(f"two languages: {found['bytes'] / 1e9:.2f} GB of {whole / 1e9:.2f} GB read from disk, "
          f"{found['seconds']:.1f} s, "
          f"peak memory {found['peak'] / 1e9:.2f} GB (before: {found['before'] / 1e9:.2f})")  # fmt: skip
    return [
        row("two_languages_bytes_read", found["bytes"], "B", whole=whole, seconds=found["seconds"]),
        row("two_languages_peak_memory", found["peak"], "B", before=found["before"]),
    ]


def load(folder: Path) -> None:
    """In a process of its own: read two languages; bytes from disk and peak memory as the kernel counts them."""
    import time

    def from_disk() -> int:
        return int(Path("/proc/self/io").read_text().split("read_bytes: ")[1].split()[0])

    before, bytes_before, started = peak_bytes(), from_disk(), time.perf_counter()
    xmod, _ = read_xmod(folder, ["en_XX", "sw_KE"], ["linear.weight"])
    parameters = sum(p.numel() for p in xmod.parameters())
    seconds = time.perf_counter() - started
    found = {"bytes": from_disk() - bytes_before, "peak": peak_bytes(), "before": before, "seconds": seconds}
    print(json.dumps({**found, "parameters": parameters}))


def main() -> None:
    """All figures of this machine."""
    if sys.argv[1:2] == ["load"]:
        return load(Path(sys.argv[2]))
    ours, theirs = models("cpu")
    rows = forward_figures(ours, theirs, "cpu") + loading_figures(theirs)
    if torch.cuda.is_available():
        ours, theirs = models("cuda")
        rows += forward_figures(ours, theirs, "cuda", "gpu_")
        rows.append(training_figure(ours, theirs))
    write("encoder", rows)


if __name__ == "__main__":
    main()
