"""A Ray cluster of two nodes on the loopback: the same bytes and the same hits, with a worker killed in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from index_jobs import files

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'colbertxm[ray]'")

from colbertxm.cluster import on_ray  # noqa: E402
from colbertxm.cluster.indexing import ClusterRetriever  # noqa: E402
from colbertxm.cluster.on_ray import RayEncoders, RaySettings, cluster_engine  # noqa: E402
from colbertxm.engine.opening import open_index  # noqa: E402
from colbertxm.errors import UserError  # noqa: E402
from colbertxm.model.checkpoints import build_encoder, load_model, save_model  # noqa: E402
from colbertxm.model.tokens import TokenSettings  # noqa: E402
from colbertxm.records import Text  # noqa: E402
from colbertxm.retriever import Retriever  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
WORDS = "light lamp door lock heat valve water pump camera motion".split()
PASSAGES = [
    Text(f"p{n}", " ".join(WORDS[n * k % 10] for k in range(1, 2 + n % 7)) + f" {n}", ("en", "de")[n % 2])
    for n in range(400)
]
QUERIES = [Text(f"q{n}", text, "en") for n, text in enumerate(("light lamp", "pump the water", "door 17"))]
SETTINGS = RaySettings("unused", actors=2, cpus=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one processor each, on 127.0.0.1, for which Ray would take the address of the network."""
    from ray.cluster_utils import Cluster

    here = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
    tests = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray._private.services.get_node_ip_address", lambda *given: "127.0.0.1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")]))
        made = Cluster()
        made.add_node(**here, include_dashboard=False)
        ray.init(made.address, log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1")
        made.add_node(**here)
        made.wait_for_nodes()
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def model(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("colbertxm.model.checkpoints.fetch", lambda source, cache=None: wheels[source.name])
        save_model(folder, build_encoder("small", ["en", "de"], TokenSettings(), "multi", 8, 0), {})
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colbertxm.retriever.PASSAGES", 16)
    monkeypatch.setattr("colbertxm.engine.room.CHUNK", 256)
    torch.set_num_threads(1)


@pytest.fixture
def one(model: Path, tmp_path: Path) -> Path:
    Retriever(load_model(model)).write(tmp_path / "one", PASSAGES, {}, bits=4)
    return tmp_path / "one"


def kill(actor: Any) -> None:
    os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)


def test_a_killed_encoder_leaves_the_bytes_of_one_machine(
    cluster: Any, model: Path, one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = load_model(model)
    pool = RayEncoders(ray, SETTINGS, model, encoder)
    done = 0

    def killing(count: int) -> None:
        nonlocal done
        if not done:
            kill(pool.actors[1])
        done += count

    ClusterRetriever(encoder, pool).write(tmp_path / "many", PASSAGES, {}, progress=killing, bits=4)
    assert dict(files(tmp_path / "many")) == dict(files(one)) and done == len(PASSAGES)
    assert "was lost" in capsys.readouterr().err
    nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    assert len(nodes) == 2 and pool.size == 2


def test_a_killed_searcher_is_started_again(cluster: Any, model: Path, one: Path) -> None:
    retriever, notes = Retriever(load_model(model)), []
    retriever.open(one)
    alone = retriever.search(QUERIES, 10, "en")
    engine = cluster_engine(open_index(one), one, SETTINGS, notes.append)
    retriever.open(one, engine=lambda index, folder: engine)
    assert len(engine.searchers.groups) == 2 and retriever.search(QUERIES, 10, "en") == alone and notes == []
    kill(engine.searchers.actors[1])
    assert retriever.search(QUERIES, 10, "en") == alone
    assert len(notes) == 1 and engine.incomplete() is None
    engine.searchers.close()


def test_a_search_without_a_group_says_so(
    cluster: Any, model: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_index(one)
    settings = RaySettings("unused", actors=2, cpus=1, retries=0, partial=True)
    engine = cluster_engine(index, one, settings, print)
    queries = [v for v in Retriever(load_model(model)).encode(QUERIES, "query").values.split(3)][:1]
    engine.search(queries, 3)
    kill(engine.searchers.actors[0])
    engine.search(queries, 3)
    first, last = engine.searchers.groups[0]
    assert engine.incomplete() == (
        f"incomplete: {last - first} of {len(PASSAGES)} passages were not searched (their workers are lost)"
    )
    engine.searchers.close()


def test_mistakes_are_one_line(cluster: Any, model: Path, wheels: dict[str, Path], tmp_path: Path) -> None:
    encoder = load_model(model)
    with pytest.raises(UserError, match="2 processors.*room for 2 actors of 1.*ray.actors=5 does not fit"):
        RayEncoders(ray, RaySettings("unused", actors=5, cpus=1), model, encoder)
    with pytest.raises(UserError, match="no model at .*every machine needs the model at that path"):
        pool = RayEncoders(ray, SETTINGS, tmp_path / "nowhere", encoder)
        ClusterRetriever(encoder, pool).write(tmp_path / "i", PASSAGES, {}, bits=4)
    with torch.no_grad():
        encoder.linear.weight += 1
    with pytest.raises(UserError, match="another model than the coordinator"):
        ClusterRetriever(encoder, RayEncoders(ray, SETTINGS, model, encoder)).write(
            tmp_path / "i", PASSAGES, {}, bits=4
        )


def test_the_commands(cluster: Any, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from colbertxm import entry, index, search

    corpus = tmp_path / "c.tsv"
    corpus.write_text("".join(f"{p.id}\t{p.text}\n" for p in PASSAGES))
    given = [f"checkpoint={model}", "cluster=ray", "ray.cpus=1", "ray.actors=2"]
    index.run(entry.compose("index", [*given, f"corpus={corpus}", "lang=en", "bits=4", f"output={tmp_path / 'i'}"]))
    index.run(entry.compose("index", [given[0], f"corpus={corpus}", "lang=en", "bits=4", f"output={tmp_path / 'j'}"]))
    mine, other = (json_free(tmp_path / name) for name in "ij")
    assert mine == other
    capsys.readouterr()
    for extra in ([*given], given[:1]):
        search.run(entry.compose("search", ["query=light lamp", "lang=en", f"index={tmp_path / 'i'}", *extra]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]
    with pytest.raises(UserError, match="cluster='rey' is unknown \\(did you mean 'ray'"):
        index.run(entry.compose("index", [given[0], "cluster=rey", f"corpus={corpus}", "lang=en", "bits=4"]))


def json_free(folder: Path) -> dict[str, bytes]:
    """All files but the manifest, which says how much energy was used."""
    return {name: content for name, content in files(folder) if name != "manifest.json"}


def test_no_cluster_at_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "import_ray", lambda: Absent)
    with pytest.raises(UserError, match="no Ray cluster at ray.address=auto \\(nobody\\)"):
        on_ray.connect(RaySettings("auto"))


class Absent:
    @staticmethod
    def is_initialized() -> bool:
        return False

    @staticmethod
    def init(*given: Any, **options: Any) -> None:
        raise ConnectionError("nobody")
