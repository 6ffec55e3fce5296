"""Find passages: `python -m colbertxm.search "how do I turn the lights off" lang=en`."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from colbertxm import entry


def run(cfg: DictConfig) -> None:
    """Print the best passages of an index for one query."""
    from colbertxm.errors import UserError
    from colbertxm.identify import AUTO, identify
    from colbertxm.languages import language, proxies, to_load
    from colbertxm.records import Text
    from colbertxm.retriever import Retriever
    from colbertxm.stages import index_folder, open_model, resolve_model

    entry.check_filled(cfg, "search")
    asked = None if cfg.lang == AUTO else language(cfg.lang).code
    needed = None if asked is None else to_load([asked], proxies(cfg.lang_proxy))
    model = resolve_model(cfg.checkpoint, needed)
    folder = index_folder(cfg.checkpoint, model, cfg.index)
    if cfg.k < 1:
        raise UserError(f"k={cfg.k} must be at least 1")
    retriever = Retriever(open_model(model, cfg.lang_proxy))
    texts = retriever.open(folder)
    if asked is not None:
        query = Text("query", cfg.query, asked)
    else:
        guess = identify([cfg.query], retriever.encoder.languages)[0]
        query = Text("query", cfg.query, guess.lang, guess.confidence)
        print(f"lang: {guess.lang} (auto, {guess.confidence:.2f})")
    passage_lang = {"same": query.lang, "all": None}.get(cfg.passage_lang, cfg.passage_lang)
    for hit in retriever.search([query], cfg.k, passage_lang)[0]:
        found = retriever.guesses.get(hit.passage_id)
        lang = f"  lang: {found.lang} (auto, {found.confidence:.2f})" if found else ""
        print(f"{hit.rank:3}  {hit.score:8.4f}  {hit.passage_id}{lang}\n     {texts[hit.passage_id]}")


def main() -> None:
    """Take bare arguments as the query, and leave the rest to Hydra."""
    bare = [a for a in sys.argv[1:] if "=" not in a.split(" ")[0] and not a.startswith(("-", "+", "~"))]
    if bare:
        quoted = " ".join(bare).replace("\\", "\\\\").replace("'", "\\'")
        sys.argv = [sys.argv[0], *(a for a in sys.argv[1:] if a not in bare), f"query='{quoted}'"]
    entry.main("search", run)()


if __name__ == "__main__":
    main()
