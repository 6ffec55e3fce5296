"""The published topics, qrels and SQuAD files themselves, where they lie beside the repository: ../shared/data."""

from __future__ import annotations

from pathlib import Path

import pytest

from colbertxm.evaluation.collections import Request, load

DATA = Path(__file__).parents[2] / "shared" / "data"
TOOLS = DATA / "formats" / "anserini-tools"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published files are not in {DATA}")

MRTYDI = dict(ar=1081, bn=111, en=744, fi=1254, id=829, ja=720, ko=421, ru=995, sw=670, te=646, th=1190)
MIRACL = dict(
    ar=2896, bn=411, de=305, en=799, es=648, fa=632, fi=1271, fr=343, hi=350, id=960, ja=860, ko=213, ru=1252, sw=482,
    te=828, th=733, yo=119, zh=393,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "counts", "judgements"), [("mrtydi", MRTYDI, {"fi": 1451, "sw": 743}), ("miracl", MIRACL, {"fi": 12008})]
)
def test_topics_and_qrels_of_every_language(name: str, counts: dict[str, int], judgements: dict[str, int]) -> None:
    found = {c.query_lang: c for c in load(name, Request(folder=TOOLS)).collections}
    assert {lang: len(c.queries) for lang, c in found.items()} == counts
    assert {lang: len(found[lang].judgements) for lang in judgements} == judgements


def test_ms_marco_neuclir_and_beir() -> None:
    (english,) = load("mmarco", Request(folder=TOOLS)).collections
    assert (english.query_lang, len(english.queries), len(english.judgements)) == ("en", 6980, 7437)
    found = load("neuclir", Request(folder=TOOLS)).collections
    assert [(c.query_lang, len(c.queries), len(c.judgements)) for c in found] == [("ru", 45, 33006), ("en", 45, 33006)]
    sets = {c.name: len(c.queries) for c in load("beir", Request(folder=TOOLS)).collections}
    assert sets == {"beir/nfcorpus": 323, "beir/fiqa": 648, "beir/scifact": 300}


def test_corpus_slices_of_mr_tydi() -> None:
    corpora = DATA / "formats/anserini-sample/src/test/resources/sample_docs/mrtydi-1.1"
    loaded = load("mrtydi", Request(folder=TOOLS, corpus=corpora))
    assert [len(c.passages) for c in loaded.collections] == [4] * 11
    assert len(loaded.notes) == 11 and all("are not in the corpus" in note for note in loaded.notes)


def test_xquad_in_twelve_languages() -> None:
    found = load("xquad", Request(folder=DATA / "xquad")).collections
    assert len(found) == 12
    assert {(len(c.queries), len(c.passages), len(c.judgements)) for c in found} == {(612, 120, 612)}
    assert len(load("xquad", Request(folder=DATA / "xquad", cross="all")).collections) == 144


def test_xquad_r_in_eleven_languages_and_its_pool() -> None:
    found = load("xquad_r", Request(folder=DATA / "xquad_r", cross="none")).collections
    sizes = {c.query_lang: len(c.passages) for c in found}
    assert len(found) == 11 and sizes["en"] == 598 and sizes["th"] == 416
    (pool,) = load("xquad_r", Request(folder=DATA / "xquad_r")).collections
    assert (len(pool.queries), len(pool.passages)) == (11 * 612, sum(sizes.values()))
    assert len(pool.judgements) == 11 * 11 * 612
