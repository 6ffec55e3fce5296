"""Search over HTTP, with a page to look at: `python -m colbertxm.serve checkpoint=latest`.

Listens on http://127.0.0.1:8080; the environment's COLBERTXM_API_KEY, where it is set, is asked of every client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from colbertxm import entry

if TYPE_CHECKING:
    from colbertxm.service.served import Served


def run(cfg: DictConfig) -> None:
    """Open the model and its index, and answer."""
    from colbertxm.errors import MissingExtra, UserError

    try:
        from colbertxm.service.limits import Limits
        from colbertxm.service.run import Address, serve
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("fastapi", "starlette", "uvicorn", "pydantic"):
            raise MissingExtra(f"{error.name}, which serve needs,", "serve") from None
        raise
    limits, second = Limits(**entry.plain(cfg.limits)), cfg.compare
    bound = (address := Address(cfg.host, cfg.port, cfg.without_key)).bind()  # before what takes seconds
    given = second.checkpoint is not None or second.index is not None
    if second.name is not None and not given:
        raise UserError("compare.name is given alone: name compare.checkpoint, compare.index or both")
    main = opened(cfg, cfg.checkpoint, cfg.index, cfg.name, cfg.onnx)
    # Named exports are the first model's.
    onnx = cfg.onnx if second.checkpoint is None or cfg.onnx is None else "auto"
    compare = opened(cfg, second.checkpoint or cfg.checkpoint, second.index, second.name, onnx) if given else None
    serve(bound, address, main, compare, limits)


def opened(cfg: DictConfig, checkpoint: str, index: str | None, name: str | None, onnx: Any) -> Served:
    """A model with its index, and its exports that `onnx` names."""
    from colbertxm.service.exports import exports
    from colbertxm.service.served import Served
    from colbertxm.stages import index_folder, open_model, resolve_model

    model = resolve_model(checkpoint)
    folder = index_folder(checkpoint, model, index)
    title = name or f"{model.parent.name}/{folder.name}"
    served = Served(title, open_model(model, cfg.lang_proxy), folder, cfg.device, cfg.limits.indexed)
    served.onnx = exports(onnx, model, served.encoder)
    return served


main = entry.main("serve", run)


if __name__ == "__main__":
    main()
