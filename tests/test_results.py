"""Rows, their files, and where they came from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from colbertxm.errors import UserError
from colbertxm.evaluation.metrics import Scores
from colbertxm.evaluation.results import provenance, read_rows, replacing, row, write_json
from colbertxm.evaluation.significance import bootstrap_interval

SCORES = Scores(
    ("a", "b", "c"),
    {
        "RR@10": np.array([1.0, 0.0, 1 / 3]),
        "R@100": np.array([1.0, 1.0, 0.0]),
        "nDCG@10": np.array([1.0, 0.0, 0.5]),
    },
)


def test_a_row_holds_what_a_program_reads() -> None:
    line = row("trained", "en", "de", SCORES, collection="smart_home")
    low, high = bootstrap_interval(SCORES.values["RR@10"])
    assert line == {
        "model": "trained",
        "query_lang": "en",
        "passage_lang": "de",
        "RR@10": 0.444444,
        "R@100": 0.666667,
        "nDCG@10": 0.5,
        "low": round(low, 6),
        "high": round(high, 6),
        "queries": 3,
        "intervals": {
            name: [round(bound, 6) for bound in bootstrap_interval(values)] for name, values in SCORES.values.items()
        },
        "collection": "smart_home",
    }
    assert row("trained", "en", "de", SCORES, collection="smart_home") == line


def test_a_row_without_its_interval_or_with_a_column_twice_is_refused() -> None:
    with pytest.raises(UserError, match="RR@10"):
        row("m", "en", "en", Scores(("a",), {"R@100": np.ones(1)}))
    with pytest.raises(ValueError, match="queries"):
        row("m", "en", "en", SCORES, queries=7)


def test_rows_come_back_from_both_layouts(tmp_path: Path) -> None:
    rows = [row("bm25", "en", "en", SCORES), row("trained", "zh-hant", "en", SCORES, note="水")]
    write_json(tmp_path / "deep" / "list.json", rows)
    write_json(tmp_path / "results.json", {"seconds": {"train": 3}, "rows": rows})
    assert read_rows(tmp_path / "deep" / "list.json") == rows
    assert read_rows(tmp_path / "results.json") == rows


def test_json_is_stable_and_plain(tmp_path: Path) -> None:
    first = {"b": np.float32(0.5), "a": np.arange(2), "path": Path("x/y"), "n": np.int64(3)}
    write_json(tmp_path / "a.json", first)
    write_json(tmp_path / "b.json", dict(reversed(first.items())))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [0, 1], "b": 0.5, "n": 3, "path": "x/y"}
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")


def test_what_json_lacks_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    with pytest.raises(TypeError, match="set"):
        write_json(tmp_path / "a.json", {"x": {1}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'[{"model": "m",', "line 1: not JSON"),
        (b"[\n\n{]", "line 3: not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"", "not JSON"),
        (b"3", "no list of rows"),
        (b'{"seconds": 1}', "no list of rows"),
        (b"[3]", "row 1: is a int"),
        (b'[{"model": "m", "query_lang": "en", "passage_lang": "en"}]', "row 1: has no count"),
        (b'[{"model": "m", "query_lang": "en", "queries": 3}]', "row 1: has no 'passage_lang'"),
        (
            b'[{"model": "m", "query_lan": "e", "passage_lang": "e"}]',
            "'query_lang' .did you mean 'query_lan'",
        ),
        (
            b'[{"model":"m","query_lang":"e","passage_lang":"e","queries":3,"RR@10":"high"}]',
            "RR@10 is 'high'",
        ),
        (b'[{"model":"m","query_lang":"e","passage_lang":"e","queries":3,"low":null}]', "low is None"),
        (b'[{"model":"m","query_lang":"e","passage_lang":"e","queries":3,"RR@10":NaN}]', "NaN"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_damaged_results_are_refused_by_name(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"results\.json.*{why}"):
        read_rows(tmp_path / "results.json")


def test_absent_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results at"):
        read_rows(tmp_path / "absent.json")
    with pytest.raises(UserError, match="cannot read"):
        read_rows(tmp_path)


def test_replacing_is_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyError), replacing(target) as part:
        part.write_text("half")
        raise KeyError("stopped")
    assert (target.read_text(), list(tmp_path.iterdir())) == ("old", [target])
    with replacing(target) as part:
        part.write_text("new")
        assert target.read_text() == "old"
    assert (target.read_text(), list(tmp_path.iterdir())) == ("new", [target])
    with pytest.raises(UserError, match="cannot write"), replacing(target / "inside.txt") as part:
        part.write_text("no folder")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left"):
        write_json(tmp_path / "a.json", {"x": 1})
    assert list(tmp_path.iterdir()) == []


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(("git", *who, *arguments), cwd=folder, check=True, capture_output=True)


def test_the_revision_says_when_the_tree_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert provenance()["revision"] is None
    git(tmp_path, "init")
    assert provenance()["revision"] is None
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first", "--no-verify")
    clean = provenance()["revision"]
    assert clean is not None and len(clean) == 40
    (tmp_path / "beside").write_text("not tracked")
    assert provenance()["revision"] == clean
    (tmp_path / "file").write_text("2")
    assert provenance()["revision"] == f"{clean}-dirty"


def test_provenance_without_git_and_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = provenance({"lr": 1e-4}, 7, {"wheel": "ab12"})
    assert found["revision"] is None
    assert (found["config"], found["seed"], found["checksums"]) == ({"lr": 1e-4}, 7, {"wheel": "ab12"})
    assert found["numpy"] == np.__version__
    assert found["cpus"] == os.cpu_count()
    write_json(tmp_path / "p.json", found)


def test_provenance_imports_no_torch() -> None:
    code = "import sys, colbertxm.evaluation.results as r; r.provenance(); assert 'torch' not in sys.modules"
    subprocess.run((sys.executable, "-c", code), check=True)
