"""An exported language, run by ONNX Runtime: takes the place of `Encoder` in a `Retriever`.

    model.onnx, model.onnx.data   the graph (colbertxm.model.onnx_graph) and its weights
    tokenizer.json
    colbertxm_onnx.json           token settings, pooling, dimensions, the language and its adapter, int8 or not, and
                                  what torch made of a few tokens: by this one sees whether a model is its source

>>> retriever = Retriever(OnnxEncoder(Path("outputs/onnx-de")))
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from colbertxm.errors import MissingExtra, UserError
from colbertxm.languages import language
from colbertxm.model.encoder import Encoder, Pooling, Progress, Vectors, length_batches
from colbertxm.model.formats.files import publishing, write_json
from colbertxm.model.json_files import read_object
from colbertxm.model.onnx_graph import quantised, write_graph
from colbertxm.model.tokens import Kind, Tokenised, Tokens, TokenSettings
from colbertxm.model.trunk import Trunk
from colbertxm.records import Text

GRAPH, SETTINGS = "model.onnx", "colbertxm_onnx.json"
VERSION = 2
PROBE = tuple(range(3, 9))  # token ids that every vocabulary has
PROBE_NUMBERS = 8  # of each vector
PROBE_TOLERANCE = 1e-3  # between machines; another seed of the same training is a hundred times farther away


def write_onnx(folder: Path, encoder: Encoder, lang: str, int8: bool = False) -> Path:
    """Write `encoder`, which has the adapter of `lang` alone. All of it or nothing."""
    about = {
        "format": "colbertxm-onnx", "version": VERSION, "lang": language(lang).code, "adapter": encoder.adapter(lang),
        "pooling": encoder.pooling, "dim": encoder.dim, "int8": int8, "pad_token_id": encoder.xmod.config.pad_token_id,
        "positions": encoder.xmod.config.max_position_embeddings - encoder.xmod.config.pad_token_id - 1,
        "tokens": asdict(encoder.tokens.settings), "probe": probe(encoder, lang),
    }  # fmt: skip
    with publishing(folder) as part:
        if int8:
            with tempfile.TemporaryDirectory(dir=part.parent) as whole:
                write_graph(Path(whole) / GRAPH, encoder)
                quantised(Path(whole) / GRAPH, part / GRAPH)
        else:
            write_graph(part / GRAPH, encoder)
        encoder.tokens.save(part)
        write_json(part / SETTINGS, about)
    return folder


class OnnxEncoder:
    """What a `Retriever` asks of an encoder, for one language. Raises UserError for a folder that is none."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("onnxruntime", "onnx") from None
        if not (folder / SETTINGS).is_file():
            raise UserError(f"{folder} holds no {SETTINGS}: make it with `colbertxm export to=onnx lang=...`")
        about = read_object(folder / SETTINGS)
        if (about.get("format"), about.get("version")) != ("colbertxm-onnx", VERSION):
            raise UserError(f"{folder / SETTINGS} is of another version: export the model again")
        self.lang, self.pooling, self.dim = str(about["lang"]), _pooling(about["pooling"]), int(about["dim"])
        self.int8, self._adapter = bool(about["int8"]), str(about["adapter"])
        self._pad, self._positions = int(about["pad_token_id"]), int(about["positions"])
        self.tokens = Tokens(Tokens.read_tokenizer(folder), TokenSettings.stored(about["tokens"]))
        self._probe = about["probe"]
        self.folder, self.lang_proxy = folder, dict[str, str]()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        # Threads that spin between two queries would take the cores from the search that follows.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(folder / GRAPH), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's errors are of no common type
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"cannot read {folder / GRAPH}: {reason}; export the model again") from None

    @property
    def languages(self) -> list[str]:
        """The one that it reads."""
        return [self.lang]

    def adapter(self, lang: str) -> str:
        """The adapter that reads `lang`. Raises UserError for any language but its own."""
        code = language(lang).code
        if code != self.lang:
            raise UserError(f"this ONNX model reads {self.lang!r} alone, not {code!r}: export to=onnx lang={code}")
        return self._adapter

    def check_languages(self, codes: Sequence[str]) -> None:
        """Raise UserError where it does not read one."""
        for code in codes:
            self.adapter(code)

    def check_source(self, encoder: Encoder) -> None:
        """Raise UserError unless it was exported from `encoder`: the same tokens, and on a few the same vectors."""
        same = (
            self.dim == encoder.dim
            and self.pooling == encoder.pooling
            and self.tokens.settings == encoder.tokens.settings
            and self.lang in encoder.languages
            and encoder.adapter(self.lang) == self._adapter
            and np.allclose(self._probe, probe(encoder, self.lang), rtol=0, atol=PROBE_TOLERANCE)
        )
        if not same:
            raise UserError(f"{self.folder} was not exported from this model: export to=onnx lang={self.lang} again")

    def parameters(self) -> Iterator[Tensor]:
        """Where it computes: on the CPU."""
        yield torch.empty(0)

    def tokenise(self, texts: Sequence[Text], kind: Kind) -> list[Tokenised]:
        """As `Encoder.tokenise`."""
        return self.tokens(texts, kind)

    def encode(
        self,
        texts: Sequence[Text],
        kind: Kind,
        batch_tokens: int = 2048,
        trunk: Trunk | None = None,
        progress: Progress | None = None,
    ) -> Vectors:
        """As `Encoder.encode`; there are no trunks. Raises UserError for texts of another language."""
        adapters = [self.adapter(text.lang) for text in texts]
        tokenised = self.tokenise(texts, kind)
        lengths = [len(text.ids) for text in tokenised]
        if lengths and max(lengths) > self._positions:
            raise UserError(f"a text has {max(lengths)} tokens, the encoder reads at most {self._positions}: cut it")
        values: list[Tensor] = [torch.empty(0)] * len(texts)
        for indices in length_batches(lengths, adapters, batch_tokens):
            vectors = self.run([tokenised[i].ids for i in indices])[0]
            for row, i in enumerate(indices):
                keep = [True] if self.pooling == "single" else list(tokenised[i].keep)
                values[i] = torch.from_numpy(vectors[row, : len(keep)][keep])
            if progress is not None:
                progress(len(indices))
        return Vectors.of(values, self.dim)

    def run(self, ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The graph's outputs for token ids: vectors, and kept where there is one a token."""
        longest = max(map(len, ids))
        grid = np.full((len(ids), longest), self._pad, np.int64)
        mask = np.zeros_like(grid)
        for row, own in enumerate(ids):
            grid[row, : len(own)], mask[row, : len(own)] = own, 1
        found: list[np.ndarray] = self._session.run(None, {"input_ids": grid, "attention_mask": mask})
        return found


def _pooling(name: str) -> Pooling:
    if name not in ("multi", "single"):
        raise UserError(f"{SETTINGS} names pooling {name!r}: export the model again")
    return name  # type: ignore[return-value]


def probe(encoder: Encoder, lang: str) -> list[list[float]]:
    """The beginnings of torch's vectors of PROBE, [T, PROBE_NUMBERS]; of a single vector [1, PROBE_NUMBERS]."""
    with torch.no_grad():
        vectors = encoder(encoder.pack([Tokenised(PROBE, (True,) * len(PROBE))], [encoder.adapter(lang)]))
    return [[round(v, 6) for v in row] for row in vectors.values[:, :PROBE_NUMBERS].float().cpu().tolist()]


def difference(encoder: Encoder, other: OnnxEncoder, texts: int = 32, seed: int = 0) -> tuple[float, float]:
    """Of random token ids: the largest absolute difference of a vector's number, and the mean cosine."""
    rng = np.random.default_rng(seed)
    longest = min(64, other._positions)
    ids = [rng.integers(3, encoder.xmod.config.vocab_size, int(n)).tolist() for n in rng.integers(4, longest, texts)]
    tokenised = [Tokenised(tuple(own), (True,) * len(own)) for own in ids]
    with torch.no_grad():
        truth = encoder(encoder.pack(tokenised, [other._adapter] * texts))
    vectors = other.run(ids)[0]
    rows = np.concatenate([vectors[n, : len(truth[n])] for n in range(texts)])
    exact = truth.values.float().cpu().numpy()
    cosines = (rows * exact).sum(1) / np.maximum(np.linalg.norm(rows, axis=1) * np.linalg.norm(exact, axis=1), 1e-12)
    return float(np.abs(rows - exact).max()), float(cosines.mean())
