"""The published pickle of scores: read without running it, hostile ones refused; the arrays and their look-up."""

from __future__ import annotations

import codecs
import gzip
import pickle
import random
import struct
from collections import OrderedDict, defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colbertxm.data.formats.scores import Scores, load_scores, read_scores_pickle
from colbertxm.errors import UserError


def nested(queries: int = 40, passages: int = 60, seed: int = 0) -> dict[int, dict[int, float]]:
    rng = random.Random(seed)
    drawn = {
        rng.randrange(2**31): {rng.randrange(2**31): rng.gauss(0, 8) for _ in range(passages)} for _ in range(queries)
    }
    return drawn | {7: {0: 0.0, 300: -1.5, 70_000: 2.25}, 8: {}}


def save(path: Path, found: Any, protocol: int = 4) -> Path:
    path.write_bytes(gzip.compress(pickle.dumps(found, protocol=protocol)))
    return path


def as_dict(scores: Scores) -> dict[int, dict[int, float]]:
    spans = zip(scores.qid.tolist(), scores.start[:-1].tolist(), scores.start[1:].tolist(), strict=True)
    return {q: dict(zip(scores.pid[a:b].tolist(), scores.score[a:b].tolist(), strict=True)) for q, a, b in spans}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [float, np.float32, np.float64, "strings", "more than a batch"])
def test_scores_come_back(tmp_path: Path, protocol: int, kind: Any) -> None:
    plain = nested(2100, 2) | nested(1, 2500) if kind == "more than a batch" else nested()
    found: dict[Any, Any] = plain
    if kind == "strings":
        found = {str(q): {str(p): score for p, score in row.items()} for q, row in plain.items()}
    elif isinstance(kind, type):
        found = {q: {p: kind(score) for p, score in row.items()} for q, row in plain.items()}
    scores = read_scores_pickle(save(tmp_path / "s.pkl.gz", found, protocol))
    assert as_dict(scores) == {q: {p: float(np.float32(s)) for p, s in row.items()} for q, row in sorted(plain.items())}
    assert (scores.pid.dtype, scores.score.dtype) == (np.int32, np.float32)
    scores.save(tmp_path / "s.npz")
    again = load_scores(tmp_path / "s.npz")
    assert as_dict(again) == as_dict(scores) and not list(tmp_path.glob("*.part"))


def test_look_up_is_that_of_a_dict(tmp_path: Path) -> None:
    plain, rng = nested(), random.Random(1)
    scores = read_scores_pickle(save(tmp_path / "s.pkl.gz", plain))
    pairs = [(q, p) for q, row in plain.items() for p in row]
    rng.shuffle(pairs)
    qids, pids = np.array(pairs).T
    assert scores.of(qids, pids).tolist() == [float(np.float32(plain[q][p])) for q, p in pairs]
    strangers = [(q, p + rng.choice([-1, 0, 1])) for q, p in pairs] + [(5, 1), (8, 0), (2**40, 1), (7, 2**40), (7, -1)]
    found = scores.of(*np.array(strangers).T, missing=-99).tolist()
    assert found == [float(np.float32(plain.get(q, {}).get(p, -99))) for q, p in strangers]
    assert scores.of(7, [[0, 300], [70_000, 0]]).tolist() == [[0.0, -1.5], [2.25, 0.0]]
    with pytest.raises(UserError, match="2 of 3 pairs have no score, the first is query 8 and passage 300"):
        scores.of([7, 8, 9], [300, 300, 300])
    empty = Scores(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    assert empty.of([1], [2], missing=0).tolist() == [0.0]


class Hostile:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def ran(*_: Any) -> dict[int, float]:
    RAN.append(1)
    return {}


RAN: list[int] = []
SHARED = {1: 1.0}
ITSELF: dict[int, Any] = {}
ITSELF[1] = ITSELF


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "found",
    [
        Hostile(ran, ()),
        {1: Hostile(ran, ())},
        {1: {2: Hostile(ran, ())}},
        {Hostile(ran, ()): {1: 1.0}},
        {1: {2: Hostile(eval, ("ran()",))}},
        {1: {2: Hostile(getattr, ("x", "upper"))}},
        {1: {2: Hostile(np.dtype, ("O",))}},
        {1: {2: Hostile(codecs.encode, ("x", "rot13"))}},
        {1: {2: np.arange(3)}},
        {1: {2: np.float32(np.nan)}},
        {1: {2: 1e39}},
        {1: {2: "1.0"}},
        {1: {2: True}},
        {1: {2: None}},
        {1: {-2: 1.0}},
        {1: {2**31: 1.0}},
        {1: {2.0: 1.0}},
        {1: {(1, (2,)): 1.0}},
        {1: {"x": 1.0}},
        {1: {"2": 1.0, 2: 3.0}},
        {"1": {2: 1.0}, 1: {2: 1.0}},
        {1: [1.0]},
        {1: 1.0},
        {1: SHARED, 2: SHARED},
        {q: SHARED if q in (1, 1200) else {q: 1.0} for q in range(1500)},  # a thousand are handed out at a time
        ITSELF,
        [1.0],
        OrderedDict({1: {2: 1.0}}),
        defaultdict(dict, {1: {2: 1.0}}),
        {1: {2: Fraction(1, 2)}},
        {1: {2: b"x" * 70_000}},
        {1: {2: "x" * 70_000}},
        {1: {2: 2**200}},
    ],
    ids=lambda found: None,
)
def test_hostile_and_other_pickles_are_refused_unrun(tmp_path: Path, found: Any, protocol: int) -> None:
    path = save(tmp_path / "s.pkl.gz", found, protocol)
    RAN.clear()
    with pytest.raises(UserError, match="s.pkl.gz is refused: it holds"):
        read_scores_pickle(path)
    assert not RAN


FLOAT = b"G" + struct.pack(">d", 1.0)


@pytest.mark.parametrize(
    "raw",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # protocol 0
        b"\x80\x04cos\nsystem\n\x8c\x04true\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x04}\x94(K\x01ios\nsystem\n",  # INST
        b"\x80\x04\x82\x01.",  # an extension code
        b"\x80\x04K\x01Q.",  # a persistent id
        b"\x80\x04}u.",
        b"\x80\x04}(K\x01u.",
        b"\x80\x04}K\x01K\x02u.",
        b"\x80\x04R.",
        b"\x80\x04h\x05.",
        b"\x80\x04\x85.",
        b"\x80\x04" + b"(" * 10 + b".",
        b"\x80\x04" + b"\x85" * 10 + b".",
        b"\x80\x04}}h\x00.",
        b"\x80\x09}.",
        b"\x80\x04}.more",
        b"\x80\x04}K\x01}(K\x02" + FLOAT + b"K\x02" + FLOAT + b"us.",  # a passage twice
        b"PK\x03\x04",
    ],
)  # fmt: skip
def test_raw_opcodes_are_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "s.pkl").write_bytes(raw)
    with pytest.raises(UserError, match="s.pkl (is refused|ends early)"):
        read_scores_pickle(tmp_path / "s.pkl")


def test_damaged_pickles_are_refused_or_read_as_what_they_say(tmp_path: Path) -> None:
    rng, path = random.Random(0), tmp_path / "s.pkl"
    whole = pickle.dumps(nested(20, 20), protocol=4)
    for kept in rng.sample(range(len(whole)), 100):
        path.write_bytes(whole[:kept])
        with pytest.raises(UserError, match="ends early"):
            read_scores_pickle(path)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            read = as_dict(read_scores_pickle(path))
        except UserError as error:
            assert "s.pkl" in str(error)
        else:  # a bit of a number: the pickle has no checksum, and Python reads the same
            assert read == {
                q: {p: float(np.float32(s)) for p, s in row.items()} for q, row in pickle.loads(damaged).items()
            }
    packed = gzip.compress(whole)
    path.write_bytes(packed[:-20])
    with pytest.raises(UserError, match="ends early"):
        read_scores_pickle(path)
    path.write_bytes(packed[:-6] + b"\1\1" + packed[-4:])
    with pytest.raises(UserError, match="is damaged"):
        read_scores_pickle(path)


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    scores = read_scores_pickle(save(tmp_path / "s.pkl.gz", nested()))
    path = tmp_path / "s.npz"
    scores.save(path)
    whole = path.read_bytes()
    for content in (whole[:-30], whole[:200] + b"\xff\xff\xff" + whole[203:], b"", b"x"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="make them again"):
            load_scores(path)
    Scores(scores.qid[::-1], scores.start, scores.pid, scores.score).save(path)
    with pytest.raises(UserError, match="are damaged"):
        load_scores(path)
    with pytest.raises(UserError, match="cannot write"):
        scores.save(tmp_path / "nowhere" / "s.npz")
