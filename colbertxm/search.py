"""Find passages: `python -m colbertxm.search "how do I turn the lights off" lang=en`."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from colbertxm import entry


def run(cfg: DictConfig) -> None:
    """Print the best passages of an index for one query."""
    from colbertxm.errors import UserError
    from colbertxm.languages import language
    from colbertxm.model.checkpoints import load_model
    from colbertxm.records import Text
    from colbertxm.retriever import Retriever
    from colbertxm.stages import resolve_model

    entry.check_filled(cfg, "search")
    lang = language(cfg.lang).code
    passage_lang = {"same": lang, "all": None}.get(cfg.passage_lang, cfg.passage_lang)
    model = resolve_model(cfg.checkpoint)
    folder = Path(cfg.index) if cfg.index else model.parent / "index"
    if cfg.k < 1:
        raise UserError(f"k={cfg.k} must be at least 1")
    retriever = Retriever(load_model(model))
    texts = retriever.open(folder)
    hits = retriever.search([Text("query", cfg.query, lang)], cfg.k, passage_lang)[0]
    for hit in hits:
        print(f"{hit.rank:3}  {hit.score:8.4f}  {hit.passage_id}\n     {texts[hit.passage_id]}")


def main() -> None:
    """Take bare arguments as the query, and leave the rest to Hydra."""
    bare = [a for a in sys.argv[1:] if "=" not in a.split(" ")[0] and not a.startswith(("-", "+", "~"))]
    if bare:
        quoted = " ".join(bare).replace("\\", "\\\\").replace("'", "\\'")
        sys.argv = [sys.argv[0], *(a for a in sys.argv[1:] if a not in bare), f"query='{quoted}'"]
    entry.main("search", run)()


if __name__ == "__main__":
    main()
