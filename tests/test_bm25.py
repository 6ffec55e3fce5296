"""BM25: scores against a plain loop of the formula, tie order, and tokens that suit the language."""

from __future__ import annotations

import math
import random
import unicodedata
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from colbertxm.data import bm25_tokens
from colbertxm.data.bm25 import BM25
from colbertxm.data.bm25_tokens import SNOWBALL, cutter, tokenize
from colbertxm.data.collection import Collection
from colbertxm.errors import MissingExtra, UserError
from colbertxm.evaluation.baselines import BM25System
from colbertxm.languages import language
from colbertxm.records import Text


def texts(lang: str, *lines: str) -> list[Text]:
    return [Text(f"{i}", line, lang) for i, line in enumerate(lines)]


def plain_bm25(queries: list[list[str]], passages: list[list[str]], k1: float, b: float) -> list[list[float]]:
    """Kamphuis et al. 2020, the row `Lucene (accurate)`: [queries][passages]."""
    mean = sum(map(len, passages)) / len(passages)
    rows = []
    for query in queries:
        row = []
        for passage in passages:
            counts, score = Counter(passage), 0.0
            for word in query:
                holding = sum(word in other for other in passages)
                idf = math.log(1 + (len(passages) - holding + 0.5) / (holding + 0.5))
                frequency = counts[word]
                score += idf * frequency / (frequency + k1 * (1 - b + b * len(passage) / mean))
            row.append(score)
        rows.append(row)
    return rows


@pytest.mark.parametrize("seed", range(12))
def test_scores_equal_a_plain_loop(seed: int) -> None:
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(12)]
    passages = [" ".join(rng.choices(words[:10], k=rng.randrange(12))) for _ in range(25)]
    queries = [" ".join(rng.choices(words, k=rng.randrange(6))) for _ in range(10)]
    k1, b = [(1.5, 0.75), (0.9, 0.4), (1.2, 0.0)][seed % 3]
    found = BM25(texts("en", *passages), k1, b).search(texts("en", *queries), k=25)
    expected = plain_bm25([q.split() for q in queries], [p.split() for p in passages], k1, b)
    for hits, row in zip(found, expected, strict=True):
        assert dict(hits) == pytest.approx({str(i): score for i, score in enumerate(row) if score > 0}, rel=1e-5)
        assert [score for _, score in hits] == sorted((score for _, score in hits), reverse=True)


def test_the_default_is_anserinis() -> None:
    passages = ["a a b", "b c", "c d e f"]
    found = BM25(texts("en", *passages)).search(texts("en", "a c"), k=3)[0]
    row = plain_bm25([["a", "c"]], [p.split() for p in passages], 0.9, 0.4)[0]
    assert dict(found) == pytest.approx({str(i): score for i, score in enumerate(row)}, rel=1e-5)


def test_equal_scores_stand_in_passage_order_and_k_cuts() -> None:
    passages = texts("en", "fan", "lamp on", "door on", "lamp on", "lamp on")
    found = BM25(passages).search(texts("en", "lamp"), k=10)[0]
    assert [i for i, _ in found] == ["1", "3", "4"] and len({score for _, score in found}) == 1
    assert [i for i, _ in BM25(passages).search(texts("en", "lamp"), k=2)[0]] == ["1", "3"]
    assert [i for i, _ in BM25(passages[::-1]).search(texts("en", "lamp"), k=2)[0]] == ["4", "3"]


@pytest.mark.parametrize("query", ["", "?!", "unknown", "   "])
def test_a_query_that_shares_nothing_finds_nothing(query: str) -> None:
    assert BM25(texts("en", "lamp on", "")).search(texts("en", query), k=5) == [[]]


@pytest.mark.parametrize("passages", [[], [""], ["?", "!"]])
def test_nothing_to_find(passages: list[str]) -> None:
    assert BM25(texts("en", *passages)).search(texts("en", "lamp"), k=5) == [[]]


def test_many_ties_stand_in_passage_order_too() -> None:
    lines = ["lamp on" if i % 3 else "lamp" for i in range(100)]
    found = [int(i) for i, _ in BM25(texts("en", *lines)).search(texts("en", "lamp"), k=100)[0]]
    assert found == sorted(range(100), key=lambda i: (i % 3 > 0, i))


def test_each_text_is_cut_in_its_own_language(capfd: pytest.CaptureFixture[str]) -> None:
    index = BM25([Text("ja", "照明を消す", "ja"), Text("en", "Turn off the lights", "en")])
    queries = [Text("1", "照明", "ja"), Text("2", "LIGHTS", "en"), Text("3", "照明を消す", "en")]
    assert [[i for i, _ in hits] for hits in index.search(queries, k=2)] == [["ja"], ["en"], []]
    assert capfd.readouterr() == ("", "")  # no progress bars


@pytest.mark.parametrize(
    ("lang", "text", "tokens"),
    [
        ("en", "Turn OFF the Wi-Fi, now!", "turn off the wi fi now"),
        ("en", "ﬁre ２０ ½ entity_id", "fire 20 1 2 entity_id"),  # NFKC
        ("de", "Straße ÄNDERN", "straße ändern"),
        ("de", "A\u0308ndern Zu\u00adcker", "ändern zucker"),  # composed; no soft hyphen
        ("fr", "l’eau", "l eau"),
        ("tr", "IŞIK İstanbul", "ışık istanbul"),
        ("en", "İstanbul", "istanbul"),
        ("hi", "हिन्दी में खोज", "हिन्दी में खोज"),
        ("ta", "தமிழ் மொழி", "தமிழ் மொழி"),
        ("he", "שָׁלוֹם עולם", "שָׁלוֹם עולם"),
        ("fa", "می\u200cروم", "میروم"),
        ("ko", "불을 켜다", "불을 켜다"),
        ("ja", "照明を消す", "照明 明を を消 消す"),
        ("ja", "Wi-Fiの設定、灯。", "wi fi の設 設定 灯"),
        ("ja", "ｶﾒﾗ3台", "カメ メラ 3 台"),
        ("zh", "打开灯abc关", "打开 开灯 abc 关"),
        ("zh-hant", "開燈", "開燈"),
        ("zh", "\U00020000\U00020001x", "\U00020000\U00020001 x"),
        ("th", "ไฟดับ on", "ไฟ ฟด ดั ับ on"),
        ("my", "မီး", "မီ ီး"),
        ("en", "照明を消す", "照明を消す"),  # only languages without spaces are cut
    ],
)
def test_tokens(lang: str, text: str, tokens: str) -> None:
    expected = [unicodedata.normalize("NFKC", token) for token in tokens.split()]
    assert tokenize(text, lang) == expected


def test_an_unknown_language_is_an_error() -> None:
    with pytest.raises(UserError, match="unknown language 'xx'"):
        tokenize("a", "xx")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which none of the optional tokenisers is installed."""
    found = bm25_tokens.import_module

    def absent(name: str) -> object:
        if name.split(".")[0] in ("Stemmer", "sudachipy", "icu4py"):
            raise ImportError(name)
        return found(name)

    monkeypatch.setattr(bm25_tokens, "import_module", absent)
    cutter.cache_clear()
    yield
    cutter.cache_clear()


@pytest.fixture
def stemmer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A PyStemmer that knows German and Turkish alone and cuts off a final -s."""

    class Stemmer:
        def __init__(self, name: str) -> None:
            self.name = name

        def stemWords(self, words: list[str]) -> list[str]:
            return [word.removesuffix("s") for word in words]

    module = SimpleNamespace(algorithms=lambda: ["german", "turkish"], Stemmer=Stemmer)
    monkeypatch.setattr(bm25_tokens, "import_module", lambda name: module)
    monkeypatch.setattr(bm25_tokens.metadata, "version", lambda package: "9.9")
    cutter.cache_clear()
    yield
    cutter.cache_clear()


@pytest.mark.parametrize(
    ("lang", "how"),
    [
        ("de", "words (PyStemmer is not installed)"),
        ("ja", "character bigrams (SudachiPy is not installed)"),
        ("th", "character bigrams (icu4py is not installed)"),
        ("zh", "character bigrams"),
        ("ko", "character bigrams"),
        ("sk", "words"),
    ],
)
def test_what_is_absent_is_said_and_full_refuses_it(no_library: None, lang: str, how: str) -> None:
    assert cutter(lang).how == how
    text = "照明 lights 불을 ไฟดับ"
    if "not installed" in how:
        assert tokenize(text, lang, "best") == tokenize(text, lang, "plain")
        with pytest.raises(MissingExtra, match=r"is not installed: run `pip install 'colbertxm\[bm25\]'`"):
            cutter(lang, "full")
    else:
        assert cutter(lang, "full").how == how


def test_stems_and_their_name(stemmer: None) -> None:
    assert tokenize("IŞIK Lambas", "tr", "best") == ["ışık", "lamba"], "lower-cased first, as Turkish is"
    assert tokenize("Lambas", "tr") == ["lambas"], "plain is plain whatever is installed"
    assert cutter("de").how == "words, Snowball german (PyStemmer 9.9)"
    assert cutter("pl").how == "words (PyStemmer with polish (3.1 or later) is not installed)"
    passages = texts("de", "licht", "lichts aus")
    assert [i for i, _ in BM25(passages, scheme="best").search(texts("de", "lichts"), 5)[0]] == ["0", "1"]
    assert [i for i, _ in BM25(passages).search(texts("de", "lichts"), 5)[0]] == ["1"]


def test_korean_is_cut_into_bigrams_unless_plain() -> None:
    assert tokenize("불을 켜다 LED등 on", "ko", "full") == ["불을", "켜다", "led", "등", "on"]
    assert tokenize("스위치", "ko", "best") == ["스위", "위치"]
    assert tokenize("스위치", "ko") == ["스위치"]


def test_a_row_says_how_both_languages_were_cut(no_library: None) -> None:
    collection = Collection("c", "ko", "sk", tuple(texts("ko", "불")), tuple(texts("sk", "svetlo")), ())
    assert BM25System().how(collection) == "BM25 k1=0.9 b=0.4, ko: character bigrams; sk: words"
    assert BM25System("plain", 1.2, 0.75).how(collection) == "BM25 k1=1.2 b=0.75, ko: words; sk: words"
    with pytest.raises(UserError, match=r"unknown tokenisation 'pain' \(did you mean 'plain'\?\)"):
        BM25System("pain")


def test_every_snowball_code_is_a_language_of_ours() -> None:
    assert all(language(code).code == code and language(code).segmented for code in SNOWBALL)


def test_the_real_stemmers() -> None:
    real = pytest.importorskip("Stemmer", reason="needs colbertxm[bm25]")
    assert set(SNOWBALL.values()) <= set(real.algorithms())
    assert tokenize("Turning the lights off", "en", "full") == ["turn", "the", "light", "off"]
    assert tokenize("Lichter", "de", "full") == tokenize("Lichts", "de", "full")
    assert all(tokenize("12 ab", code, "full") for code in SNOWBALL)


def test_the_real_japanese_words() -> None:
    pytest.importorskip("sudachidict_core", reason="needs colbertxm[bm25]")
    assert tokenize("照明を消す、Wi-Fiの設定。", "ja", "full") == ["照明", "を", "消す", "wi", "fi", "の", "設定"]
    assert len(tokenize("照" * 60_000, "ja", "full")) > 1000, "longer than Sudachi takes at a time"


@pytest.mark.parametrize(
    ("lang", "text", "tokens"),
    [
        ("th", "ไฟดับในห้องครัว LED", "ไฟ ดับ ใน ห้อง ครัว led"),
        ("lo", "ປິດໄຟໃນຫ້ອງຄົວ", "ປິດ ໄຟ ໃນ ຫ້ອງ ຄົວ"),
        ("my", "မီးကိုပိတ်ပါ", "မီး ကို ပိတ် ပါ"),
    ],
)
def test_the_real_words_of_icu(lang: str, text: str, tokens: str) -> None:
    pytest.importorskip("icu4py", reason="needs colbertxm[bm25]")
    expected = [unicodedata.normalize("NFKC", token) for token in tokens.split()]
    assert tokenize(text, lang, "full") == expected
