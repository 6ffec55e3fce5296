"""data=pairs: any file of questions and answers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import test_config

from colbertxm.data.pairs import draw, held_out, pairs, read_pairs
from colbertxm.errors import UserError


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"query": f"what is  {i}", "positive": f"it is the number {i}", **more} for i in range(count)]


def test_pairs_of_a_group_stay_on_one_side_and_small_samples_lie_within_large_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl.gz", [{**row, "group": f"g{i // 4}"} for i, row in enumerate(rows(800))])
    data = pairs(str(path), 4)
    assert len(data.pairs) + len(data.pools[0].queries) <= 800
    answers = {text: f"\tg{int(text.split()[-1]) // 4}" for text in (f"it is the number {i}" for i in range(800))}
    assert not any(held_out(answers[passage.text]) for _, passage in data.pairs)
    assert data.pools[0].queries and all(held_out(answers[p.text]) for p in data.pools[0].passages)
    assert data.pairs[0][0].text.startswith("what is ") and "  " not in data.pairs[0][0].text
    small, large = (pairs(str(path), 4, sample=n).pairs for n in (50, 200))
    assert small == large[:50] and len(large) == 200
    assert pairs(str(path), 4, seed=1).pairs != data.pairs


def test_no_source_brings_more_than_it_may_and_repeats_count_once(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [*rows(90, source="a"), *rows(90, source="a"), *rows(30, source="b")])
    found = read_pairs(path)
    assert len(found) == 210 and len(draw(found, None, 0)) == 120
    drawn = draw(found, 40, 0)
    assert [sum(p.source == s for p in drawn) for s in "ab"] == [40, 30]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"query": "a"}', ":2: expected {\"query\": ..., \"positive\": ...}"),
        ('{"query": "a", "positive": " "}', ":2: has an empty positive"),
        ('{"query": "a", "positive": "b", "source": 3}', ":2: source and group must be texts"),
        ("query", ":2: not JSON"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"query": "a", "positive": "b"}\n' + line + "\n")
    with pytest.raises(UserError) as caught:
        read_pairs(path)
    assert said in str(caught.value) and str(path) in str(caught.value)


def test_wrong_settings_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data.file is missing"):
        pairs(None, 4)
    with pytest.raises(UserError, match=r"data.sample=0 must be at least 1"):
        pairs(str(write(tmp_path / "p.jsonl", rows(3))), 4, sample=0)
    with pytest.raises(UserError, match=r"nowhere.jsonl"):
        pairs(str(tmp_path / "nowhere.jsonl"), 4)


def test_training_mines_among_the_positives(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "light lamp door lock heat valve water pump camera motion".split()
    said = [{"query": f"{a} {b}", "positive": f"turn the {a} and the {b} on"} for a in words for b in words if a != b]
    file = write(Path("pairs.jsonl"), said)
    own = ["data=pairs", f"data.file={file}", "data.sample=24", "data.val_sample=5", "data.negatives_depth=4"]
    quick = ["trainer.steps=4", "trainer.batch_size=4", "trainer.val_every=2", "freeze.top_k=1", "model.dim=8"]
    test_config.call(monkeypatch, "train", *own, *quick, "model.languages=[en,de]", "logger.mode=disabled")
    printed = capsys.readouterr()
    assert "dev mrr@10" in printed.err and "model: outputs/train/multi_vector/model" in printed.out
    settings = json.loads(Path("outputs/train/multi_vector/model/colbertxm.json").read_text())
    assert "pairs.jsonl" in settings["provenance"]["checksums"]
