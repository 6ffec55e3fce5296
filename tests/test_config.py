"""Every configuration composes, and a user's mistake is one line with the nearest name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from colbertxm import entry
from colbertxm.errors import UserError
from colbertxm.questions import command as questions
from colbertxm.schema import SCHEMAS

EXPERIMENTS = sorted(path.stem for path in (entry.config_folder() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("verb", SCHEMAS)
def test_every_verb_composes(verb: str) -> None:
    cfg = entry.compose(verb, [])
    assert OmegaConf.to_container(cfg)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_without_holes(experiment: str) -> None:
    cfg = entry.compose("train", [f"+experiment={experiment}"])
    entry.check_filled(cfg, "train")
    assert cfg.name == experiment and cfg.output == f"outputs/train/{experiment}"


@pytest.mark.parametrize("group", ["data", "model", "freeze", "loss", "optimizer", "trainer", "logger"])
def test_every_option_of_every_group_composes(group: str) -> None:
    for path in (entry.config_folder() / group).glob("*.yaml"):
        entry.check_filled(entry.compose("train", [f"{group}={path.stem}"]), "train")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.stepss=5", "no setting 'trainer.stepss' \\(did you mean 'trainer.steps'"),
        ("trainer.steps=many", "trainer.*many|many.*Integer"),
        ("model=smal", "no configuration 'model/smal' \\(did you mean 'small'"),
        ("+experiment=singel_vector", "'experiment/singel_vector' \\(did you mean 'single_vector'"),
        ("trainer.steps", "trainer.steps"),
    ],
)
def test_mistakes_name_the_nearest(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        entry.compose("train", [override])
    assert "\n" not in str(caught.value)


def test_a_config_may_not_run_anything() -> None:
    with pytest.raises(UserError, match="_target_='os.system' is refused"):
        entry.build(OmegaConf.create({"_target_": "os.system", "command": "true"}))


def call(monkeypatch: pytest.MonkeyPatch, verb: str, *arguments: str) -> None:
    """Run a verb in this process as the command line would."""
    import importlib

    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", [f"colbertxm {verb}", *arguments])
    importlib.import_module(f"colbertxm.{verb}").main()


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("train", ["trainer.stepss=5"], "did you mean 'trainer.steps'"),
        ("train", ["model.languages=[xx]"], "unknown language 'xx'"),
        ("train", ["model.pooling=dual"], "model.pooling='dual'"),
        ("train", ["model.projection=pac", "model.dim=8"], "model.projection='pac' is unknown (did you mean 'pca'?)"),
        ("train", ["freeze.top_k=99", "model.dim=8"], "freeze.top_k=99"),
        ("search", [], "search needs lang=... query=..."),
        ("search", ["light", "lang=en"], "no model has been trained in this folder"),
        ("search", ["light", "lang=klingon", "checkpoint=m"], "unknown language 'klingon'"),
        ("index", ["checkpoint=nowhere"], "no model at nowhere"),
        ("evaluate", ["checkpoints=[nowhere]", "baselines=[]"], "no model at nowhere"),
        (
            "evaluate",
            ["checkpoints=[]", "baselines=[bm52]"],
            "unknown baseline 'bm52' (did you mean 'bm25'?)",
        ),
        ("evaluate", ["checkpoints=[]", "baselines=[bm25]", "langs=[fr]"], "'fr'"),
        ("report", ["results=nowhere.json"], "nowhere.json"),
        ("export", ["to=pylate"], "export needs output=..."),
        ("export", ["to=pilate", "output=o"], "to='pilate' is unknown (did you mean 'pylate'?)"),
        ("export", ["checkpoint=nowhere", "to=pylate", "output=o"], "no model at nowhere"),
        ("export", ["checkpoint=.", "to=pylate", "output=."], "is the checkpoint itself"),
        ("export", ["to=pylate", "output=o", "lang=de", "languages=[de]"], "not both"),
        ("export", ["to=pylate", "output=o", "tokens.marker=none"], "did you mean 'tokens.markers'"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_1(
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    arguments: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, verb, *arguments)
    assert caught.value.code == 1
    printed = capsys.readouterr()
    last = printed.err.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in printed.err


def readme_commands() -> list[list[str]]:
    """Every `colbertxm ...` and `python -m colbertxm...` line of the README's code blocks, split as bash splits it."""
    import shlex
    import subprocess

    found = []
    blocks = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8").split("```")[1::2]
    for line in "\n".join(blocks).splitlines():
        if not line.startswith(("python -m colbertxm.", "colbertxm ")):
            continue
        split = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
        words = split.stdout.split("\0")[:-1]
        # What is not quoted may become something else there: {a,b} two words, $name nothing.
        assert words == shlex.split(line, comments=True), line
        found.append([words[2].removeprefix("colbertxm."), *words[3:]] if words[0] == "python" else words[1:])
    return found


@pytest.mark.parametrize("command", readme_commands(), ids=" ".join)
def test_readme_commands_compose_as_written(command: list[str]) -> None:
    verb, *arguments = command
    if verb == "experiment" and arguments[0] in questions.VERBS:
        assert questions.asked(arguments[1:]).questions
        return
    if verb == "reproduce":  # rows and files, no settings
        from colbertxm.reproduce import parser

        assert parser().parse_args(arguments)
        return
    if verb == "diagnose":
        from colbertxm.diagnose import as_text

        verb, arguments = f"diagnose_{arguments[0]}", arguments[1:]
        arguments = [as_text(a) if a.startswith(("query=", "passage=")) else a for a in arguments]
    overrides = [a for a in arguments if "=" in a]
    if "-m" in arguments:  # a sweep: its first value of each
        overrides = [a.split(",")[0] if a.startswith(("optimizer", "freeze")) else a for a in overrides]
    assert entry.compose(verb, overrides)
    assert verb == "search" or all("=" in a or a == "-m" for a in arguments)
