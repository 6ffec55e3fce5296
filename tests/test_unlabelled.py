"""Unlabelled text: nothing of the test half, each text on one side, and every layout that people have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from colbertxm.data.smart_home import SmartHome, split_of
from colbertxm.data.unlabelled import languages_of, read_unlabelled
from colbertxm.errors import UserError


@pytest.fixture(scope="module")
def home(wheels: dict[str, Path]) -> SmartHome:
    return SmartHome(wheels["homeassistant"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file per language in four layouts, and two files that are no language's."""
    lines = [f"sentence number {i}" for i in range(200)]
    (tmp_path / "newstest2019-ref.deu.txt").write_text("\n".join([*lines, lines[0], "", "  two   spaces "]).strip())
    (tmp_path / "hu.tsv").write_text("".join(f"{i}\t{line}\n" for i, line in enumerate(lines)))
    with gzip.open(tmp_path / "ja.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"id": i, "text": line}) + "\n" for i, line in enumerate(lines))
    (tmp_path / "newstest2019-src.eng.txt").write_text("\n".join(lines))
    (tmp_path / "LICENSE.md").write_text("free")
    (tmp_path / "DOCUMENT_IDS.tsv").write_text("a\tb\n")
    return tmp_path


def test_smart_home_gives_nothing_of_its_test_half(home: SmartHome) -> None:
    found = read_unlabelled(["smart_home"], "de", home)
    sides = {"train": set(found.train), "dev": set(found.held_out), "test": set()}
    assert found.train and found.held_out and not sides["train"] & sides["dev"]
    for key, (_, description) in home.pairs["de"].items():
        split = split_of(key.split(".")[0])
        assert (description in sides["test" if split == "test" else split]) == (split != "test")


def test_what_the_test_half_says_too_is_left_out(home: SmartHome, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = dict(home.pairs["de"])
    of = {split: next(k for k in pairs if split_of(k.split(".")[0]) == split) for split in ("train", "dev", "test")}
    pairs[of["test"]] = ("as a title", "the same words")
    pairs[of["train"]], pairs[of["dev"]] = ("a", "the same words"), ("b", "as a title")
    pairs[of["train"] + ".x"], pairs[of["dev"] + ".x"] = ("c", "on both sides"), ("d", "on both sides")
    monkeypatch.setattr(home, "pairs", {**home.pairs, "de": pairs})
    found = read_unlabelled(["smart_home"], "de", home)
    assert not {"the same words", "as a title"} & {*found.train, *found.held_out}
    assert "on both sides" in found.held_out and "on both sides" not in found.train


def test_files_of_every_layout_and_their_held_out_share(folder: Path) -> None:
    assert languages_of([str(folder)], None) == ["en", "de", "hu", "ja"]
    found = {code: read_unlabelled([str(folder)], code) for code in ("en", "de", "hu", "ja")}
    assert sorted((*found["de"].train, *found["de"].held_out))[-2:] == ["sentence number 99", "two spaces"]
    for one in found.values():
        assert not set(one.train) & set(one.held_out) and 8 <= len(one.held_out) <= 35
        assert len({*one.train, *one.held_out}) == len(one.train) + len(one.held_out) == 200 + (one.lang == "de")
    assert found["hu"].held_out == found["ja"].held_out, "by a hash of the text, wherever it stands"
    assert found["hu"].digest == found["ja"].digest != found["de"].digest
    half = read_unlabelled([str(folder)], "hu", held_out=0.5)
    assert set(found["hu"].held_out) < set(half.held_out)
    named = read_unlabelled([{"deu": str(folder / "hu.tsv")}], "de")
    assert named.train == found["hu"].train and named.lang == "de" and named.sources == (str(folder / "hu.tsv"),)


def test_sources_add_up(home: SmartHome, folder: Path) -> None:
    both = read_unlabelled(["smart_home", str(folder)], "de", home)
    alone = read_unlabelled(["smart_home"], "de", home)
    assert set(alone.train) < set(both.train) and set(alone.held_out) < set(both.held_out)
    assert both.sources == ("smart_home", str(folder))
    assert languages_of(["smart_home", str(folder)], home) == ["en", "de", "hu", "ja", "sr-latn", "zh-hant"]


def test_what_cannot_be_is_said(home: SmartHome, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no corpus has text in 'hr'.*there is en, de, hu, ja"):
        read_unlabelled([str(folder)], "hr")
    with pytest.raises(UserError, match="is no folder"):
        read_unlabelled([str(tmp_path / "nowhere")], "de")
    with pytest.raises(UserError, match="no file of a language"):
        (tmp_path / "empty").mkdir()
        read_unlabelled([str(tmp_path / "empty")], "de")
    with pytest.raises(UserError, match="there is no file"):
        read_unlabelled([{"de": "nowhere.txt"}], "de")
    with pytest.raises(UserError, match="unknown language 'klingon'"):
        read_unlabelled([{"klingon": str(folder / "hu.tsv")}], "de")
    (tmp_path / "de.pdf").write_text("x")
    with pytest.raises(UserError, match=r"none of \.txt"):
        read_unlabelled([{"de": str(tmp_path / "de.pdf")}], "de")
    (tmp_path / "few.txt").write_text("one text\n")
    with pytest.raises(UserError, match="too few"):
        read_unlabelled([{"de": str(tmp_path / "few.txt")}], "de")
    (tmp_path / "other.jsonl").write_text('{"id": 1, "text": "a", "lang": "fr"}\n')
    with pytest.raises(UserError, match="is in 'fr', the file was given as 'de'"):
        read_unlabelled([{"de": str(tmp_path / "other.jsonl")}], "de")
    (tmp_path / "de.txt").write_text("a\n")
    with pytest.raises(UserError, match="both in 'de'"):
        read_unlabelled([str(folder)], "de")
