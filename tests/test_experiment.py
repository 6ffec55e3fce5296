"""Sweeps: hashes, rows, finished jobs left alone, killed ones continued, tables and W&B files that tell the same."""

from __future__ import annotations

import copy
import csv
import itertools
import json
import time
from pathlib import Path
from typing import Any

import experiment_jobs
import numpy as np
import pytest
import yaml
from killable import SERVER, kill
from omegaconf import DictConfig, OmegaConf
from test_config import call

from colbertxm import entry
from colbertxm.data.sampling import Subset
from colbertxm.data.smart_home import open_smart_home
from colbertxm.data.translated import translate_queries
from colbertxm.errors import UserError
from colbertxm.evaluation import experiment_page
from colbertxm.evaluation.experiment_rows import COLUMNS, read_csv, split_pair, split_settings, write_csv
from colbertxm.evaluation.experiment_tests import Queries, compare, read_queries
from colbertxm.questions import command, workshop
from colbertxm.questions.jobs import (
    compose_job,
    expand,
    finished,
    job_folder,
    job_hash,
    sweep_of,
    sweeps,
    training_hash,
)
from colbertxm.questions.tables import write_question
from colbertxm.questions.wandb_files import section, sweep_file, write_files

QUESTIONS = sorted(sweeps())
EXPERIMENTS = Path(__file__).parent.parent / "experiments"
TWO = ["experiment=multi_vector,single_vector", "seed=1"]


@pytest.fixture(autouse=True)
def new_workshop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "_HERE", [])


def readme(folder: Path, question: str = "single_or_multi") -> Path:
    path = folder / question / "README.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# A question\n\n{experiment_page.BEGIN}\n{experiment_page.END}\n\nWhat it shows.\n")
    return path


def plan(*overrides: str) -> list[tuple[str, Any]]:
    return experiment_jobs.jobs("single_or_multi", *TWO, *overrides)  # type: ignore[return-value]


def test_a_sweep_its_rows_its_second_start_and_its_table(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*experiment_jobs.SMALL, *TWO]
    call(monkeypatch, "experiment", "-m", "sweep=single_or_multi", *overrides)  # Hydra's basic launcher
    err = capsys.readouterr().err
    assert err.count(": starts, ") == 2 and err.count("mining hard negatives") == 1, "mined once for both"
    rows = [row for _, cfg in plan() for row in finished(cfg)["rows"]]  # type: ignore[index]
    assert all(tuple(row) == tuple(sorted(COLUMNS)) for row in rows)
    places = [(r["settings"].split()[0], r["language_pair"], r["metric"]) for r in rows]
    assert len(set(places)) == len(places) == 2 * (4 * 3 + 2)
    assert {p for _, p, _ in places} == {"en-en", "de-de", "en-de", "de-en", "others", "across"}
    by_place = {(r["settings"].split()[0], r["language_pair"], r["metric"]): r for r in rows}
    one = by_place["name=single_vector", "others", "RR@10"]
    assert one["value"] == pytest.approx(by_place["name=single_vector", "de-de", "RR@10"]["value"], abs=1e-6)
    assert one["low"] <= one["value"] <= one["high"] and one["seconds"] > 0 and one["method"] == "none"

    monkeypatch.setattr(workshop, "_HERE", [])
    times = {p: p.stat().st_mtime_ns for p in Path("outputs").rglob("rows.json")}
    call(monkeypatch, "experiment", "-m", "sweep=single_or_multi", *overrides)
    err = capsys.readouterr().err
    assert err.count("finished before") == 2 and "starts" not in err and "mining" not in err
    assert {p: p.stat().st_mtime_ns for p in Path("outputs").rglob("rows.json")} == times

    path = readme(world / "e")
    call_table = ["question=single_or_multi", f"folder={world / 'e'}", *overrides]
    assert command.write_tables(call_table) == 0
    with (path.parent / "results.csv").open() as file:
        lines = list(csv.reader(file))
    assert tuple(lines[0]) == COLUMNS and len(lines) == 1 + len(rows)
    text = path.read_text()
    means = {c: by_place[f"name={c}", "others", "RR@10"]["value"] for c in ("multi_vector", "single_vector")}
    for name, value in means.items():
        assert f"| name={name} | 1 |" in text and f"| {value:.3f} |" in text
    difference = means["single_vector"] - means["multi_vector"]
    assert f"| name=multi_vector | other languages | {difference:+.3f} |" in text
    assert text.endswith("What it shows.\n") and "![single_or_multi](picture.png)" in text
    assert 5_000 < (path.parent / "picture.png").stat().st_size < 100_000
    (path.parent / "results.csv").write_text((path.parent / "results.csv").read_text().replace("single_v", "other_v"))
    assert "name=other_vector" in experiment_page.page("single_or_multi", path.parent), "it is what the csv says"


def test_a_killed_sweep_continues_with_the_missing_job_alone(
    world: Path, wheels: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = plan()
    process = SERVER.Process(
        target=experiment_jobs.run_in, args=(world, wheels, "single_or_multi", TWO, 0.5), daemon=True
    )
    process.start()
    second = Path("outputs/experiments/models") / training_hash(jobs[1][1]) / "checkpoints"
    until = time.monotonic() + 60
    while not list(second.glob("resume-*.ckpt")) and time.monotonic() < until:
        time.sleep(0.02)
    kill([process])
    assert [finished(cfg) is not None for _, cfg in jobs] == [True, False]
    capsys.readouterr()
    assert command.run_plan(jobs, keep_models=False) == []
    assert not second.parent.exists(), "nobody needs the model any more"
    printed = capsys.readouterr()
    assert "2 jobs, 1 finished before" in printed.out and printed.out.count("min left") == 1
    assert printed.err.count(": starts, ") == 1 and "name=single_vector seed=1: starts" in printed.err
    assert "resuming from" in printed.err, "its training went on where it was"
    assert all(finished(cfg) is not None for _, cfg in jobs)


def changed(cfg: DictConfig, setting: str, value: Any) -> DictConfig:
    """A copy with another value: to compose anew for each takes a third of a second."""
    cfg = copy.deepcopy(cfg)
    OmegaConf.update(cfg, setting, value)
    return cfg


def test_the_hash_is_of_what_changes_numbers() -> None:
    cfg = compose_job(["sweep=single_or_multi"])
    same = {"output": "elsewhere", "logger.mode": "offline", "trainer.workers": 3, "trainer.log_every": 1,
            "optimizer.lr": "0.00005", "trainer.checkpoint_every": 7, "name": "other"}  # fmt: skip
    for setting, value in same.items():
        assert job_hash(changed(cfg, setting, value)) == job_hash(cfg), setting
    others = {"optimizer.lr": 1e-4, "seed": 7, "evaluation.sample": 9, "loss.temperature": 0.1,
              "data.clean_only": False, "trainer.steps": 63, "index.bits": 2,
              "evaluation.lang_proxy": {"de": "en"}}  # fmt: skip
    for setting, value in others.items():
        assert job_hash(changed(cfg, setting, value)) != job_hash(cfg), setting
    trained = training_hash(cfg)
    assert trained == training_hash(changed(cfg, "evaluation.sample", 9))
    assert trained != training_hash(changed(cfg, "model.pooling", "single"))
    crossed = compose_job(["sweep=cross_lingual", "data.translated_share=0.0"])
    assert trained == training_hash(crossed), "nothing is translated at a share of 0"
    assert trained != training_hash(changed(crossed, "data.translated_share", 0.1))


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("size", ["full", "small"])
def test_every_sweep_composes_for_all_its_jobs(question: str, size: str) -> None:
    jobs = [compose_job(job) for job in expand(sweep_of(question, size))]
    for cfg in jobs:
        entry.check_filled(cfg, "experiment")
        assert (cfg.question, cfg.size) == (question, size)
    assert len({job_hash(cfg) for cfg in jobs}) == len(jobs), "two jobs are one"
    base = {str(cfg.condition) for cfg in jobs if cfg.against is not None}
    assert not base or str(jobs[0].against).removesuffix(" budget=all") in base, "nobody is the one to compare with"


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_readme_and_its_commands_compose(question: str) -> None:
    """Among them MS MARCO and the paper's base: `data=` and `model=` change, and nothing else is in the way."""
    import shlex

    path = EXPERIMENTS / question / "README.md"
    text = path.read_text(encoding="utf-8")
    assert experiment_page.BEGIN in text and experiment_page.page(question, path.parent) in text
    lines = [line for block in text.split("```")[1::2] for line in block.splitlines() if line.startswith("colbertxm")]
    msmarco = 0
    for line in lines:
        verb, action, *words = shlex.split(line, comments=True)[1:]
        assert verb == "experiment"
        if action in command.VERBS:
            assert command.asked(words).questions == [question]
            continue
        sweep = words[0].removeprefix("sweep=")
        jobs = expand(sweep, [w for w in words[1:] if "launcher" not in w])
        for cfg in map(compose_job, (jobs[0], jobs[-1])):
            if "data=msmarco" in words:
                assert cfg.data._target_.endswith(".ms_marco") and cfg.model.base == "facebook/xmod-base"
                assert cfg.evaluation.collection == "mmarco"
                msmarco += 1
    assert msmarco == 2


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_wandb_sweep_covers_the_grid(question: str, tmp_path: Path) -> None:
    """By the code with which W&B's own agent makes a command line."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args, make_launch_sweep_entrypoint

    write_files([question], tmp_path)
    text = (tmp_path / question / "sweep.yaml").read_text()
    assert text == (EXPERIMENTS / question / "sweep.yaml").read_text(), "run `colbertxm experiment wandb`"
    found = yaml.safe_load(text)
    assert found == sweep_file(question) and found["method"] == "grid"
    assert set(found["metric"]) == {"name", "goal"}
    lines = set()
    for values in itertools.product(*(p["values"] for p in found["parameters"].values())):
        args = {key: {"value": value} for key, value in zip(found["parameters"], values, strict=True)}
        filled = create_sweep_command_args({"args": args})
        line, own = make_launch_sweep_entrypoint(filled, list(found["command"]))
        assert line is not None and line[2:4] == ["-m", "colbertxm.experiment"]
        lines.add((*line[4:], *own))
    assert lines == {tuple(job) for job in expand(question)}, "what the agent types is what -m runs"
    panels = section(question)["panels"]
    assert found["metric"]["name"] in {panel.get("metric") for panel in panels}
    stored = json.loads((EXPERIMENTS / "dashboard.json").read_text())["sections"]
    assert next(s for s in stored if s["name"] == question)["panels"] == panels


def test_teachers_are_trained_first_and_shared(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taught = experiment_jobs.jobs("distillation", "experiment=nway_labels,nway_ensemble", "seed=1",
                                  "trainer.negatives=2")  # fmt: skip
    assert len(workshop.models_of(taught[1][1])) == 3, "itself and two teachers"  # type: ignore[arg-type]
    assert command.run_plan(taught, keep_models=False) == []  # type: ignore[arg-type]
    err = capsys.readouterr().err
    assert err.count("asking the teacher") == 2 and err.count("  trained in") == 3, "seed 1's labels are shared"
    assert not list(Path("outputs/experiments/models").iterdir())


def test_energy_states_its_method_and_the_papers_formula(world: Path) -> None:
    ((_, cfg),) = experiment_jobs.jobs("energy", "experiment=multi_vector", "seed=1", "index.passages=5",
                                       "energy.mode=auto", "energy.tdp_watts=100")  # fmt: skip
    assert command.run_plan([("energy", cfg)]) == []  # type: ignore[list-item]
    figures = {r["metric"]: r for r in finished(cfg)["rows"]}  # type: ignore[index, arg-type]
    train = figures["training_paper_kwh"]
    assert train["value"] == pytest.approx(100 * figures["training_seconds"]["value"] / 3.6e6, rel=1e-3)
    assert figures["training_paper_kg"]["value"] == pytest.approx(0.432 * train["value"], rel=1e-3)
    index = figures["indexing_a_million_seconds"]
    assert index["value"] == pytest.approx(index["seconds"] * 1e6 / 5, rel=1e-3)
    assert all((r["kwh"] is None) == (r["method"] == "none") for r in figures.values())


def test_bits_and_budgets(world: Path) -> None:
    few = ["index.bits=null,4", "seed=1", "index.budgets=[10,20]"]
    bits = experiment_jobs.jobs("compression", *few)
    assert command.run_plan(bits) == []  # type: ignore[arg-type]
    rows = [r for _, cfg in bits for r in finished(cfg)["rows"]]  # type: ignore[index, arg-type]
    overlap = {r["settings"].split(" size")[0]: r["value"] for r in rows if r["metric"] == "overlap@10"}
    assert overlap.keys() == {"bits=None budget=all", "bits=4 budget=10", "bits=4 budget=20"}
    assert overlap["bits=None budget=all"] > 0.9
    size = {r["settings"].split()[0]: r["value"] for r in rows if r["metric"] == "bytes_per_vector"}
    assert size["bits=None"] >= 16
    exact = [r for r in rows if "bits=None budget=all" in r["settings"]]
    assert {r["language_pair"] for r in exact} == {"en-en", "de-de", "others", "all"}
    path = readme(world / "e", "compression")
    assert "2 of 2 jobs" in write_question("compression", world / "e", [*experiment_jobs.SMALL, *few])
    assert "bytes a vector" in path.read_text() and "| bits=4 budget=20 | bits=None budget=all |" in path.read_text()


def test_a_job_that_fails_does_not_stop_the_others(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = plan("evaluation.langs=[en]", "evaluation.cross=none")
    jobs[0][1].evaluation.langs = ["xx"]
    failures = command.run_plan(jobs)
    assert len(failures) == 1 and "'xx'" in failures[0] and finished(jobs[1][1]) is not None


def test_a_damaged_rows_file_is_named(world: Path) -> None:
    (_, cfg), _ = plan()
    job_folder(cfg).mkdir(parents=True)
    (job_folder(cfg) / "rows.json").write_text("{}")
    with pytest.raises(UserError, match=r"rows.json is no finished job .*: delete its folder"):
        finished(cfg)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["question=single_or_mutli"], "did you mean 'single_or_multi'"),
        (["size=smal"], "did you mean 'small'"),
        (["single_or_multi"], "is no key=value"),
    ],
)
def test_mistakes_name_the_nearest(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command.asked(words)


def test_subsets_are_nested() -> None:
    shares = [16, 81, 161, 403, 807, 1613]
    drawn = [set(Subset(1613, count, 3)(np.arange(count)).tolist()) for count in shares]
    assert [len(own) for own in drawn] == shares
    assert all(small < large for small, large in itertools.pairwise(drawn))
    assert drawn[0] != set(Subset(1613, 16, 4)(np.arange(16)).tolist()), "another seed draws others"


def test_translated_queries_are_a_nested_share(wheels: dict[str, Path]) -> None:
    home = open_smart_home(wheels["homeassistant"])
    pairs = home.training_pairs("train")
    few, many = (translate_queries(home, pairs, share, ["de", "ja"]) for share in (0.2, 0.6))
    changed = [{i for i, (q, _) in enumerate(own) if q.lang != "en"} for own in (few, many)]
    assert changed[0] < changed[1] and 0.05 < len(changed[0]) / len(pairs) < 0.4
    for (query, passage), (old, same) in zip(many, pairs, strict=True):
        assert passage == same and home.pair_of(query.id) == home.pair_of(old.id)
        assert query.text == home.pairs[query.lang][home.pair_of(query.id)][0]
    assert translate_queries(home, pairs, 0.0, []) == pairs
    with pytest.raises(UserError, match="translated_langs"):
        translate_queries(home, pairs, 0.1, [])


def test_pairs_and_settings_are_read_back(tmp_path: Path) -> None:
    assert split_pair("zh-hant-sr-latn") == ("zh-hant", "sr-latn") and split_pair("de-en") == ("de", "en")
    assert split_pair("others") is None and split_pair("beir/scifact:en-en") == ("en", "en")
    assert split_settings("mix={'en': 1.0} size=full") == {"mix": "{'en': 1.0}", "size": "full"}
    row = dict.fromkeys(COLUMNS, "x") | {"value": 0.1234567, "low": None, "high": 1.0, "seconds": 3, "kwh": None}
    write_csv(tmp_path / "r.csv", [row])
    assert read_csv(tmp_path / "r.csv")[0] == row | {"value": 0.123457, "seconds": 3.0}
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="has the columns"):
        read_csv(tmp_path / "r.csv")


def test_comparison_over_queries_and_seeds() -> None:
    rng = np.random.default_rng(0)
    keys = tuple(map(str, range(60)))
    first = [{p: Queries(keys, rng.random(60)) for p in ("de-de", "ja-ja")} for _ in range(3)]
    gains = (0.1, 0.2, 0.3)
    second = [{p: Queries(keys, q.values + g) for p, q in run.items()} for run, g in zip(first, gains, strict=True)]
    found = compare(first, second, ["de-de", "ja-ja"], samples=2000)
    assert found.difference == pytest.approx(0.2) and found.by_seed == pytest.approx(gains)
    assert found.p < 0.001 and found.low == pytest.approx(0.1, abs=0.04) and found.high == pytest.approx(0.3, abs=0.04)
    same = compare(first, first, ["de-de"], samples=500)
    assert same.difference == 0 and same.p == 1
    with pytest.raises(ValueError, match="seeds"):
        compare(first, second[:1], ["de-de"])


def test_per_query_values_are_read_back_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    from colbertxm.evaluation.experiment_tests import write_queries

    values = {"zh-hant-en": Queries(("a", "b"), np.array([0.5, 1.0]))}
    write_queries(tmp_path / "q.npz", values)
    found = read_queries(tmp_path / "q.npz")
    assert found["zh-hant-en"].keys == ("a", "b") and found["zh-hant-en"].values.tolist() == [0.5, 1.0]
    (tmp_path / "q.npz").write_bytes((tmp_path / "q.npz").read_bytes()[:-30])
    with pytest.raises(UserError, match="q.npz"):
        read_queries(tmp_path / "q.npz")


def test_where_a_curve_flattens() -> None:
    def line(subset: str, low: float) -> dict[str, Any]:
        return {"scope": "others", "settings": f"subset={subset} size=small", "low": low}

    assert "from 25% on" in experiment_page.flattens([line("1%", -0.1), line("25%", -0.005), line("50%", -0.002)])
    dip = [line("10%", -0.005), line("25%", -0.05), line("50%", 0.0)]
    assert "from 50% on" in experiment_page.flattens(dip), "a dip above counts"
    assert "no share" in experiment_page.flattens([line("50%", -0.02)])
