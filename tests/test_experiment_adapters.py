"""Questions about adapters: pretrained once for all conditions, read as a condition says, added after training."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import experiment_jobs
import pytest
import yaml
from omegaconf import OmegaConf
from test_pretrain import TINY

from colbertxm import stages
from colbertxm.errors import UserError
from colbertxm.evaluation import experiment_page
from colbertxm.evaluation.experiment_tests import compare
from colbertxm.questions import command, pretrained, tables, workshop
from colbertxm.questions.jobs import compose_job, expand, finished, job_hash, training_hash
from colbertxm.questions.tables import write_question

FEW = [
    *TINY,
    "pretraining.languages=[en,de,ja]",
    "mlm.lr=0.1",
    "neighbours=[[de,ja]]",
    "seed=1",
    "evaluation.sample=40",
]
THREE = "evaluation.langs=[en,de,ja]"


@pytest.fixture(autouse=True)
def new_workshop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "_HERE", [])


def plan(question: str, *overrides: str) -> list[tuple[str, Any]]:
    return experiment_jobs.jobs(question, *FEW, *overrides)  # type: ignore[return-value]


def values(cfg: Any, metric: str = "RR@10") -> dict[str, float]:
    found = finished(cfg)
    assert found is not None
    return {row["language_pair"]: row["value"] for row in found["rows"] if row["metric"] == metric}


def job(*words: str, question: str = "adapters") -> Any:
    """A job of a question with settings that are put in without composing anew, which takes most of a second."""
    cfg = copy.deepcopy(composed(question))
    for word in words:
        key, _, value = word.partition("=")
        OmegaConf.update(cfg, key, yaml.safe_load(value))
    return cfg


@functools.cache
def composed(question: str) -> Any:
    return compose_job([f"sweep={question}"])


def readme(folder: Path, question: str) -> Path:
    path = folder / question / "README.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# A question\n\n{experiment_page.BEGIN}\n{experiment_page.END}\n")
    return path


def test_each_condition_reads_otherwise_and_all_share_one_pretraining(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "compare", functools.partial(compare, samples=200))
    overrides = [THREE, "neighbours=[[de,ja],[ja,de]]", "adapters=own,english,related,random,none,base"]
    jobs = plan("adapters", *overrides)
    assert command.run_plan(jobs) == []
    err = capsys.readouterr().err
    assert err.count("  adapters of en, de, ja: ") == 1 and err.count("[head]") == 1
    assert err.count("  trained in ") == 2, "one retriever on pretrained adapters, one without"
    assert "read by: de by ja, ja by de" in err
    found = {cfg.adapters: values(cfg) for _, cfg in jobs}
    assert all({"en-en", "de-de", "ja-ja", "others"} == pairs.keys() for pairs in found.values())
    assert found["own"]["en-en"] == found["english"]["en-en"] == found["related"]["en-en"], "English keeps its own"
    assert len({tuple(sorted(pairs.items())) for pairs in found.values()}) == len(found), "each is another reading"
    for _, cfg in jobs:
        of_adapter = values(cfg, "mlm_loss_after")
        assert of_adapter.keys() == ({"en-en", "de-de", "ja-ja"} if cfg.adapters == "own" else set())
    before, after = (values(jobs[0][1], f"mlm_loss_{when}") for when in ("before", "after"))
    rows = json.loads(next(Path("outputs/experiments/models").rglob("pretrain.json")).read_text())["rows"]
    assert {f"{r['lang']}-{r['lang']}": float(f"{r['loss_after']:.6g}") for r in rows} == after != before

    workshop._HERE.clear()
    times = {p: p.stat().st_mtime_ns for p in Path("outputs").rglob("*.json")}
    assert command.run_plan(jobs, keep_models=False) == []
    assert "starts" not in capsys.readouterr().err
    assert times == {p: p.stat().st_mtime_ns for p in Path("outputs").rglob("*.json")}, "a second start runs nothing"

    path = readme(world / "e", "adapters")
    shown = write_question("adapters", world / "e", [*experiment_jobs.SMALL, *FEW, *overrides])
    assert "6 of 6 jobs" in shown
    text = path.read_text()
    line = next(line for line in text.splitlines() if line.startswith("| adapters=none | 1 |"))
    assert f"| {found['none']['de-de']:.3f} | {found['none']['ja-ja']:.3f} |" in line
    lines = [line for line in text.splitlines() if line.startswith("| adapters=english | ")]
    (difference,) = [line for line in lines if "| 1 |" not in line and "own" not in line]
    assert f"{found['english']['de-de'] - found['own']['de-de']:+.3f}" in difference
    assert f"| adapters=own | de | {before['de-de']:.3f} | {after['de-de']:.3f} |" in text
    assert (path.parent / "picture.png").stat().st_size > 5_000


def test_a_language_added_later_has_what_it_would_have_had(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = plan("added_language", "pretraining.later=[de]", "adapters=own,added,related,english,none")
    assert [len(workshop.models_of(cfg)) for _, cfg in jobs] == [2, 3, 2, 2, 2]
    assert command.run_plan(jobs[1:]) == [] == command.run_plan(jobs[:1])
    err = capsys.readouterr().err
    assert [err.count(f"  adapters of {names}: ") for names in ("en, ja", "de", "en, de, ja")] == [1, 1, 1]
    assert err.count("  trained in ") == 2, "with German, and once without for all others"
    found = {cfg.adapters: values(cfg) for _, cfg in jobs}
    later = [found[name] for name in ("added", "related", "english", "none")]
    assert len({pairs["en-en"] for pairs in later}) == 1, "what is there already stays"
    assert len({pairs["de-de"] for pairs in later}) == 4
    assert values(jobs[1][1], "mlm_loss_after").keys() == {"de-de"}
    _, added = jobs[1]
    model = stages.open_model(Path("outputs/experiments/models") / training_hash(added) / "model")
    assert model.languages == ["en", "ja"], "the trained model has never seen it"
    head = pretrained.folder_of(added)
    assert head is not None and not (pretrained.added(added) / "head.safetensors").exists(), "it learnt by the others'"


def test_a_pretraining_that_was_cut_off_goes_on(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from colbertxm.training import mlm_stages

    ((_, cfg),) = plan("adapters", "adapters=own")
    stage, asked = mlm_stages.adapter_stage, []

    def dying(run: Any, head: Any, name: str, corpora: Any) -> Any:
        asked.append(name)
        if name == "ja_XX" and asked.count(name) == 1:
            raise KeyboardInterrupt
        return stage(run, head, name, corpora)

    monkeypatch.setattr("colbertxm.pretraining.adapter_stage", dying)
    with pytest.raises(KeyboardInterrupt):
        pretrained.pretrained(cfg)
    folder = pretrained.folder_of(cfg)
    assert folder is not None and not (folder / "pretrain.json").exists()
    times = {p.name: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    assert times.keys() == {"head.safetensors", "en_XX.safetensors", "de_DE.safetensors"}
    assert pretrained.pretrained(cfg) == folder and (folder / "pretrain.json").exists()
    assert times.items() < {p.name: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}.items()
    assert pretrained.pretrained(cfg) == folder and len(asked) == 6, "and then it is finished"


def test_hashes_tell_conditions_and_pretrainings_apart() -> None:
    names = ("own", "english", "related", "random", "none", "base")
    jobs = {name: job(f"adapters={name}") for name in names}
    assert len({job_hash(cfg) for cfg in jobs.values()}) == len(names)
    assert len({training_hash(cfg) for name, cfg in jobs.items() if name != "base"}) == 1
    assert training_hash(jobs["base"]) != training_hash(jobs["own"])
    folder = pretrained.folder_of(jobs["own"])
    assert pretrained.folder_of(jobs["base"]) is None
    assert training_hash(job("adapters=own", "mlm.log_every=1")) == training_hash(jobs["own"])
    for same in ("seed=7", "trainer.steps=3", "adapters=none", "freeze.top_k=1", "model.dim=8", "mlm.log_every=1"):
        assert pretrained.folder_of(job("adapters=own", same)) == folder, same
    for other in ("mlm.steps=3", "pretraining.seed=1", "pretraining.corpus=x", "pretraining.init={de: random}"):
        cfg = job("adapters=own", other)
        assert pretrained.folder_of(cfg) != folder and training_hash(cfg) != training_hash(jobs["own"]), other
        assert training_hash(job("adapters=base", other)) == training_hash(jobs["base"]), other
    start, added = (job(f"adapters={name}", question="added_language") for name in ("own", "added"))
    assert training_hash(start) == training_hash(jobs["own"]), "from the start is the other question's"
    assert training_hash(added) != training_hash(start)
    assert job_hash(job(question="single_or_multi")) == job_hash(job("mlm.steps=3", question="single_or_multi"))


def test_the_small_freezing_shares_what_the_small_adapters_trained() -> None:
    def hashes(question: str) -> set[str]:
        return {training_hash(compose_job(job)) for job in expand(f"small/{question}", ["seed=1"])}

    assert len(hashes("freezing") & hashes("adapters")) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adapters=englsh"], "did you mean 'english'"),
        (["adapters=added"], r"pretraining.later=\[\]: name languages"),
        (["adapters=own", "pretraining.languages=null"], "needs languages"),
        (["adapters=own", "evaluation.langs=null"], "evaluation.langs="),
        (["adapters=own", "evaluation.langs=[en,fi]"], "lacks fi"),
        (["adapters=own", "neighbours=[ja]"], r"neighbours=.* give pairs"),
        (["adapters=own", "checkpoint=untrained"], "leave checkpoint out"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        training_hash(job(*words))
