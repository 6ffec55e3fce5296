"""`colbertxm <verb> ...`: the console script. Each verb is the module of that name."""

from __future__ import annotations

import importlib
import sys

from colbertxm.errors import nearest

VERBS = {
    "demo": "the whole road in ten minutes, on real text",
    "train": "train a retriever on English",
    "pretrain": "train language adapters on unlabelled text",
    "graft": "put language adapters into a trained model",
    "index": "encode passages into a searchable folder",
    "search": "find passages for a query",
    "serve": "search over HTTP, with a page",
    "evaluate": "measure models and baselines in every language",
    "experiment": "the paper's questions: sweeps that run, and go on where they stopped",
    "reproduce": "the paper's rows: commands, published figures, what was measured",
    "report": "tables and pictures of measured results",
    "diagnose": "look closer: two runs, spreads, an index's recall, token matches",
    "push": "publish a model on the hub, with its card",
    "export": "write a model for another library",
}


def main() -> None:
    """Hand the rest of the command line to the verb."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("colbertxm <verb> [key=value ...]\n")
        for verb, purpose in VERBS.items():
            print(f"  {verb:10}{purpose}")
        print("\n`colbertxm <verb> --help` lists a verb's settings.")
        raise SystemExit(0 if arguments else 1)
    verb = arguments[0]
    if verb not in VERBS:
        known = ", ".join(VERBS)
        print(f"error: unknown verb {verb!r}{nearest(verb, VERBS)}; there are {known}", file=sys.stderr)
        raise SystemExit(1)
    sys.argv = [f"colbertxm {verb}", *arguments[1:]]
    importlib.import_module(f"colbertxm.{verb}").main()


if __name__ == "__main__":
    main()
