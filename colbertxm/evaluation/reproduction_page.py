"""The documentation page of the reproduction matrix, made of its YAMLs and of nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from colbertxm.evaluation.reproduction import NOT_RUN, Figures, Row
from colbertxm.evaluation.reproduction_check import AVERAGE, WITHIN, compare
from colbertxm.evaluation.reproduction_index import expected

WIDTH = 110
INTRODUCTION = """# The reproduction matrix

One row for each published row that this repository can make: the commands, the published figures, how far off they may
be, and what is known to differ. **This page is made of the YAML files beside it** (`make reproduction-page`); a test
holds it to them. Figures are points (x 100). *not run* means that nobody has: no figure of ours stands here unless
somebody measured it, with date, revision and machine.

```bash
colbertxm reproduce list
colbertxm reproduce run colbert_xm_mmarco --data FOLDER             # all commands, then the check
colbertxm reproduce run colbert_xm_mmarco --data FOLDER --published # the authors' weights instead of training
colbertxm reproduce run colbert_xm_mmarco --miniature               # the same commands on invented words
colbertxm reproduce check colbert_xm_mmarco results.json            # published, measured, difference
```

In the commands, `{data}` is the folder with the files that a row names, `{work}` where results go
(`outputs/reproduction`; a run goes on where it stopped), `{model}` the model that was trained or the published one, and
`{languages}` the row's languages.
"""


def page(rows: Mapping[str, Row]) -> str:
    """README.md of the rows, the same text for the same rows."""
    parts = [INTRODUCTION, summary(rows.values()), *(section(row) for row in rows.values())]
    return "\n".join(parts)


def summary(rows: Iterable[Row]) -> str:
    """One line a row."""
    lines = []
    for row in rows:
        first = row.figures[0]
        average = "" if first.average is None else f"{first.average:.1f}"
        english = f"{first.by_language['en']:.1f}" if "en" in first.by_language else ""
        lines.append([f"[{row.name}](#{row.name})", row.title, first.measure, english, average, state(row)])
    return table(["row", "what", "first measure", "en", "average", "status"], lines, "llllrrl"[1:])


def state(row: Row) -> str:
    """`not run`, or how the last run came out."""
    if not row.status:
        return NOT_RUN
    last = row.status[-1]
    compared = compare(row, last.figures, last.way)
    within = sum(c.verdict == WITHIN for c in compared)
    return f"{last.date}, {last.way}: {within} of {len(compared)} within tolerance"


def section(row: Row) -> str:
    """All that a row says."""
    parts = [
        f"## {row.name}\n\n{row.title}. Source: {row.source}.\n",
        figures(row),
        f"Tolerance: {tolerance(row)} {row.tolerance.reason}\n",
        commands(row),
        "Files:\n\n" + "".join(f"- `{path}`: {home}\n" for path, home in row.files.items()),
        index(row),
        "Cost:\n\n" + "".join(f"- {what}: {cost}\n" for what, cost in row.cost.items()),
        "Known differences, and the settings that choose a side:\n\n"
        + table(["difference", "settings"], [[d.what, d.settings] for d in row.differences], "ll"),
        status(row),
    ]
    return "\n".join(part for part in parts if part)


def figures(row: Row) -> str:
    """The published figures, a line a language and a column a measure."""
    names = [f.measure for f in row.figures]
    lines = [[lang, *(_cell(f, lang) for f in row.figures)] for lang in row.languages]
    lines.append([f"**{AVERAGE}**", *("" if f.average is None else f"**{f.average:.1f}**" for f in row.figures)])
    if all(not f.by_language for f in row.figures):
        lines = lines[-1:]
    sources = "".join(f"- {f.measure}: {f.source}\n" for f in row.figures)
    return table(["published", *names], lines, "l" + "r" * len(names)) + "\n" + sources


def _cell(published: Figures, lang: str) -> str:
    return f"{published.by_language[lang]:.1f}" if lang in published.by_language else ""


def tolerance(row: Row) -> str:
    """Both ways' points."""
    published = "" if row.tolerance.published is None else f"{row.tolerance.published} points with published weights, "
    return f"{published}{row.tolerance.trained} {'points' if not published else 'when trained anew'}."


def commands(row: Row) -> str:
    """The commands in order, wrapped for a shell."""
    lines = [wrapped(f"colbertxm {command}") for command in row.commands.values()]
    block = "```bash\n" + "\n".join(lines) + "\n```\n"
    if row.published_model and "train" in row.commands:
        return f"{block}\nWith published weights: without `train`, and `{{model}}` is `{row.published_model}`.\n"
    return block


def wrapped(command: str) -> str:
    """A command over several lines, each but the last ending in a backslash."""
    lines = [""]
    for word in shlex.split(command):
        quoted = word if "'" not in shlex.quote(word) or not set(word) & set(" $'\"") else shlex.quote(word)
        if lines[-1] and len(lines[-1]) + len(quoted) + 1 > WIDTH:
            lines.append("   ")
        lines[-1] += quoted if not lines[-1] else f" {quoted}"
    return " \\\n".join(lines)


def index(row: Row) -> str:
    """What the index of each language should be like."""
    if row.index is None:
        return ""
    lines = []
    for lang in row.languages:
        if (found := expected(row.index, lang)) is not None:
            lengths = f"{found.tokens_from:.1f} to {found.tokens_to:.1f}"
            sizes = [
                f"{found.vectors / 1e6:,.0f}",
                f"{found.plaid_bytes / 1e9:.1f}",
                f"{found.our_code_bytes / 1e9:.1f}",
            ]
            lines.append([lang, f"{found.passages:,}", f"{found.centroids:,}", lengths, *sizes])
    if lines and len({tuple(line[1:]) for line in lines}) == 1:
        lines = [["each", *lines[0][1:]]]
    head = ["language", "passages", "K", "for tokens a passage", "vectors (10^6)", "PLAID, GB", "our codes, GB"]
    vectors = "vectors as they are" if row.index.bits is None else f"{row.index.bits} bits a dimension"
    estimate = f"\n\n{table(head, lines, 'lrrrrrr')}" if lines else f"; {_passages(row)}.\n"
    return f"Index: {vectors}. {row.index.source} Measured: {row.index.measured}.{estimate}".replace(".;", ";")


def _passages(row: Row) -> str:
    assert row.index is not None
    counts = sorted(set(row.index.passages.values()))
    return f"{counts[0]:,} passages in each language" if len(counts) == 1 else "passages differ by language"


def status(row: Row) -> str:
    """`not run`, or every measured run beside the published figures."""
    if not row.status:
        return f"Status: **{NOT_RUN}**.\n"
    parts = []
    for run in row.status:
        lines = []
        for c in compare(row, run.figures, run.way):
            measured = "" if c.measured is None else f"{c.measured:.1f}"
            lines.append([c.measure, c.lang, f"{c.expected:.1f}", measured, c.verdict])
        head = f"Measured {run.date}, {run.way}, revision {run.revision[:12]}, on {run.machine}:\n\n"
        parts.append(head + table(["measure", "language", "published", "measured", "verdict"], lines, "llrrl"))
    return "\n".join(parts)


def table(head: Sequence[str], lines: Sequence[Sequence[str]], align: str) -> str:
    """A markdown table; `align` has l or r for each column."""
    rule = ["---" if side == "l" else "---:" for side in align]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join("| " + " | ".join(line) + " |\n" for line in [head, rule, *escaped])
