"""A small model as it lies on a hub, for the tests of what is fetched of it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

NAME = "owner/small-xm"
LANGUAGES = ["en_XX", "id_ID", "sw_KE", "de_DE"]


def tensors(languages: list[str] = LANGUAGES) -> dict[str, torch.Tensor]:
    """Named as X-MOD's are, with shapes that make neighbours, gaps and pieces."""
    generator = torch.Generator().manual_seed(1)
    found = {"linear.weight": (8, 16), "roberta.embeddings.word_embeddings.weight": (100, 16)}
    for layer in range(2):
        stem = f"roberta.encoder.layer.{layer}.output"
        found |= {f"{stem}.dense.weight": (16, 16), f"{stem}.LayerNorm.bias": (16,)}
        for lang in languages:
            for part, shape in (("dense1", (8, 16)), ("dense2", (16, 8))):
                found[f"{stem}.adapter_modules.{lang}.{part}.weight"] = shape
                found[f"{stem}.adapter_modules.{lang}.{part}.bias"] = shape[:1]
    return {name: torch.randn(shape, generator=generator) for name, shape in found.items()}


def files(tmp: Path, **more: bytes) -> dict[str, bytes]:
    save_file(tensors(), str(tmp / "made.safetensors"), metadata={"format": "pt"})
    config = {
        "model_type": "xmod",
        "languages": LANGUAGES,
        "default_language": "de_DE",
        "architectures": ["HF_ColBERT"],
    }
    found = {
        "config.json": json.dumps(config, indent=2).replace("\n", "\r\n").encode(),
        "artifact.metadata": b'{"dim": 8}',
        "tokenizer.json": b'{"version": "1.0"}',
        "model.safetensors": (tmp / "made.safetensors").read_bytes(),
        "pytorch_model.bin": b"pickle",
        "custom.py": b"raise SystemExit",
        "README.md": b"# a model",
        "onnx/model.safetensors": b"no",
        "1_Dense/config.json": b"{}",
        "../escape.json": b"{}",
    }
    return {**found, **more}
