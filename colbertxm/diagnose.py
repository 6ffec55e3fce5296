"""Look closer: `colbertxm diagnose runs | distributions | recall | match key=value ...`.

colbertxm diagnose runs runs=[A.trec,B.trec] qrels=Q.qrels           two runs, query by query
colbertxm diagnose distributions run=A.trec qrels=Q.qrels            spreads of scores and lengths
colbertxm diagnose recall index=FOLDER queries=Q.tsv lang=en         what compression and budget cost
colbertxm diagnose match query="..." passage="..." lang=en           which token met which
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from colbertxm import entry

KINDS = {
    "runs": "two runs, query by query: wins, losses, the texts",
    "distributions": "spreads of scores and of lengths, by language",
    "recall": "recall of a compressed index against exhaustive search",
    "match": "which query token met which passage token, as a page",
}


def run(cfg: DictConfig, kind: str) -> None:
    """One kind of diagnosis."""
    from colbertxm import diagnosing

    entry.check_filled(cfg, f"diagnose {kind}")
    diagnosing.RUNS[kind](cfg)


def as_text(argument: str) -> str:
    """`query=...` in Hydra's quotes, unless it stands in some: its grammar stumbles over commas and most scripts."""
    key, _, value = argument.partition("=")
    if len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]:
        return argument
    return f"{key}='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def main() -> None:
    """Take the kind, and leave the rest to Hydra."""
    from colbertxm.errors import nearest

    kind = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if kind in ("-h", "--help"):
        print("\n".join(["colbertxm diagnose <kind> [key=value ...]\n", *(f"  {k:15}{KINDS[k]}" for k in KINDS)]))
        return
    if kind not in KINDS:
        entry.fail(f"diagnose what? {kind!r} is unknown{nearest(kind, KINDS)}; there are {', '.join(KINDS)}")
    sys.argv[1:] = [as_text(a) if a.startswith(("query=", "passage=")) else a for a in sys.argv[2:]]
    entry.main(f"diagnose_{kind}", lambda cfg: run(cfg, kind))()


if __name__ == "__main__":
    main()
