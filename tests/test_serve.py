"""`colbertxm serve` as a command: a user's mistakes in one line, a real process that ends when it is told to, sixteen
clients for a minute, and kill -9 in the middle of a change."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from service_process import Forks, Process, serving
from service_world import Made, make, passages
from test_config import call

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from colbertxm.engine.opening import open_index, verify
from colbertxm.errors import UserError
from colbertxm.service.limits import Limits, check_address

KEY = "0123456789abcdef"
KILLS = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Made:
    return make(tmp_path_factory.mktemp("serve"), wheels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["limits.kk=5"], "did you mean 'limits.k'"),
        (["limits.searches=0"], "limits.searches=0 must be more than 0"),
        (["host=0.0.0.0"], "set COLBERTXM_API_KEY in the environment, or say without_key=true"),
        (["port=0", "compare.name=other"], "compare.name is given alone"),
        (["port=0", "checkpoint=nowhere"], "no model at nowhere"),
        (["port=0", "compare.checkpoint=nowhere"], "no model has been trained in this folder"),
    ],
)
def test_a_mistake_is_one_line(
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.delenv("COLBERTXM_API_KEY", raising=False)
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, "serve", *arguments)
    printed = capsys.readouterr().err.strip().splitlines()
    assert caught.value.code == 1 and printed[-1].startswith("error: ") and message in printed[-1]


def test_a_taken_port_is_one_line(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SystemExit):
        call(monkeypatch, "serve", f"port={other.getsockname()[1]}")
    assert "cannot listen on 127.0.0.1:" in capsys.readouterr().err


def test_a_missing_library_names_the_extra(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import colbertxm.service

    # What is imported anew below becomes the package's attribute: both are put back.
    monkeypatch.setattr(colbertxm, "service", colbertxm.service)
    for name in [name for name in sys.modules if name.startswith("colbertxm.service")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit):
        call(monkeypatch, "serve")
    assert "run `pip install 'colbertxm[serve]'`" in capsys.readouterr().err


def test_who_may_listen_where() -> None:
    for host, key, without_key in (
        ("127.0.0.1", None, False), ("::1", None, False), ("localhost", None, False), ("127.9.9.9", None, False),
        ("0.0.0.0", KEY, False), ("0.0.0.0", None, True),
    ):  # fmt: skip
        check_address(host, 8080, key, without_key)
    for host in ("0.0.0.0", "::", "192.168.1.4", "search.example"):
        with pytest.raises(UserError, match="lets other machines"):
            check_address(host, 8080, None, False)
    for key in ("short", "", "x" * 15, "schlüssel" * 3, "with a space in it"):
        with pytest.raises(UserError, match="at least 16 ASCII characters"):
            check_address("127.0.0.1", 8080, key, False)
    with pytest.raises(UserError, match="is no port"):
        check_address("127.0.0.1", 70_000, None, False)
    with pytest.raises(UserError, match=r"limits.batch_ms=-1"):
        Limits(batch_ms=-1)


def test_it_ends_when_it_is_told_to_and_finishes_what_was_begun(made: Made, tmp_path: Path) -> None:
    folder = shutil.copytree(made.exact, tmp_path / "index")
    with serving(tmp_path / "log", f"checkpoint={made.model}", f"index={folder}", key=KEY) as service:
        search = {"query": "lamp", "lang": "en", "k": 3}
        assert len(service.ask("POST", "/search", search)[1]["hits"]) == 3
        assert service.ask("GET", "/info")[1]["models"][0]["name"] == "trained/index"
        assert service.ask("DELETE", "/documents/en:1") == (200, {"indexed": 89})
        batch = {"documents": [{"id": f"x{n}", "text": f"lamp {n}", "lang": "en"} for n in range(250)]}
        with ThreadPoolExecutor(1) as pool:
            begun = pool.submit(service.ask, "POST", "/documents", batch)
            until = time.monotonic() + 60
            waiting = 'colbertxm_waiting{of="change"} 0'
            while waiting in metrics(service) and not begun.done():
                assert time.monotonic() < until
            service.process.send_signal(signal.SIGTERM)
            assert begun.result() == (200, {"indexed": 339})
        assert service.stop() == 0
        assert "Traceback" not in service.log.read_text() and KEY not in service.log.read_text()
    assert len(open_index(folder).ids) == 339


def metrics(service: Process) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    connection.request("GET", "/metrics", headers={"authorization": f"Bearer {KEY}"})
    return connection.getresponse().read().decode()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sixteen_clients_for_a_minute(made: Made, tmp_path: Path) -> None:
    """Searches of all languages, with a change now and then: no error, and every answer is whole."""
    folder = shutil.copytree(made.compressed, tmp_path / "index")
    wrong: list[object] = []
    counts = [0] * 16
    with serving(tmp_path / "log", f"checkpoint={made.model}", f"index={folder}") as service:
        until = time.monotonic() + 60

        def client(number: int) -> None:
            draw = random.Random(number)
            some = passages()
            while time.monotonic() < until:
                text = draw.choice(some)
                if number == 0 and counts[0] % 10 == 0:
                    document = {"id": f"new{counts[0] % 50}", "text": text.text, "lang": text.lang}
                    status, answer = service.ask("POST", "/documents", {"documents": [document]})
                    good = status == 200 and answer["indexed"] >= 90
                else:
                    body = {"query": text.text, "lang": text.lang, "filters": {"passage_lang": "same"}}
                    status, answer = service.ask("POST", "/search", body)
                    good = status == 200 and len(answer["hits"]) == 10
                    good = good and {hit["lang"] for hit in answer["hits"]} == {text.lang}
                counts[number] += 1
                if not good:
                    wrong.append((status, answer))

        threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert service.stop() == 0
    assert wrong == [] and min(counts) > 5 and sum(counts) > 200
    verify(folder)
    print(f"{sum(counts)} requests")


def batch_of(names: list[str]) -> dict[str, object]:
    return {"documents": [{"id": name, "text": f"lamp {name}", "lang": "en"} for name in names]}


def change_s(service: Process, names: list[str]) -> float:
    """Seconds of an undisturbed change."""
    started = time.monotonic()
    assert service.ask("POST", "/documents", batch_of(names))[0] == 200
    return time.monotonic() - started


def killed_in(service: Process, names: list[str], moment_s: float) -> bool:
    """Whether a change was answered before the service was killed, `moment_s` after it was asked for."""
    timer = threading.Timer(moment_s, service.process.kill)
    timer.start()
    try:
        assert service.ask("POST", "/documents", batch_of(names))[0] == 200
        return True
    except (OSError, http.client.HTTPException, json.JSONDecodeError):
        return False
    finally:
        timer.join()


def alive(folder: Path) -> set[str]:
    """The passages of an index."""
    index = open_index(folder)
    return set(index.texts_of(list(index.ids)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["exact", "compressed"])
def test_killed_in_a_change_it_starts_with_the_index_before_or_after(made: Made, tmp_path: Path, kind: str) -> None:
    """SIGKILL at a random moment of a change; the next process must find all of the change or none of it."""
    folder = Path(shutil.copytree(getattr(made, kind), tmp_path / "index"))
    draw, killed, after, expected = random.Random(kind), 0, 0, 90
    settings = (f"checkpoint={made.model}", f"index={folder}")
    with Forks() as forks:
        for turn in range(KILLS):
            names = [f"{turn}:{n}" for n in range(12)]
            service = Process(tmp_path / "log", *settings, forks=forks)
            try:
                assert service.wait().ask("GET", "/info")[1]["models"][0]["passages"] == expected
                seconds = change_s(service, ["first"])
                answered = killed_in(service, names, draw.random() * 1.5 * seconds)
                assert service.process.wait(60) == -signal.SIGKILL
            finally:
                service.stop(signal.SIGKILL)
            verify(folder)
            there = alive(folder)
            assert there >= {"first"} and there & set(names) in (set(), set(names))  # all of the change or none of it
            assert names[0] in there or not answered
            killed, after = killed + (not answered), after + (names[0] in there and not answered)
            expected = len(there)
            assert expected == 91 + sum(name.endswith(":0") and name[0].isdigit() for name in there) * len(names)
        service = Process(tmp_path / "log", *settings, forks=forks).wait()
        assert service.ask("GET", "/info")[1]["models"][0]["passages"] == expected
        assert change_s(service, ["last"]) and service.stop() == 0
    print(f"{kind}: {killed} of {KILLS} killed before their answer, {after} of them with the change on the disk")
    assert killed >= KILLS // 3
    assert not [name for name in os.listdir(folder) if name.endswith(".part")]
