"""Tables and pictures of measured results: `python -m colbertxm.report results=[a/results.json,b/results.json]`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from colbertxm import entry


def run(cfg: DictConfig) -> None:
    """Collect the results, write and print the report, and log it."""
    from colbertxm.collecting import costs, log_report, show_report
    from colbertxm.evaluation.report_collect import collect, expand
    from colbertxm.evaluation.report_write import write_collected
    from colbertxm.training.logger import make_logger

    given = cfg.results if isinstance(cfg.results, ListConfig) else [cfg.results]
    files = expand([str(name) for name in given])
    found = collect(files)
    output = Path(cfg.output) if cfg.output else files[0].parent if len(files) == 1 else Path("outputs/report")
    report = write_collected(found, output, costs(found, cfg.examples), cfg.measure)
    show_report(report, found.notes)
    logger = make_logger(output, cfg.logger.project, "report", cfg.logger.mode, {"results": [str(f) for f in files]})
    log_report(logger, report)


main = entry.main("report", run)

if __name__ == "__main__":
    main()
