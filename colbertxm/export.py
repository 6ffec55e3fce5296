"""Write a model for another library: `python -m colbertxm.export checkpoint=FOLDER to=pylate output=FOLDER`,
or an index for a serving database: `python -m colbertxm.export index=FOLDER to=qdrant path=FOLDER`.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from colbertxm import entry
from colbertxm.errors import UserError, nearest


def run(cfg: DictConfig) -> None:
    """Write what `to` asks for."""
    from colbertxm.exporting import DATABASES, ONNX, to_database, to_onnx
    from colbertxm.model.formats import OWN, WRITERS

    known = (*WRITERS, OWN, ONNX, *DATABASES)
    if OmegaConf.is_missing(cfg, "to") or cfg.to not in (ONNX, *DATABASES):
        entry.check_filled(cfg, "export")
    if cfg.to not in known:
        raise UserError(f"to={cfg.to!r} is unknown{nearest(cfg.to, known)}: choose of {', '.join(known)}")
    if cfg.to in DATABASES:
        to_database(cfg)
    elif cfg.to == ONNX:
        to_onnx(cfg)
    else:
        to_folder(cfg)


def to_folder(cfg: DictConfig) -> None:
    """Read the model with the chosen languages and write it in the layout asked for."""
    from colbertxm.model.checkpoints import load_model, save_model
    from colbertxm.model.formats import OWN, write_as
    from colbertxm.stages import resolve_model, say

    if cfg.lang and cfg.languages:
        raise UserError("export takes lang=... or languages=[...], not both")
    languages = [cfg.lang] if cfg.lang else None if cfg.languages is None else list(cfg.languages)
    source, output = resolve_model(cfg.checkpoint, languages), Path(cfg.output)
    if output.resolve() == source.resolve():
        raise UserError(f"output={output} is the checkpoint itself: choose another folder")
    encoder = load_model(source, languages=languages, tokens=entry.plain(cfg.tokens))
    if cfg.to == OWN:
        save_model(output, encoder, {"exported_from": str(cfg.checkpoint)})
    else:
        write_as(cfg.to, output, encoder)
    if cfg.to == "transformers" and encoder.linear is not None:
        say(f"mind: a plain XmodModel has no place for the projection to {encoder.dim} dimensions; it is left behind")
    print(f"model: {output} ({cfg.to}; adapters {', '.join(encoder.xmod.config.languages)})")


main = entry.main("export", run)

if __name__ == "__main__":
    main()
