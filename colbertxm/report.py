"""Tables and pictures of measured results: `python -m colbertxm.report results=outputs/demo/results.json`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from colbertxm import entry


def run(cfg: DictConfig) -> None:
    """Write the report of a results.json, and print its tables."""
    from colbertxm.evaluation.results import read_rows
    from colbertxm.reporting import write_report

    results = Path(cfg.results)
    write_report(read_rows(results), Path(cfg.output) if cfg.output else results.parent)


main = entry.main("report", run)

if __name__ == "__main__":
    main()
