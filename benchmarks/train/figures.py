"""From turns to figures: triples per second, ratios, what the trainer takes, and the loss curves side by side."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.train.turns import OURS, PYLATE, SENTENCE_TRANSFORMERS, Turn
from colbertxm.errors import UserError
from colbertxm.evaluation.results import replacing

Turns = Mapping[str, Sequence[Turn]]
KEYS = {PYLATE: "pylate", SENTENCE_TRANSFORMERS: "sentence_transformers"}


def pace(turns: Sequence[Turn]) -> float:
    """Median seconds a step; the first turn warms up and is not counted."""
    return statistics.median(turn.seconds / turn.steps for turn in turns[1:])


def outside(turns: Sequence[Turn]) -> float:
    """Share of the time that is not forward, backward, clipping and update: batches and the trainer's own."""
    return 1 - sum(turn.inside for turn in turns[1:]) / sum(turn.seconds for turn in turns[1:])


def curve(turns: Sequence[Turn]) -> list[float]:
    """The loss of every step."""
    return [loss for turn in turns for loss in turn.losses]


def speeds(found: Turns, batch_size: int) -> list[dict[str, Any]]:
    """For each side: triples per second, how many times as fast ours is, and the share outside of the step."""
    if any(len(turns) < 2 for turns in found.values()):
        raise UserError("the first turn only warms up: take at least two")
    ours = pace(found[OURS])
    return [
        {"side": side, "triples_per_s": batch_size / pace(turns), "seconds_per_step": pace(turns),
         "ours_is_faster": pace(turns) / ours, "outside": outside(turns),
         "cpu_seconds_per_step": statistics.median(turn.cpu / turn.steps for turn in turns[1:]),
         "turns": [turn.seconds / turn.steps for turn in turns]}
        for side, turns in found.items()
    ]  # fmt: skip


def apart(found: Turns) -> dict[str, dict[str, float]]:
    """How far each side's losses are from ours: at the first step, before any update, and at most in the run; and the
    mean of the last ten losses, which is where the run ends."""
    ours = curve(found[OURS])
    result = {}
    for side, turns in found.items():
        losses = curve(turns)
        distances = [abs(a - b) for a, b in zip(ours, losses, strict=True)]
        end = statistics.mean(losses[-10:])
        result[side] = {"first": distances[0], "largest": max(distances), "end": end}
    return result


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The speeds in Markdown."""
    lines = [
        "| trained by | triples/s | s/step | CPU s/step | ours is | outside of the step |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        factor = "" if row["side"] == OURS else f"{row['ours_is_faster']:.2f}x as fast"
        lines.append(
            f"| {row['side']} | {row['triples_per_s']:.2f} | {row['seconds_per_step']:.2f} "
            f"| {row['cpu_seconds_per_step']:.2f} | {factor} | {row['outside']:.1%} |"
        )
    return "\n".join(lines)


def curve_table(found: Turns, every: int) -> str:
    """The losses of every so many steps in Markdown, and each side's distances from ours."""
    curves = {side: curve(turns) for side, turns in found.items()}
    steps = len(next(iter(curves.values())))
    shown = sorted({0, *range(every - 1, steps, every), steps - 1})
    lines = [f"| step | {' | '.join(curves)} |", "|---" * (1 + len(curves)) + "|"]
    lines += [f"| {i + 1} | " + " | ".join(f"{c[i]:.4f}" for c in curves.values()) + " |" for i in shown]
    for name, what in (("first", "apart at step 1"), ("largest", "apart at most"), ("end", "mean of the last ten")):
        lines.append(f"| {what} | " + " | ".join(f"{values[name]:.1e}" if name != "end" else f"{values[name]:.4f}"
                                                 for values in apart(found).values()) + " |")  # fmt: skip
    return "\n".join(lines)


def draw(found: Turns, path: Path) -> None:
    """The loss curves as a PNG, above, and below how far the peers' are from ours."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ours = curve(found[OURS])
    steps = range(1, len(ours) + 1)
    # Ours as a broad band, or the lines would hide one another.
    looks = [("#56B4E9", "-", 6.0), ("#D55E00", "--", 1.6), ("#000000", ":", 1.8), ("#009E73", "-.", 1.4)]
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained", dpi=110)
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.4])
        for (side, turns), (colour, style, width) in zip(found.items(), looks, strict=False):
            losses = curve(turns)
            above.plot(steps, losses, style, color=colour, linewidth=width, label=side)
            if side != OURS:
                distances = [max(abs(a - b), 1e-9) for a, b in zip(ours, losses, strict=True)]
                below.semilogy(steps, distances, style, color=colour, linewidth=1.4)
        above.set_title("The same weights, the same batches: loss of each step", loc="left", fontsize=11)
        above.set_ylabel("loss")
        above.legend(frameon=False)
        below.set_ylabel("apart from ours")
        below.set_xlabel("step")
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
        with replacing(path) as part:
            figure.savefig(part, format="png", metadata={"Software": None})
