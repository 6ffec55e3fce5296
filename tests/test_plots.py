"""Pictures: they are PNGs, the same each time, show what is in the rows, and leave nothing behind."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colbertxm.errors import UserError
from colbertxm.evaluation import plots
from colbertxm.evaluation.plots import plot_languages, plot_matrix


def line(model: str, asked: str, searched: str, value: float, **extra: Any) -> dict[str, Any]:
    names = {"model": model, "query_lang": asked, "passage_lang": searched, "collection": "smart_home"}
    return {
        **names,
        "RR@10": value,
        "nDCG@10": value,
        "low": value - 0.1,
        "high": value + 0.2,
        "queries": 300,
        **extra,
    }


ROWS = [
    line("trained", "en", "en", 0.6),
    line("trained", "de", "de", 0.7),
    line("trained", "ja", "ja", 0.5),
    line("bm25", "ja", "ja", 0.75),
    line("bm25", "en", "en", 0.4),
    line("trained", "en", "de", 0.3),
]


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures as they are saved."""
    saved: list[Any] = []
    save = plots.save

    def note_and_save(figure: Any, path: Path) -> None:
        saved.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "save", note_and_save)
    return saved


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot_languages(ROWS, tmp_path / "langs" / name)
        plot_matrix(ROWS, "trained", tmp_path / "matrix" / name)
    for folder in ("langs", "matrix"):
        first, second = sorted((tmp_path / folder).iterdir())
        assert first.read_bytes() == second.read_bytes()
        assert b"Software" not in first.read_bytes()
        assert min(size(first)) > 200


def test_languages_are_sorted_by_the_trained_model(tmp_path: Path, figures: list[Any]) -> None:
    plot_languages(ROWS, tmp_path / "a.png")
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["de", "en", "ja"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the best stands on top"
    texts = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert texts == ["bm25", "trained"]
    points = {
        drawn.get_label(): dict(zip(np.rint(drawn.get_ydata()), drawn.get_xdata(), strict=True)) for drawn in axes.lines
    }
    assert points == {"bm25": {1: 0.4, 2: 0.75}, "trained": {0: 0.7, 1: 0.6, 2: 0.5}}
    assert "smart_home, 300 queries" in figures[0].get_supxlabel()


def test_bars_are_the_intervals_and_stand_for_rr_only(tmp_path: Path, figures: list[Any]) -> None:
    plot_languages([line("trained", "en", "en", 0.6)], tmp_path / "a.png")
    plot_languages([line("trained", "en", "en", 0.6)], tmp_path / "b.png", "nDCG@10")
    (bar,) = figures[0].axes[0].collections
    assert bar.get_segments()[0][:, 0] == pytest.approx([0.5, 0.8])
    assert "intervals" in figures[0].get_supxlabel()
    assert not figures[1].axes[0].collections and "intervals" not in figures[1].get_supxlabel()


def test_models_differ_in_colour_and_marker_and_keep_them() -> None:
    names = ["bm25", "untrained_single", "untrained", "single_vector", "trained", "mine", "other"]
    looks = plots.look(names)
    assert len({colour for colour, _ in looks.values()}) == len({marker for _, marker in looks.values()}) == 7
    assert plots.look(["trained"]) == {"trained": looks["trained"]}


def test_more_languages_make_a_taller_picture(tmp_path: Path) -> None:
    plot_languages(ROWS, tmp_path / "a.png")
    plot_languages([line("trained", f"l{n}", f"l{n}", 0.5) for n in range(21)], tmp_path / "b.png")
    assert size(tmp_path / "b.png")[1] > 2 * size(tmp_path / "a.png")[1]


def test_the_matrix_prints_its_numbers(tmp_path: Path, figures: list[Any]) -> None:
    plot_matrix(ROWS, "trained", tmp_path / "a.png")
    axes = figures[0].axes[0]
    cells = {tuple(map(int, text.get_position()[::-1])): text.get_text() for text in axes.texts}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["en", "de", "ja"]
    assert cells == {(0, 0): ".600", (0, 1): ".300", (1, 1): ".700", (2, 2): ".500"}
    assert "not measured" in figures[0].get_supxlabel()


def test_what_cannot_be_drawn_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results to draw"):
        plot_languages([line("trained", "en", "de", 0.6)], tmp_path / "a.png")
    with pytest.raises(UserError, match="hold no R@100"):
        plot_languages(ROWS, tmp_path / "a.png", "R@100")
    with pytest.raises(UserError, match="two results for en and bm25"):
        plot_languages([*ROWS, ROWS[4]], tmp_path / "a.png")
    with pytest.raises(UserError, match="no results of model"):
        plot_matrix(ROWS, "unknown", tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path: Path) -> None:
    code = (
        "import sys, colbertxm.evaluation.plots as p; assert 'matplotlib' not in sys.modules\n"
        f"p.plot_matrix({ROWS!r}, 'trained', {str(tmp_path / 'a.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run((sys.executable, "-c", code), check=True)
