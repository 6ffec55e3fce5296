"""A table as LaTeX for a paper: booktabs, the best of a line bold, intervals small, marks raised, all text escaped."""

from __future__ import annotations

from colbertxm.evaluation.tables import Cell, Table, digits

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "\n": " ",
}  # fmt: skip


def escape(text: str) -> str:
    """Plain text as LaTeX that prints it, in any font encoding."""
    return "".join(SPECIAL.get(character, character) for character in text)


def latex(table: Table, label: str = "", intervals: bool = True) -> str:
    """A `table` float that needs `\\usepackage{booktabs}`; the rule above the means is a `\\midrule`. Without
    `intervals` more columns fit a page."""
    head = " & ".join(escape(name) for name in table.columns)
    lines: list[str] = []
    for name, cells in table.lines:
        if name.startswith("mean of ") and lines and not lines[-1].startswith(("mean of ", r"\midrule")):
            lines.append(r"\midrule")
        lines.append(" & ".join([escape(name), *(cell_of(cell, intervals) for cell in cells)]) + r" \\")
    caption = ". ".join(part for part in (table.title, table.note) if part)
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(caption)}.}}",
            *([rf"\label{{{label}}}"] if label else []),
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def cell_of(cell: Cell, intervals: bool = True) -> str:
    """A cell's figure; an en dash where nothing was measured."""
    if cell.value is None:
        return "--"
    value = digits(cell.value)
    text = (rf"\textbf{{{value}}}" if cell.best else value) + escape(cell.mark)
    if intervals and cell.low is not None and cell.high is not None:
        text += rf" {{\scriptsize [{digits(cell.low)}, {digits(cell.high)}]}}"
    return text
