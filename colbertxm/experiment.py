"""The paper's questions as sweeps: `python -m colbertxm.experiment -m sweep=small/single_or_multi`.

colbertxm experiment -m sweep=QUESTION [key=a,b] [hydra/launcher=joblib]   jobs of one question, finished ones skipped
colbertxm experiment all [size=small] [question=QUESTION]                  all in this process, with the time left
colbertxm experiment table question=QUESTION                               results.csv, table and picture
colbertxm experiment wandb                                                 a sweep.yaml each, dashboard.json
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from colbertxm import entry


def run(cfg: DictConfig) -> None:
    """One job, which shares what it can with the others of this process."""
    from colbertxm.questions.work import run_job
    from colbertxm.questions.workshop import here

    entry.check_filled(cfg, "experiment")
    run_job(cfg, here())


def main() -> None:
    """`all`, `table` and `wandb` go over whole sweeps; anything else is a job, or with -m the jobs, by Hydra."""
    from colbertxm.errors import UserError
    from colbertxm.questions import command

    if sys.argv[1:2] and sys.argv[1] in command.VERBS:
        try:
            code = command.VERBS[sys.argv[1]](sys.argv[2:])
        except UserError as error:
            entry.fail(str(error), error.code)
        except KeyboardInterrupt:
            entry.fail("interrupted; the same command goes on where it stopped", code=130)
        raise SystemExit(code)
    entry.main("experiment", run)()


if __name__ == "__main__":
    main()
