"""The comparison of two runs as a page: counts and tests, all differences in one picture, the largest ones in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from colbertxm.evaluation.diagnosis_page import attributes, escape, page, table
from colbertxm.evaluation.diagnosis_runs import QueryLine, TaskSummary, largest
from colbertxm.evaluation.tables import digits
from colbertxm.records import Hit, Text

WIN, LOSS = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion
STYLE = f"""
.card {{ border: 1px solid #ccc; border-inline-start: .35rem solid #999; border-radius: .3rem; margin: .8rem 0;
  padding: .4rem .8rem; break-inside: avoid; }}
.win {{ border-inline-start-color: {WIN}; }} .loss {{ border-inline-start-color: {LOSS}; }}
.card h3 {{ font-size: 1rem; margin: 0; }}
.runs {{ display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }}
.runs ol {{ margin: .2rem 0; padding-inline-start: 1.6rem; }} .runs li {{ margin-bottom: .25rem; }}
.runs .head {{ font-weight: 600; }}
li.relevant {{ background: #e3f1fa; outline: 1px solid {WIN}; }}
svg {{ width: 100%; max-width: 60rem; height: 11rem; display: block; }}
@media (max-width: 45rem) {{ .runs {{ grid-template-columns: 1fr; }} }}
"""
LONGEST = 400  # characters of a passage on the page


def comparison_page(
    lines: Sequence[QueryLine],
    found: Sequence[TaskSummary],
    names: tuple[str, str],
    measure: str,
    texts: Mapping[str, Text],
    show: int = 20,
) -> str:
    """A self-contained page; `show` wins and as many losses with their texts (ids where there are none)."""
    a, b = names
    total = {outcome: sum(line.outcome == outcome for line in lines) for outcome in ("win", "loss", "tie")}
    intro = (
        f'<p class="note">{escape(measure)} of <b>{escape(b)}</b> against <b>{escape(a)}</b>, query by query: '
        f"{total['win']:,} wins, {total['loss']:,} losses, {total['tie']:,} ties of {len(lines):,} queries. A win is a "
        f"query for which {escape(b)} is better. Differences with 95% bootstrap intervals and the p of the paired "
        "randomisation test; where there are several tasks, p after Holm's correction.</p>"
    )
    body = [intro, summary_table(found, names), "<h2>Every query</h2>", *_picture(lines, names)]
    for outcome, title in (("loss", "losses"), ("win", "wins")):
        chosen = largest(lines, outcome, show)
        body.append(f"<h2>The {len(chosen)} largest {title} of {escape(b)}</h2>")
        for line in chosen:
            body += _card(line, names, texts)
    return page(f"{b} against {a}", body, STYLE)


def summary_table(found: Sequence[TaskSummary], names: tuple[str, str]) -> str:
    """The tasks' means, counts and tests as an HTML table."""
    head = ("task", "queries", *names, "wins", "losses", "ties", "difference", "p", "p (Holm)")
    return table(head, [summary_line(one) for one in found])


def summary_line(one: TaskSummary) -> tuple[str, ...]:
    """A task's figures as printed."""
    d = one.difference
    return (
        one.task, f"{one.queries:,}", *(digits(mean) for mean in one.means), str(one.wins), str(one.losses),
        str(one.ties), f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]", f"{d.p:.4f}", f"{one.p_holm:.4f}",
    )  # fmt: skip


def _picture(lines: Sequence[QueryLine], names: tuple[str, str]) -> Iterator[str]:
    """Differences of all queries in falling order: an area above the line for wins, below it for losses."""
    values = sorted((line.difference for line in lines), reverse=True)
    most = max(1e-9, max(abs(value) for value in values))
    wide, high = 1000.0, 90.0
    step = wide / len(values)
    yield (
        f'<p class="note">Differences in falling order, up to {most:.2f}: above the line {escape(names[1])} is better, '
        f"below it {escape(names[0])}.</p>"
    )
    yield f'<svg viewBox="0 -{high + 5} {wide} {2 * high + 10}" preserveAspectRatio="none" role="img">'
    for colour, sign in ((WIN, 1), (LOSS, -1)):
        chosen = [(place, value) for place, value in enumerate(values) if value * sign > 0]
        path = " ".join(
            f"M{place * step:.2f},0V{-value / most * high:.2f}H{(place + 1) * step:.2f}V0Z" for place, value in chosen
        )
        if path:
            yield f'<path d="{path}" fill="{colour}"/>'
    yield f'<line x1="0" x2="{wide:.0f}" y1="0" y2="0" stroke="#333" vector-effect="non-scaling-stroke"/></svg>'


def _card(line: QueryLine, names: tuple[str, str], texts: Mapping[str, Text]) -> Iterator[str]:
    query = texts.get(line.query_id)
    shown, lang = (query.text, query.lang) if query else (line.query_id, "")
    ranks = [f"{name} {digits(value)}" for name, value in zip(names, line.values, strict=True)]
    yield f'<section class="card {line.outcome}">'
    yield f"<h3 {attributes(lang)}>{escape(shown)}</h3>"
    yield (
        f'<p class="note">{escape(line.task)} · {escape(line.query_id)} · {escape(", ".join(ranks))} · '
        f"difference {line.difference:+.3f}</p>"
    )
    for passage_id in line.relevant[:3]:
        yield f'<p><span class="grey">relevant:</span> {_passage(passage_id, texts)}</p>'
    if len(line.relevant) > 3:
        yield f'<p class="note">and {len(line.relevant) - 3} more relevant passages</p>'
    yield '<div class="runs">'
    for name, rank, hits in zip(names, line.ranks, line.top, strict=True):
        where = "no relevant passage found" if rank is None else f"first relevant at rank {rank}"
        yield f'<div><div class="head">{escape(name)}: {where}</div><ol>'
        yield from (_hit(hit, line.relevant, texts) for hit in hits)
        yield "</ol></div>"
    yield "</div></section>"


def _hit(hit: Hit, relevant: Sequence[str], texts: Mapping[str, Text]) -> str:
    marked = ' class="relevant"' if hit.passage_id in relevant else ""
    return f'<li{marked}>{_passage(hit.passage_id, texts)} <span class="grey">{hit.score:.3f}</span></li>'


def _passage(passage_id: str, texts: Mapping[str, Text]) -> str:
    passage = texts.get(passage_id)
    if passage is None:
        return f"<code>{escape(passage_id)}</code>"
    text = passage.text if len(passage.text) <= LONGEST else passage.text[:LONGEST] + " …"
    return f'<bdi {attributes(passage.lang)} title="{escape(passage_id)}">{escape(text)}</bdi>'
