"""A thousand requests that schemathesis makes wrong by our own OpenAPI document, and bytes that are hardly JSON: no
500, each refusal in one line, and the index as it was."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from service_process import Process, serving
from service_world import Made, make, passages

pytest.importorskip("fastapi")

from colbertxm.engine.opening import open_index, verify

pytestmark = pytest.mark.slow
MALFORMED = {"/search": 450, "/documents": 350, "/matches": 250}
ODD = [("/documents/{id}", "GET"), ("/documents/{id}", "DELETE"), ("/search", "POST"), ("/documents", "POST")]
"""Requests that fit the document and mean nothing: any id, any language."""
RIGHT = {
    "/search": {"query": "lamp", "lang": "en", "k": 3, "filters": {"passage_lang": ["en"], "ids": ["en:1"]}},
    "/matches": {"query": "lamp", "lang": "en", "id": "en:1"},
    "/documents": {"documents": [{"id": "a", "text": "lamp", "lang": "en"}]},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Made:
    return make(tmp_path_factory.mktemp("malformed"), wheels)


def check_whole(service: Process, folder: Path, added: set[str]) -> None:
    """All passages that were there are, as they were."""
    texts = {p.id: p.text for p in passages()}
    assert {name: text for name, text in open_index(folder).texts_of(texts).items()} == texts
    count = service.ask("GET", "/info")[1]["models"][0]["passages"]
    assert count == len(texts) + len(added - texts.keys())
    body = {"query": "lamp", "lang": "en", "k": 100, "filters": {"ids": sorted(texts)}}
    assert len(service.ask("POST", "/search", body)[1]["hits"]) == len(texts)
    verify(folder)


@pytest.mark.timeout(1800)
def test_a_thousand_requests_of_schemathesis(made: Made, tmp_path: Path) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="not installed: pip install 'colbertxm[dev-serve]'")
    from hypothesis import HealthCheck, Phase, given, settings

    folder = Path(shutil.copytree(made.compressed, tmp_path / "index"))
    statuses: Counter[tuple[str, int]] = Counter()
    added: set[str] = set()
    with serving(tmp_path / "log", f"checkpoint={made.model}", f"index={folder}") as service:
        api = schemathesis.openapi.from_dict(service.ask("GET", "/openapi.json")[1])

        def run(path: str, method: str, count: int, mode: Any) -> None:
            @settings(max_examples=count, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                      suppress_health_check=list(HealthCheck))  # fmt: skip
            @given(case=api[path][method].as_strategy(generation_mode=mode))
            def sent(case: Any) -> None:
                answer = case.call(base_url=service.url)
                statuses[f"{method} {path}", answer.status_code] += 1
                assert answer.status_code < 500, (case.body, answer.text)
                if answer.status_code == 200 and path == "/documents":
                    added.update(document["id"] for document in case.body["documents"])
                if answer.status_code >= 400:
                    error = answer.json()
                    assert error.keys() == {"error"} and "\n" not in error["error"] and len(error["error"]) < 2000

            sent()

        for path, count in MALFORMED.items():
            run(path, "POST", count, schemathesis.GenerationMode.NEGATIVE)
        malformed = sum(statuses.values())
        for path, method in ODD:
            run(path, method, 40, schemathesis.GenerationMode.POSITIVE)
        check_whole(service, folder, added)
        assert "Traceback" not in service.log.read_text()
    print(f"{malformed} malformed requests:", dict(statuses))
    assert malformed >= 1000
    assert sum(n for (_, status), n in statuses.items() if status == 422) > 500


@pytest.mark.timeout(900)
def test_a_thousand_bodies_of_damaged_json(made: Made, tmp_path: Path) -> None:
    """Needs no library: cut, doubled, flipped and nested bodies of requests that were right."""
    import http.client

    folder = Path(shutil.copytree(made.exact, tmp_path / "index"))
    draw, statuses = random.Random(0), Counter[int]()
    with serving(tmp_path / "log", f"checkpoint={made.model}", f"index={folder}") as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        for _ in range(1000):
            path = draw.choice(sorted(RIGHT))
            body = damaged(json.dumps(RIGHT[path]).encode(), draw)
            connection.request("POST", path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
            statuses[answer.status] += 1
            assert answer.status < 500, (body, said)
            assert answer.status == 200 or json.loads(said).keys() == {"error"}
        connection.close()
        found = service.ask("GET", "/documents/a")[0]
        check_whole(service, folder, {"a"} if found == 200 else set())
        assert "Traceback" not in service.log.read_text()
    print("damaged bodies:", dict(statuses))
    assert sum(statuses.values()) == 1000 and statuses[422] > 800


def damaged(body: bytes, draw: random.Random) -> bytes:
    """`body` in one of five ways no longer what it was."""
    at = draw.randrange(len(body))
    kind = draw.randrange(5)
    if kind == 0:
        return body[:at]
    if kind == 1:
        return body[:at] + bytes([draw.randrange(256)]) + body[at + 1 :]
    if kind == 2:
        return body + body
    if kind == 3:
        return b"[" * draw.randrange(1, 200_000) + body
    number = draw.choice([b"NaN", b"-1e999", b"1" * 5000, b'"\\ud800"', b"null", b"{}", b"[[]]", b'"\\u0000"'])
    places = [n for n in range(len(body)) if body[n : n + 2] == b": "]
    at = draw.choice(places) + 2
    return body[:at] + number + body[at + 1 :] if draw.random() < 0.3 else body[:at] + number + b"}"
