"""The service's addresses, with a tiny model and both kinds of index: what is answered, and how it fails."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from service_world import Made, make

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from colbertxm.engine.opening import open_index
from colbertxm.matches import match
from colbertxm.model.checkpoints import load_model
from colbertxm.model.encoder import Encoder
from colbertxm.records import Text
from colbertxm.retriever import Retriever
from colbertxm.service.app import create_app
from colbertxm.service.bodies import InfoAnswer, MatchAnswer, SearchAnswer
from colbertxm.service.limits import Limits
from colbertxm.service.served import Ask, Change, Found, Served

KEY = "a-key-of-thirty-two-characters-xx"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Made:
    return make(tmp_path_factory.mktemp("service"), wheels)


@pytest.fixture(scope="module")
def encoder(made: Made) -> Encoder:
    return load_model(made.model).eval()


def client_of(
    encoder: Encoder, folder: Path, limits: Limits | None = None, key: str | None = None, other: Path | None = None
) -> TestClient:
    main = Served("main model", encoder, folder, indexed=None if limits is None else limits.indexed)
    main.warm()
    compare = None if other is None else Served("other", encoder, other)
    app = create_app(main, compare, limits or Limits(), key)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture(params=["exact", "compressed"])
def folder(request: pytest.FixtureRequest, made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(getattr(made, request.param), tmp_path / "index"))


@pytest.fixture
def client(encoder: Encoder, folder: Path) -> Iterator[TestClient]:
    with client_of(encoder, folder) as found:
        yield found


@pytest.fixture
def exact(encoder: Encoder, made: Made) -> Iterator[TestClient]:
    """Of an index that the test must not change."""
    with client_of(encoder, made.exact) as found:
        yield found


def test_a_search_finds_what_the_retriever_finds(client: TestClient, encoder: Encoder, folder: Path) -> None:
    retriever = Retriever(encoder)
    index = retriever.open(folder)
    for lang, passage_lang in (("en", None), ("de", "en")):
        expected = retriever.search([Text("q", "lamp door", lang)], 5, passage_lang)[0]
        body = {"query": "lamp door", "lang": lang, "k": 5, "filters": {"passage_lang": passage_lang or "all"}}
        found = client.post("/search", json=body)
        assert found.status_code == 200
        answer = SearchAnswer.model_validate(found.json())
        assert [hit.id for hit in answer.hits] == [hit.passage_id for hit in expected]
        assert [hit.rank for hit in answer.hits] == [1, 2, 3, 4, 5]
        assert [hit.score for hit in answer.hits] == pytest.approx([hit.score for hit in expected], abs=1e-4)
        texts = index.texts_of([hit.id for hit in answer.hits])
        assert all(hit.text == texts[hit.id] and hit.lang == hit.id.split(":")[0] for hit in answer.hits)


def test_filters_by_languages_and_ids(client: TestClient) -> None:
    def found(filters: dict[str, Any], lang: str = "en") -> set[str]:
        answer = client.post("/search", json={"query": "lamp", "lang": lang, "k": 100, "filters": filters})
        assert answer.status_code == 200, answer.text
        return {hit["id"] for hit in answer.json()["hits"]}

    assert {name[:2] for name in found({"passage_lang": "German"})} == {"de"}
    assert {name[:2] for name in found({"passage_lang": ["de", "ar"]})} == {"de", "ar"}
    assert {name[:2] for name in found({"passage_lang": "same"}, "ar")} == {"ar"}
    assert len(found({})) == 90
    assert found({"ids": ["en:3", "de:4"]}) == {"en:3", "de:4"}
    assert found({"ids": ["en:3", "de:4"], "passage_lang": "de"}) == {"de:4"}
    assert found({"ids": []}) == set()


def test_auto_says_what_it_took_the_query_for(exact: TestClient) -> None:
    pytest.importorskip("py3langid")
    answer = exact.post("/search", json={"query": "أطفئ الأضواء في غرفة النوم", "k": 1}).json()
    assert answer["lang"] == "ar" and 0.5 < answer["lang_confidence"] <= 1
    refused = exact.post("/search", json={"query": "12345", "k": 1})
    assert refused.status_code == 422 and "no letters" in refused.json()["error"]
    assert exact.get("/info").json()["auto"] is True


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "query: Field required"),
        ({"query": ""}, "query: String should have at least 1 character"),
        ({"query": " \n", "lang": "en"}, "'query' is empty"),
        ({"query": "a\x00b", "lang": "en"}, "U+0000"),
        ({"query": "x" * 2001, "lang": "en"}, "query: String should have at most 2000 characters"),
        ({"query": "x", "lang": "germann"}, "unknown language 'germann' (did you mean 'german'?)"),
        ({"query": "x", "lang": "ja"}, "no adapter for Japanese (ja); it reads en"),
        ({"query": "x", "lang": "en", "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"query": "x", "lang": "en", "k": 101}, "k: Input should be less than or equal to 100"),
        ({"query": "x", "lang": "en", "k": True}, "k: Input should be a valid integer"),
        ({"query": "x", "lang": "en", "filter": {}}, "filter: Extra inputs are not permitted"),
        ({"query": "x", "lang": "en", "filters": {"ids": ["nobody"]}}, "no passage 'nobody' is indexed"),
        ({"query": "x", "lang": "en", "filters": {"passage_lang": "he"}}, "no passage in 'he' is indexed; the index"),
        ({"query": "x", "lang": "en", "filters": {"passage_lang": ["en", "xx"]}}, "unknown language 'xx'"),
        ({"query": "x", "lang": "he", "filters": {"passage_lang": "same"}}, "no passage in 'he'"),
        ({"query": "x", "lang": "en", "model": "compare"}, "this service has one model"),
        ({"query": "x", "lang": "en", "model": "third"}, "model: Input should be 'main' or 'compare'"),
        ([], "valid dictionary"),
        ("text", "valid dictionary"),
    ],
)
def test_a_wrong_search_is_422_and_one_line(exact: TestClient, body: Any, message: str) -> None:
    answer = exact.post("/search", json=body)
    assert answer.status_code == 422 and answer.json().keys() == {"error"}
    assert message in answer.json()["error"] and "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"query": "\\ud800", "lang": "en"}', b'{"k": NaN}', b"1" * 5000,
     b'{"query": "x", "lang": "en", "k": 1e999}', b'{"query": "x", "lang": "\\udfff"}', b"null"],
)  # fmt: skip
def test_a_body_that_is_hardly_json_is_422(exact: TestClient, body: bytes) -> None:
    answer = exact.post("/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and answer.json()["error"]
    assert len(answer.content) < 500  # what was sent is not sent back


def test_documents_come_are_replaced_and_go(client: TestClient, folder: Path) -> None:
    before = client.get("/info").json()["models"][0]["passages"]
    new = [
        {"id": "new/1", "text": "heat pump siren", "lang": "en"},
        {"id": "en:3", "text": "camera, camera", "lang": "de"},
        {"id": "שלום 1", "text": "דלת מנורה", "lang": "Hebrew"},
    ]
    added = client.post("/documents", json={"documents": new})
    assert (added.status_code, added.json()) == (200, {"indexed": before + 2})
    assert client.get("/documents/new/1").json()["text"] == "heat pump siren"
    assert client.get("/documents/en:3").json() == {
        "id": "en:3", "text": "camera, camera", "lang": "de", "lang_confidence": None,
    }  # fmt: skip
    assert client.get("/documents/שלום 1").json()["lang"] == "he"
    hits = client.post("/search", json={"query": "heat pump siren", "lang": "en", "k": 100}).json()["hits"]
    assert [hit["lang"] for hit in hits if hit["id"] == "en:3"] == ["de"] and "new/1" in [hit["id"] for hit in hits]
    same = {"query": "דלת", "lang": "he", "filters": {"passage_lang": "same"}}
    assert [hit["id"] for hit in client.post("/search", json=same).json()["hits"]] == ["שלום 1"]

    assert client.delete("/documents/new/1").json() == {"indexed": before + 1}
    gone = client.get("/documents/new/1")
    assert gone.status_code == 404 and gone.json() == {"error": "no passage 'new/1' is indexed"}
    assert client.delete("/documents/new/1").status_code == 404
    assert "new/1" not in open_index(folder).texts_of(["new/1", "en:3"])
    assert open_index(folder).texts_of(["en:3"]) == {"en:3": "camera, camera"}


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "documents: List should have at least 1 item"),
        ([{"id": "a", "text": "lamp"}], "documents.0.lang: Field required"),
        ([{"id": "", "text": "lamp", "lang": "en"}], "documents.0.id: String should have at least 1 character"),
        ([{"id": "a", "text": "lamp", "lang": "fr"}], "no adapter for French"),
        ([{"id": "a", "text": "  ", "lang": "en"}], "text 'a' is empty"),
        ([{"id": "a\n", "text": "lamp", "lang": "en"}], "is no id"),
        ([{"id": "..", "text": "lamp", "lang": "en"}], "is no id"),
        ([{"id": "a", "text": "lamp", "lang": "en"}] * 2, "the id 'a' comes twice"),
        ([{"id": str(n), "text": "lamp", "lang": "en"} for n in range(257)], "at most 256 items"),
        ([{"id": "x" * 257, "text": "lamp", "lang": "en"}], "at most 256 characters"),
    ],
)
def test_a_wrong_batch_changes_nothing(exact: TestClient, documents: Any, message: str) -> None:
    good = [{"id": "good", "text": "lamp", "lang": "en"}] if documents and len(documents) < 3 else []
    answer = exact.post("/documents", json={"documents": [*good, *documents]})
    assert answer.status_code == 422 and message.replace(".0.", f".{len(good)}.") in answer.json()["error"]
    assert exact.get("/documents/good").status_code == 404


def test_the_index_takes_no_more_than_it_may(encoder: Encoder, folder: Path) -> None:
    with client_of(encoder, folder, Limits(indexed=91)) as client:

        def post(*names: str) -> int:
            documents = [{"id": name, "text": "lamp", "lang": "en"} for name in names]
            return client.post("/documents", json={"documents": documents}).status_code

        assert [post("a", "b"), post("a", "en:1"), post("b"), post("a")] == [422, 200, 422, 200]


def test_many_changes_leave_a_tidy_index(
    encoder: Encoder, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("colbertxm.service.served.PARTS", 3)
    served = Served("m", encoder, Path(shutil.copytree(made.compressed, tmp_path / "index")))
    parts = []
    for n in range(5):
        assert served.change([Change(add=(Text("same", f"lamp {n}", "en"),))]) == [91]
        parts.append(len(served.snapshot.index.parts))  # type: ignore[union-attr]
    assert parts == [2, 3, 1, 2, 3] and served.passage("same").text == "lamp 4"


def test_matches_are_the_sum_of_the_score(exact: TestClient, encoder: Encoder) -> None:
    body = {"query": "lamp door", "lang": "en", "id": "ar:4"}
    answer = MatchAnswer.model_validate(exact.post("/matches", json=body).json())
    expected = match(encoder, Text("q", "lamp door", "en"), Text("p", answer.passage.text, "ar"))
    assert answer.score == pytest.approx(expected.score, abs=1e-4)
    assert sum(max(line) for line in answer.cosines) == pytest.approx(answer.score, abs=1e-3)
    assert [line.index(max(line)) for line in answer.cosines] == answer.best
    assert sum(t.kept for t in answer.query_tokens) == len(answer.cosines)
    assert sum(t.kept for t in answer.passage_tokens) == len(answer.cosines[0])
    own = {"query": "lamp", "lang": "en", "passage": "Lampe", "passage_lang": "de"}
    assert exact.post("/matches", json=own).json()["passage"]["lang"] == "de"
    for wrong in ({**body, **own}, {"query": "lamp", "lang": "en"}, {"query": "lamp", "lang": "en", "passage": "x"}):
        assert exact.post("/matches", json=wrong).status_code == 422
    assert exact.post("/matches", json={**body, "id": "nobody"}).status_code == 404
    silent = exact.post("/matches", json={**own, "passage": "..."})
    assert silent.status_code in (200, 422)


def test_two_models_side_by_side(encoder: Encoder, made: Made) -> None:
    with client_of(encoder, made.exact, other=made.compressed) as client:
        info = InfoAnswer.model_validate(client.get("/info").json())
        assert [(m.which, m.engine, m.passages) for m in info.models] == [
            ("main", "exact", 90), ("compare", "compressed", 90)]  # fmt: skip
        assert info.rtl == ["ar", "he"] and info.names["de"] == "German"
        asks = [{"query": "lamp", "lang": "en", "k": 3, "model": model} for model in ("main", "compare")]
        one, two = (client.post("/search", json=ask).json()["hits"] for ask in asks)
        assert one[0]["score"] != two[0]["score"] and one[0]["score"] == pytest.approx(two[0]["score"], rel=0.05)


def test_the_key_is_asked_of_all_but_the_open_places(encoder: Encoder, made: Made) -> None:
    with client_of(encoder, made.exact, key=KEY) as client:
        search = {"query": "lamp", "lang": "en"}
        for headers in ({}, {"x-api-key": KEY[:-1]}, {"authorization": f"Basic {KEY}"}, {"x-api-key": "ключ".encode()}):
            answer = client.post("/search", json=search, headers=headers)  # type: ignore[arg-type]
            assert answer.status_code == 401 and "API key" in answer.json()["error"]
            assert answer.headers["www-authenticate"] == "Bearer"
        for headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
            assert client.post("/search", json=search, headers=headers).status_code == 200
        closed = [client.get(path).status_code for path in ("/info", "/metrics", "/documents/en:1", "/nowhere")]
        opened = [client.get(path).status_code for path in ("/", "/health", "/openapi.json", "/page/nowhere")]
        assert (closed, opened) == ([401] * 4, [200, 200, 200, 404])
        assert client.delete("/documents/en:1").status_code == 401
        assert client.get("/health", headers={"host": "search.example"}).status_code == 200


def test_other_sites_cannot_use_a_browser_as_a_bridge(exact: TestClient) -> None:
    search = {"query": "lamp", "lang": "en"}
    statuses = [
        exact.post("/search", content=b'{"query": "lamp", "lang": "en"}', headers={"content-type": "text/plain"}),
        exact.post("/search", json=search, headers={"origin": "http://evil.example"}),
        exact.delete("/documents/en:1", headers={"origin": "null"}),
        exact.post("/search", json=search, headers={"host": "evil.example:8080"}),
        exact.post("/search", json=search, headers={"origin": "http://127.0.0.1"}),
        exact.post("/search", json=search, headers={"host": "[::1]:8080"}),
    ]
    assert [answer.status_code for answer in statuses] == [415, 403, 403, 421, 200, 200]
    policy = exact.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_too_large_too_many_too_slow(encoder: Encoder, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(body_bytes=1000, searches=2, search_s=0.3, batch=1, batch_ms=0)
    held = threading.Event()
    original = Served._encoded
    with client_of(encoder, made.exact, limits) as client:
        monkeypatch.setattr(Served, "_encoded", lambda self, *given: held.wait(10) and original(self, *given))
        large = client.post("/search", json={"query": "x" * 1000, "lang": "en"})
        parts = client.post("/search", content=iter([b"[" * 600] * 2), headers={"content-type": "application/json"})
        assert (large.status_code, parts.status_code) == (413, 413) and "1000 bytes" in parts.json()["error"]

        def ask(_: int) -> Any:
            return client.post("/search", json={"query": "lamp", "lang": "en", "k": 1})

        with ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(ask, range(5)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [503, 503, 503, 504, 504]
        assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 503)
        assert client.get("/health").status_code == 200
        held.set()
        until = time.monotonic() + 10
        while ask(0).status_code != 200:
            assert time.monotonic() < until


def test_waiting_queries_are_encoded_together(exact: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = Served._encoded

    def slow(self: Served, texts: Any, kind: Any) -> Any:
        sizes.append(len(texts))
        time.sleep(0.05)
        return original(self, texts, kind)

    bodies = [{"query": f"lamp {n}", "lang": ("en", "de")[n % 2], "k": 3 + n % 3} for n in range(12)]
    alone = [exact.post("/search", json=body).json()["hits"] for body in bodies]
    monkeypatch.setattr(Served, "_encoded", slow)
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda body: exact.post("/search", json=body).json()["hits"], bodies))
    for body, one, many in zip(bodies, alone, together, strict=True):
        assert [hit["id"] for hit in one] == [hit["id"] for hit in many] and len(one) == body["k"]
        assert [hit["score"] for hit in one] == pytest.approx([hit["score"] for hit in many], abs=1e-4)
    assert sum(sizes) == 12 and len(sizes) <= 4


def test_one_bad_query_does_not_spoil_its_batch(encoder: Encoder, made: Made) -> None:
    served = Served("m", encoder, made.exact)
    good = Ask(Text("q", "lamp", "en"), 3)
    found = served.search([good, Ask(Text("q", "door", "en"), 3, ids=frozenset(["nobody"])), good])
    assert [type(one) for one in found][::2] == [Found, Found] and "nobody" in str(found[1])


def test_a_reader_keeps_its_snapshot(client: TestClient, encoder: Encoder, folder: Path) -> None:
    served = Served("m", encoder, folder)
    before = served.snapshot
    query = encoder.encode([Text("q", "lamp", "en")], "query")[0]
    old = before.search([query], 90, None)
    served.change([Change(delete=("en:1",))])
    assert served.snapshot is not before and served.snapshot.living == 89
    assert before.search([query], 90, None) == old and before.passages(["en:1"])["en:1"].lang == "en"
    assert len(served.snapshot.search([query], 90, None)[0][0]) == 89


def test_a_change_that_the_disk_refuses(client: TestClient, folder: Path) -> None:
    from filelock import FileLock

    document = {"documents": [{"id": "a", "text": "lamp", "lang": "en"}]}
    with FileLock(folder / ".lock"):
        answer = client.post("/documents", json=document)
    assert answer.status_code == 503 and str(folder) not in answer.text and "retry-after" in answer.headers
    assert client.get("/documents/a").status_code == 404
    assert client.post("/documents", json=document).status_code == 200


def test_an_error_of_ours_tells_the_client_nothing(
    exact: TestClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Served, name: str) -> None:
        raise ValueError("secret")

    monkeypatch.setattr(Served, "passage", broken)
    answer = exact.get("/documents/en:1")
    assert answer.status_code == 500 and "secret" not in answer.text and answer.json()["error"]
    assert "secret" in capsys.readouterr().err


def test_metrics_are_prometheus_text(exact: TestClient) -> None:
    exact.post("/search", json={"query": "lamp", "lang": "en"})
    exact.post("/search", json={"query": "lamp", "lang": "xx"})
    exact.get("/documents/en:1")
    exact.get("/no/such/place")
    text = exact.get("/metrics").text
    assert 'colbertxm_requests_total{route="/search",method="POST",status="200"} 1\n' in text
    assert 'colbertxm_requests_total{route="/search",method="POST",status="422"} 1\n' in text
    assert 'route="/documents/{id}",method="GET",status="200"} 1\n' in text
    assert 'route="other",method="GET",status="404"} 1\n' in text
    assert 'colbertxm_request_seconds_count{route="/search"} 2\n' in text
    assert 'colbertxm_request_seconds_bucket{route="/search",le="+Inf"} 2\n' in text
    assert 'colbertxm_passages{of="main"} 90\n' in text
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+\{(\w+=\"[^\"]*\",?)+\} [0-9.e+-]+", line), line


def test_openapi_states_the_limits(exact: TestClient) -> None:
    found = exact.get("/openapi.json").json()
    shapes = found["components"]["schemas"]
    assert shapes["SearchBody"]["properties"]["query"]["maxLength"] == 2000
    assert shapes["SearchBody"]["properties"]["k"]["maximum"] == 100
    assert shapes["DocumentsBody"]["properties"]["documents"]["maxItems"] == 256
    assert set(found["paths"]) == {
        "/search", "/matches", "/documents", "/documents/{id}", "/info", "/health", "/metrics",
    }  # fmt: skip
    assert exact.get("/docs").status_code == 404 and exact.post("/health").status_code in (405, 415)
