"""Find passages: `python -m colbertxm.search "how do I turn the lights off" lang=en`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from colbertxm import entry
from colbertxm.records import Text


def run(cfg: DictConfig) -> None:
    """Print the best passages of an index for one query."""
    from colbertxm.errors import UserError
    from colbertxm.identify import AUTO
    from colbertxm.languages import language, proxies, to_load
    from colbertxm.retriever import Retriever
    from colbertxm.stages import index_folder, meter, open_model, resolve_model, say

    entry.check_filled(cfg, "search")
    asked = None if cfg.lang == AUTO else language(cfg.lang).code
    needed = None if asked is None else to_load([asked], proxies(cfg.lang_proxy))
    model = resolve_model(cfg.checkpoint, needed)
    folder = index_folder(cfg.checkpoint, model, cfg.index)
    if cfg.k < 1:
        raise UserError(f"k={cfg.k} must be at least 1")
    retriever = Retriever(open_model(model, cfg.lang_proxy))
    # Quiet: a search of a second is no place to be told what could be installed.
    with meter(cfg, retriever.encoder, quiet=True) as energy:
        index = retriever.open(folder)
        query = read_query(cfg, asked, retriever.encoder.languages)
        passage_lang = {"same": query.lang, "all": None}.get(cfg.passage_lang, cfg.passage_lang)
        hits = retriever.search([query], cfg.k, passage_lang)[0]
    texts = index.texts_of([hit.passage_id for hit in hits])
    for hit in hits:
        found = retriever.guesses.get(hit.passage_id)
        lang = f"  lang: {found.lang} (auto, {found.confidence:.2f})" if found else ""
        print(f"{hit.rank:3}  {hit.score:8.4f}  {hit.passage_id}{lang}\n     {texts[hit.passage_id]}")
    if line := energy.stop().line():
        say(line)


def read_query(cfg: DictConfig, asked: str | None, readable: Sequence[str]) -> Text:
    """The query in the language that was `asked` for, or in the one among `readable` that it seems to be in."""
    from colbertxm.identify import identify

    if asked is not None:
        return Text("query", cfg.query, asked)
    guess = identify([cfg.query], readable)[0]
    print(f"lang: {guess.lang} (auto, {guess.confidence:.2f})")
    return Text("query", cfg.query, guess.lang, guess.confidence)


def main() -> None:
    """Take bare arguments as the query, and leave the rest to Hydra."""
    bare = [a for a in sys.argv[1:] if "=" not in a.split(" ")[0] and not a.startswith(("-", "+", "~"))]
    if bare:
        quoted = " ".join(bare).replace("\\", "\\\\").replace("'", "\\'")
        sys.argv = [sys.argv[0], *(a for a in sys.argv[1:] if a not in bare), f"query='{quoted}'"]
    entry.main("search", run)()


if __name__ == "__main__":
    main()
