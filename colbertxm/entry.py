"""What the entry points share: compose a configuration, run the verb, and turn a user's mistake into one line.

colbertxm train +experiment=single_vector        the same as python -m colbertxm.train +experiment=single_vector
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from colbertxm.errors import UserError, nearest
from colbertxm.ranks import rank
from colbertxm.schema import register

TARGETS = ("colbertxm.", "torch.", "lightning.", "transformers.", "torchmetrics.")
"""Whose classes and functions a config may name in `_target_`: it runs them."""


FIRST_RANK_S = 30.0
"""Seconds in which rank 0 may fail for the same reason, and end."""


def config_folder() -> Path:
    """conf/: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def main(verb: str, run: Callable[[DictConfig], None]) -> Callable[[], None]:
    """The verb's command: Hydra's own (overrides, -m, --cfg job, --help), with errors in one line and exit code 1."""

    def command() -> None:
        register()
        # `verb a=1 -m b=2,3` is what people type; Hydra's parser wants its flags before the overrides.
        flags = [argument for argument in sys.argv[1:] if argument in ("-m", "--multirun")]
        sys.argv[1:] = flags[:1] + [argument for argument in sys.argv[1:] if argument not in ("-m", "--multirun")]
        # Hydra prints a traceback for everything unless asked to let exceptions through.
        os.environ["HYDRA_FULL_ERROR"] = "1"

        def task(cfg: DictConfig) -> None:
            try:
                run(cfg)
            except UserError as error:  # here, because Hydra would add a line of its own
                fail(str(error), error.code)

        decorated = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=verb)(task)
        try:
            decorated()
        except UserError as error:
            fail(str(error), error.code)
        except (HydraException, OmegaConfBaseException) as error:
            fail(explain(error, verb))
        except KeyboardInterrupt:
            fail("interrupted; the same command goes on where it stopped", code=130)
        except OSError as error:
            if error.errno is None:
                raise
            fail(f"{error.strerror}: {error.filename or 'while writing'}; free space or choose another place")

    return command


def fail(message: str, code: int = 1) -> None:
    """Print one line on stderr and leave. What all of a run's processes have to say, rank 0 says alone."""
    line = "error: " + " ".join(message.split())
    if number := rank():
        if code == 1:
            # By then the launcher has ended this process, unless rank 0 has no error.
            time.sleep(FIRST_RANK_S)
            print(f"rank {number}: {line}", file=sys.stderr)
    else:
        print(line, file=sys.stderr)
    raise SystemExit(code)


def compose(verb: str, overrides: Sequence[str], hydra_too: bool = False) -> DictConfig:
    """A verb's configuration from Python, `hydra_too`: with Hydra's own. Raises UserError for unknown keys, groups and
    values."""
    register()
    from hydra.core.global_hydra import GlobalHydra

    try:
        if GlobalHydra.instance().is_initialized():
            # Inside a running command: its search path is the same one.
            return hydra.compose(verb, list(overrides), hydra_too)
        with hydra.initialize_config_dir(str(config_folder().resolve()), version_base="1.3"):
            return hydra.compose(verb, list(overrides), hydra_too)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, verb)) from None


def explain(error: Exception, verb: str) -> str:
    """A composition error in one line, with the nearest name that exists."""
    text = str(error).split("\nfull_key")[0]
    if missing := re.search(r"Missing mandatory value: (\S+)|MissingMandatoryValue.*?: (\S+)", text):
        key = missing[1] or missing[2]
        return f"{verb} needs {key}=...: see `colbertxm {verb} --help`"
    if unknown := re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", text):
        key = unknown[1].lstrip("+~").split("=")[0]
        return f"{verb} has no setting {key!r}{nearest(key, known_keys(verb))}; see `colbertxm {verb} --cfg job`"
    if group := re.search(r"Could not find '([^']+)'", text):
        folder, _, _name = group[1].rpartition("/")
        options = sorted(path.stem for path in (config_folder() / folder).glob("*.yaml"))
        hint = f"; there are {', '.join(options)}" if options else ""
        return f"there is no configuration {group[1]!r}{nearest(_name, options)}{hint}"
    first = text.strip().splitlines()
    return f"{verb}: {' '.join(first[:2])}"


def check_filled(cfg: DictConfig, verb: str) -> None:
    """Raise UserError where a setting without default was not given."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        given = " ".join(f"{key}=..." for key in missing)
        raise UserError(f"{verb} needs {given}: see `colbertxm {verb} --help`")


def check_cluster(name: str) -> None:
    """Raise UserError for a cluster that there is not."""
    if name != "ray":
        raise UserError(f"cluster={name!r} is unknown{nearest(name, ['ray'])}: give ray, or leave it out")


def known_keys(verb: str) -> list[str]:
    """Every dotted key of a verb's default configuration."""
    found: list[str] = []

    def walk(node: Any, path: str) -> None:
        for key, value in node.items():
            found.append(f"{path}{key}")
            if isinstance(value, dict):
                walk(value, f"{path}{key}.")

    try:
        walk(OmegaConf.to_container(compose_plain(verb)), "")
    except Exception:  # a broken default config must not hide the user's own error
        return []
    return found


def compose_plain(verb: str) -> DictConfig:
    """The verb's configuration without overrides, whatever Hydra is doing at the moment."""
    from hydra.core.global_hydra import GlobalHydra

    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(config_folder().resolve()), version_base="1.3"):
        return hydra.compose(verb)


def build(cfg: DictConfig, **extra: Any) -> Any:
    """Instantiate a group that names its `_target_`. Raises UserError for one that is not ours or a library's."""
    target = str(cfg.get("_target_"))
    if not target.startswith(TARGETS):
        raise UserError(f"_target_={target!r} is refused: a config may name {', '.join(TARGETS)} only")
    try:
        return instantiate(cfg, **extra)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None  # in its own words
        raise


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A configuration as plain values, interpolations resolved."""
    found = OmegaConf.to_container(cfg, resolve=True)
    if not isinstance(found, dict):
        raise UserError("the configuration is no mapping")
    return {str(key): value for key, value in found.items() if key != "hydra"}
