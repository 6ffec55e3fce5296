"""Make passages searchable: `python -m colbertxm.index checkpoint=latest corpus=passages.jsonl`."""

from __future__ import annotations

import time
from pathlib import Path

from omegaconf import DictConfig

from colbertxm import entry


def run(cfg: DictConfig) -> None:
    """Encode the corpus and write the index folder."""
    from colbertxm.data.corpus import read_corpus
    from colbertxm.model.checkpoints import load_model
    from colbertxm.progress import progress
    from colbertxm.retriever import Retriever
    from colbertxm.stages import resolve_model, say, smart_home

    model = resolve_model(cfg.checkpoint)
    encoder = load_model(model)
    if cfg.corpus == "smart_home":
        home = smart_home()
        langs = list(cfg.langs or home.languages("test"))
        passages = [p for lang in langs for p in home.collection("test", lang, lang).passages]
    else:
        passages = read_corpus(Path(cfg.corpus), list(cfg.langs or []))
    encoder.check_languages(sorted({p.lang for p in passages}))
    output = Path(cfg.output) if cfg.output else model.parent / "index"
    say(f"encoding {len(passages)} passages")
    started = time.perf_counter()
    meta = {"model": str(model), "corpus": cfg.corpus}
    Retriever(encoder).write(output, passages, meta, cfg.dtype, progress=progress(len(passages), "passages"))
    say(f"{len(passages)} passages in {time.perf_counter() - started:.1f} s")
    print(f"index: {output}")
    print(f'next:  colbertxm search "turn the lights off" lang={passages[0].lang} checkpoint={model} index={output}')


main = entry.main("index", run)

if __name__ == "__main__":
    main()
