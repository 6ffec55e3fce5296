"""Make passages searchable: `python -m colbertxm.index checkpoint=latest corpus=passages.jsonl`.

`colbertxm index verify FOLDER` reads an index and compares its checksums.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from colbertxm import entry
from colbertxm.records import Text

if TYPE_CHECKING:
    from colbertxm.model.encoder import Encoder
    from colbertxm.retriever import Retriever


def run(cfg: DictConfig) -> None:
    """Encode the corpus and write the index folder."""
    from colbertxm.progress import progress
    from colbertxm.retriever import Retriever
    from colbertxm.stages import index_folder, meter, open_model, resolve_model, say

    model = resolve_model(cfg.checkpoint, named_languages(cfg))
    encoder = open_model(model, cfg.lang_proxy)
    passages = read_passages(cfg, encoder.languages)
    encoder.check_languages(sorted({p.lang for p in passages}))
    output = index_folder(cfg.checkpoint, model, cfg.output)
    retriever = Retriever(encoder) if cfg.cluster is None else on_cluster(cfg, model, encoder)
    say(f"encoding {len(passages)} passages")
    started = time.perf_counter()
    with meter(cfg, encoder) as energy:

        def meta() -> dict[str, Any]:
            return {"model": str(model), "corpus": cfg.corpus, **energy.notes()}

        retriever.write(
            output,
            passages,
            meta,
            cfg.dtype,
            progress=progress(len(passages), "passages"),
            bits=cfg.bits,
            memory_mb=cfg.memory_mb,
            seed=cfg.seed,
        )
    say(f"{len(passages)} passages in {time.perf_counter() - started:.1f} s")
    if line := energy.stop().line():
        say(line)
    print(f"index: {output}")
    lang = passages[0].lang
    print(f'next:  colbertxm search "turn the lights off" lang={lang} checkpoint={cfg.checkpoint} index={output}')


def on_cluster(cfg: DictConfig, model: Path, encoder: Encoder) -> Retriever:
    """One that writes with the vectors of Ray's actors. Raises UserError for another cluster, and without `bits`."""
    from colbertxm.cluster.indexing import ClusterRetriever
    from colbertxm.cluster.on_ray import RayEncoders, RaySettings, connect
    from colbertxm.errors import UserError
    from colbertxm.stages import say

    entry.check_cluster(cfg.cluster)
    if cfg.bits is None:
        raise UserError("a cluster builds compressed indexes alone: give bits=4 (or 1, 2, 8)")
    settings = RaySettings(**entry.plain(cfg.ray))
    pool = RayEncoders(connect(settings), settings, model, encoder)
    say(f"{pool.size} actors of {settings.threads} processors and {settings.gpus:g} GPUs")
    return ClusterRetriever(encoder, pool, settings.retries)


def named_languages(cfg: DictConfig) -> list[str] | None:
    """The languages whose adapters will be needed, where the command names them."""
    from colbertxm.identify import AUTO
    from colbertxm.languages import proxies, to_load

    langs = list(cfg.langs or ([] if cfg.lang in (None, AUTO) else [cfg.lang]))
    return to_load(langs, proxies(cfg.lang_proxy)) if langs else None


def read_passages(cfg: DictConfig, readable: Sequence[str]) -> list[Text]:
    """The passages of smart_home or of a file; `readable` are the model's languages. Raises UserError where their
    languages are said twice."""
    from colbertxm.data.corpus import read_corpus
    from colbertxm.errors import UserError
    from colbertxm.identify import AUTO
    from colbertxm.stages import smart_home

    langs = list(cfg.langs or [])
    if cfg.corpus == "smart_home":
        if cfg.lang is not None:
            raise UserError("smart_home says which languages its texts are in: leave out lang, or choose with langs")
        home = smart_home()
        langs = langs or list(home.languages("test"))
        return [p for lang in langs for p in home.collection("test", lang, lang).passages]
    if cfg.lang == AUTO:
        return read_corpus(Path(cfg.corpus), [], langs or readable)
    if cfg.lang is not None and langs:
        raise UserError(f"lang={cfg.lang} and langs={langs} are two answers to one question: give one of them")
    return read_corpus(Path(cfg.corpus), langs if cfg.lang is None else [cfg.lang])


def verify(folders: Sequence[str]) -> None:
    """Read every byte of the index folders and compare checksums; exit code 1 for a damaged one."""
    from colbertxm.engine import opening
    from colbertxm.errors import UserError

    try:
        if not folders:
            raise UserError("no folder to verify: colbertxm index verify FOLDER")
        for folder in map(Path, folders):
            opening.verify(folder)
            print(f"{folder}: whole")
    except UserError as error:
        entry.fail(str(error))


def main() -> None:
    """`verify FOLDER`, or a build by Hydra's configuration."""
    if sys.argv[1:2] == ["verify"]:
        verify(sys.argv[2:])
    else:
        entry.main("index", run)()


if __name__ == "__main__":
    main()
