"""Find passages: `python -m colbertxm.search "how do I turn the lights off" lang=en`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from colbertxm import entry
from colbertxm.records import Text

if TYPE_CHECKING:
    from colbertxm.cluster.searching import ClusterEngine
    from colbertxm.engine.index import CompressedIndex
    from colbertxm.engine.store import Index


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
        cluster = None if cfg.cluster is None else Cluster(cfg)
        index = retriever.open(folder, engine=None if cluster is None else cluster.engine)
        query = read_query(cfg, asked, retriever.encoder.languages)
        passage_lang = {"same": query.lang, "all": None}.get(cfg.passage_lang, cfg.passage_lang)
        hits = retriever.search([query], cfg.k, passage_lang)[0]
        if cluster is not None and (line := cluster.incomplete()):
            print(line)
    texts = index.texts_of([hit.passage_id for hit in hits])
    for hit in hits:
        found = retriever.guesses.get(hit.passage_id)
        lang = f"  lang: {found.lang} (auto, {found.confidence:.2f})" if found else ""
        print(f"{hit.rank:3}  {hit.score:8.4f}  {hit.passage_id}{lang}\n     {texts[hit.passage_id]}")
    if line := energy.stop().line():
        say(line)


class Cluster:
    """An index's engine on Ray. Raises UserError for another cluster, and one without room."""

    def __init__(self, cfg: DictConfig) -> None:
        from colbertxm.cluster.on_ray import RaySettings

        entry.check_cluster(cfg.cluster)
        self.settings = RaySettings(**entry.plain(cfg.ray))
        self.found: ClusterEngine | None = None

    def engine(self, index: Index | CompressedIndex, folder: Path) -> ClusterEngine:
        """One actor a group of documents, as many groups as actors."""
        from colbertxm.cluster.on_ray import cluster_engine
        from colbertxm.stages import say

        self.found = cluster_engine(index, folder, self.settings, say)
        return self.found

    def incomplete(self) -> str | None:
        """What the last search left out, in one line."""
        return self.found.incomplete() if self.found is not None else None


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
