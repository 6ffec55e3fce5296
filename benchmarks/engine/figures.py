"""From records to a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from colbertxm.evaluation.results import replacing

Record = dict[str, Any]
# Ours are blues and a grey, whose markers have corners. As many markers more than colours: together they repeat late.
COLOURS, MARKERS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#8C564B", "#000000"), "ovP^X8<"
OUR_COLOURS, OUR_MARKERS = ("#7F7F7F", "#8FC7E8", "#0072B2", "#08306B"), "Ds*pd"


def table(records: Sequence[Record]) -> str:
    """One size's records in Markdown: a line for each engine and setting; beside one another the times, p50 (p95; mean
    processor time), for each number of hits and of threads. recall@10 is that of the search for the fewest hits."""
    run = [record for record in records if "not_run" not in record]
    asked = sorted({(record["hits"], record["threads"]) for record in run})
    columns = "".join(f" ms, {k} hits, {count} thread{'s' * (count > 1)} |" for k, count in asked)
    lines = [f"| engine | setting | recall@10 | @100 |{columns} bytes/vector | build s (CPU) | peak MB of build |"]
    lines.append("|---" * (7 + len(asked)) + "|")
    for engine, setting in dict.fromkeys((record["engine"], record["setting"]) for record in run):
        same = {(r["hits"], r["threads"]): r for r in run if (r["engine"], r["setting"]) == (engine, setting)}
        one, deep = same[min(same)], same[max(same)]
        times = [
            f"{same[n]['p50_ms']:.1f} ({same[n]['p95_ms']:.1f}; {same[n]['cpu_ms']:.1f})" if n in same else ""
            for n in asked
        ]
        recall_100 = "" if deep["recall_100"] is None else f"{deep['recall_100']:.3f}"
        lines.append(
            f"| {engine} | {setting} | {one['recall_10']:.3f} | {recall_100} | {' | '.join(times)} "
            f"| {one['bytes_per_vector']:.1f} | {one['build_s']:.0f} ({one['build_cpu_s']:.0f}) "
            f"| {one['build_peak_mb']:,.0f} |"
        )
    lines += [f"\nnot run: {record['not_run']}" for record in records if "not_run" in record]
    return "\n".join(lines)


def draw(records: Sequence[Record], path: Path) -> None:
    """Recall against time on one thread as a PNG, a panel for each number of documents; a line joins the settings of
    an engine."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    run = [record for record in records if "not_run" not in record]
    fewest, hits = min(record["threads"] for record in run), min(record["hits"] for record in run)
    run = [record for record in run if record["threads"] == fewest and record["hits"] == hits]
    sizes = sorted({record["documents"] for record in run})
    looks = _looks(run)
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(2.0 + 4.4 * len(sizes), 5.1), layout="constrained", dpi=110)
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        for panel, size in zip(panels, sizes, strict=True):
            for name, look in looks.items():
                points = [r for r in run if r["engine"] == name and r["documents"] == size]
                points.sort(key=lambda record: float(record["p50_ms"]))
                times, recalls = [r["p50_ms"] for r in points], [r["recall_10"] for r in points]
                panel.plot(times, recalls, linestyle="-", label=name, **look)
            panel.set_xscale("log")
            panel.set_title(f"{size:,} documents", loc="left", fontsize=11)
            panel.set_xlabel(f"ms per query, {hits} hits, {fewest} thread{'s' * (fewest > 1)} (median)")
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(alpha=0.25, which="both")
        panels[0].set_ylabel("recall@10 of exact MaxSim")
        panels[0].set_ylim(0, 1.03)
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=1 + len(sizes), frameon=False
        )
        with replacing(path) as part:
            figure.savefig(part, format="png", metadata={"Software": None})


def _looks(records: Sequence[Record]) -> dict[str, dict[str, str]]:
    """Each engine's own colour and marker, the peers first, by their names: alike in every picture."""
    looks = {}
    for our, colours, markers in ((False, COLOURS, MARKERS), (True, OUR_COLOURS, OUR_MARKERS)):
        names = sorted({record["engine"] for record in records if record["our"] == our}, key=_rank)
        for i, name in enumerate(names):
            looks[name] = {"color": colours[i % len(colours)], "marker": markers[i % len(markers)]}
    return looks


def _rank(name: str) -> tuple[bool, str]:
    return not name.endswith("float32"), name  # the exhaustive engine before the compressed ones
