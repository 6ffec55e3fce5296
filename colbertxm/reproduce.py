"""The reproduction matrix: `colbertxm reproduce list | page | check ROW RESULTS | run ROW --data FOLDER`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from colbertxm import entry
from colbertxm.errors import UserError


class Parser(argparse.ArgumentParser):
    """Mistakes in one line, as everywhere."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see `colbertxm reproduce --help`")


def parser() -> Parser:
    """What can be typed."""
    made = Parser(prog="colbertxm reproduce", description=__doc__)
    made.add_argument("action", choices=("list", "page", "check", "run"))
    made.add_argument("row", nargs="?", help="of check and run: a row's name")
    made.add_argument("results", nargs="?", type=Path, help="of check: a results.json of `colbertxm evaluate`")
    made.add_argument("--rows", type=Path, help="folder of the YAML files; else this checkout's")
    made.add_argument("--data", type=Path, help="of run: folder with the files that the row names")
    made.add_argument("--work", type=Path, default=Path("outputs/reproduction"), help="of run: where results go")
    made.add_argument("--published", action="store_true", help="the published weights instead of trained ones")
    made.add_argument("--miniature", action="store_true", help="of run: the same commands on a few invented lines")
    made.add_argument("--model", help="of check: which model of the results, where there are several")
    return made


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; the exit status, 1 where a figure is outside its tolerance or missing."""
    from colbertxm.evaluation import reproduction_verbs as verbs

    asked = parser().parse_args(arguments)
    folder = asked.rows or Path(__file__).parent.parent / "experiments" / "reproduction"
    return verbs.do(folder, **{key: value for key, value in vars(asked).items() if key != "rows"})


def main() -> None:
    """The verb's command."""
    try:
        code = run(sys.argv[1:])
    except UserError as error:
        entry.fail(str(error), error.code)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
