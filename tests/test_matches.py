"""Token matches: they add up to the engine's score, cover the text, and the page shows them and nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_config import call

from colbertxm.errors import UserError
from colbertxm.evaluation.matches import Matches, Side, Token
from colbertxm.evaluation.matches_page import matches_page
from colbertxm.matches import match
from colbertxm.model.checkpoints import build_encoder
from colbertxm.model.encoder import Encoder
from colbertxm.model.tokens import TokenSettings
from colbertxm.records import Text
from colbertxm.retriever import Retriever

QUERY = Text("q", "turn the  lamp on", "en")
PASSAGE = Text("p", "lampde, lightde <b>on</b> & fan.", "de")


def encoder_of(pooling: Any = "multi", **settings: Any) -> Encoder:
    return build_encoder("small", ["en", "de", "ja"], TokenSettings(**settings), pooling, 8, 0).eval()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"query_prefix": "query: ", "passage_prefix": "passage: "},
        {"query_prefix": "query: ", "passage_prefix": "passage: ", "skip_prefix": True},
        {"expand_queries_to": 20},
        {"markers": "colbert_ai"},
        {"markers": "colbert_xm_train", "query_prefix": "query: ", "expand_queries_to": 16},
        {"query_maxlen": 5, "passage_maxlen": 6, "skip": "none"},
    ],
)
def test_the_matches_add_up_to_the_engines_score(world: Path, settings: dict[str, Any]) -> None:
    encoder = encoder_of(**settings)
    found = match(encoder, QUERY, PASSAGE)
    retriever = Retriever(encoder)
    retriever.add([PASSAGE])
    assert found.score == pytest.approx(retriever.search([QUERY], 1)[0][0].score, rel=1e-5)
    assert found.score == pytest.approx(float(found.given.sum()), rel=1e-5)
    assert sum(word.score for word in found.words()) == pytest.approx(found.score, rel=1e-5)
    for side, text, prefix in ((found.query, QUERY, "query_prefix"), (found.passage, PASSAGE, "passage_prefix")):
        read = "".join(token.text for token in side.tokens) + side.rest
        assert read == settings.get(prefix, "") + text.text, "every character stands in one token, or in the rest"


def test_what_a_token_is_and_to_which_word_it_belongs(world: Path) -> None:
    settings = {"query_prefix": "query: ", "markers": "colbert_xm_train", "expand_queries_to": 16}
    side = match(encoder_of(**settings), Text("q", "lampx turn", "en"), PASSAGE).query
    roles = [token.role for token in side.tokens]
    assert roles[:3] == ["start", "marker", "marker"] and roles[3] == "prefix"
    assert len(roles) == 16 and set(roles[roles.index("end") + 1 :]) == {"mask"}
    text = [token for token in side.tokens if token.role == "text"]
    assert [side.word(token.word) for token in text] == ["lampx", "lampx", "turn"]
    passage = match(encoder_of(), QUERY, PASSAGE).passage
    assert {",", "."} <= {token.text for token in passage.tokens if not token.kept}
    cut = match(encoder_of(passage_maxlen=5), QUERY, PASSAGE).passage
    assert cut.rest.endswith("fan.") and not cut.rest.startswith("lampde")


def test_pieces_are_words_where_no_spaces_are_written(world: Path) -> None:
    side = match(encoder_of(), QUERY, Text("p", "lampja fanja", "ja")).passage
    own = [token.word for token in side.tokens if token.role == "text"]
    assert own == list(range(len(own)))


def test_what_has_no_matches_is_refused(world: Path) -> None:
    with pytest.raises(UserError, match="single-vector model has no token matches"):
        match(encoder_of("single"), QUERY, PASSAGE)
    with pytest.raises(UserError, match="unknown language 'xx'"):
        match(encoder_of(), QUERY, Text("p", "lamp", "xx"))


class Reader(HTMLParser):
    """Open tags, tags that were used, visible text, and how deep it goes wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.used: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.used.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "path", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page.replace("/>", ">"))
    assert reader.open == []
    return reader


def made(lang: str = "ar") -> Matches:
    def token(text: str, kept: bool = True, word: int = 0) -> Token:
        return Token(text, "▁" + text.strip(), "text", kept, word)

    query = Side(
        "en", (token("<script>alert(1)</script>"), token(" off", word=1), Token("", "<mask>", "mask", True, -1))
    )
    passage = Side(lang, (token("أطفئ"), token(" الضوء", word=1), token(".", False, 1)), " cut <i>")
    return Matches(query, passage, np.array([[0.9, 0.1], [0.2, 0.7], [0.5, 0.6]], np.float32))


def test_the_page_is_self_contained_escaped_and_right_to_left() -> None:
    page = matches_page(made())
    reader = read(page)
    tags = {tag for tag, _ in reader.used}
    assert not tags & {"script", "link", "img", "iframe", "i", "b"} and "http" not in page.replace("http-equiv", "")
    assert "<script>alert(1)</script>" in reader.text and "cut <i>" in reader.text, "shown, and as text"
    assert ("p", {"class": "text", "lang": "ar", "dir": "rtl"}) in reader.used
    assert 'lang="ja" dir="ltr"' in matches_page(made("ja"))
    assert "score 2.2000" in reader.text and "Content-Security-Policy" in page
    best = [attrs["title"] for tag, attrs in reader.used if tag == "td" and attrs.get("class") == "best"]
    assert best == ["0.9000", "0.7000", "0.6000"]
    skipped = re.search(r'<span class="skipped"[^>]*>([^<]*)</span>\s*<span class="cut"', page)
    assert skipped and skipped[1] == "."
    colours = re.findall(r'<span class=""\s+style="background:(#\w+)[^>]*>([^<]+)', page)
    assert dict((text, colour) for colour, text in colours)["الضوء"] == "#004470", "what gives most is darkest"


def test_the_command(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from colbertxm.model.checkpoints import save_model

    save_model(Path("m/model"), encoder_of(), {})
    call(monkeypatch, "diagnose", "match", "checkpoint=m/model", "query=turn it on, or 'off' (ああ)", "lang=en",
         "passage=lampde: {a}", "passage_lang=de", "output=match.html")  # fmt: skip
    printed = capsys.readouterr().out
    expected = match(encoder_of(), Text("q", "turn it on, or 'off' (ああ)", "en"), Text("p", "lampde: {a}", "de"))
    assert f"score {expected.score:.4f}" in printed and "page: match.html" in printed
    assert f"score {expected.score:.4f}" in Path("match.html").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        call(monkeypatch, "diagnose", "mach")
    assert "did you mean 'match'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call(monkeypatch, "diagnose", "match", "query=a", "checkpoint=m/model")
    assert "diagnose match needs lang=... passage=..." in capsys.readouterr().err
