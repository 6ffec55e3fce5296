"""Token matches of one query and one passage, for people: an HTML page and lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from colbertxm.evaluation.diagnosis_page import attributes, escape, page, shade, table
from colbertxm.evaluation.matches import Matches, Side, Token

STYLE = """
.pairs { display: flex; flex-wrap: wrap; gap: .5rem; margin: .4rem 0; }
.pair { border: 1px solid #bbb; border-radius: .3rem; text-align: center; min-width: 3.4rem; break-inside: avoid; }
.pair div { padding: .12rem .45rem; } .pair .from { font-weight: 600; }
.pair .cosine { border-radius: 0 0 .25rem .25rem; }
.pair.special .from, .role { font-style: italic; font-weight: 400; color: #555; }
.text { font-size: 1.12rem; line-height: 2; }
.text span { border-radius: .15rem; }
.skipped { color: #8a8a8a; text-decoration: line-through; text-decoration-color: #bbb; }
.role { font-size: .8rem; border: 1px dashed #999; padding: 0 .25rem; margin: 0 .15rem; unicode-bidi: isolate; }
.prefix { font-style: italic; }
.cut { color: #8a8a8a; font-style: italic; }
.matrix td, .matrix th { border: 1px solid #e3e3e3; padding: 0; font-size: .72rem; }
.matrix td { width: 1.9rem; min-width: 1.9rem; height: 1.5rem; text-align: center; vertical-align: middle; }
.matrix thead th { height: 6.5rem; vertical-align: bottom; text-align: center; font-weight: 400; }
.matrix thead th div { writing-mode: vertical-rl; margin: .2rem auto; max-height: 9rem; overflow: hidden; }
.matrix tbody th { padding: 0 .4rem; white-space: nowrap; text-align: end; font-weight: 400; }
.matrix td.best { outline: 2px solid #d55e00; outline-offset: -2px; font-weight: 700; }
"""
ROLES = {
    "start": "start of the text",
    "end": "end of the text",
    "marker": "marker that tells queries from passages",
    "mask": "mask, added to expand the query",
    "prefix": "the prompt's prefix",
}


def matches_page(matches: Matches) -> str:
    """A self-contained page: every query token with the passage token that it chose, the passage coloured by what each
    token gave, words, and all cosines."""
    counts = f"{len(matches.query.kept)} query vectors, {len(matches.passage.kept)} passage vectors"
    score = (
        f'<p class="note">score {matches.score:.4f} = the sum of the best cosine of each query token; {counts}; '
        f"query read as {escape(matches.query.lang)}, passage as {escape(matches.passage.lang)}</p>"
    )
    words = [
        (found.word, ", ".join(f"{name} {value:.2f}" for name, value in found.found), f"{found.score:.3f}",
         f"{found.score / matches.score:.0%}" if matches.score else "")
        for found in matches.words()
    ]  # fmt: skip
    body = [
        score,
        "<h2>What each query token found</h2>",
        '<p class="note">Above the query token, below it the passage token with the highest cosine.</p>',
        *_pairs(matches),
        "<h2>The passage, coloured by what each token gives to the score</h2>",
        *_passage(matches),
        "<h2>Words of the query</h2>",
        table(("query word", "passage words that its tokens chose", "score", "share"), words, 2),
        "<h2>All cosines</h2>",
        *_matrix(matches),
    ]
    return page("Token matches", body, STYLE)


def _pairs(matches: Matches) -> Iterator[str]:
    low, spread = _scale(matches)
    yield f'<div class="pairs" {attributes(matches.query.lang)}>'
    for token, chosen, cosine in zip(matches.query.kept, matches.best, matches.cosines, strict=True):
        other = matches.passage.kept[int(chosen)]
        special = "" if token.role == "text" else " special"
        yield (
            f'<div class="pair{special}" title="{escape(_title(token))} → {escape(_title(other))}">'
            f'<div class="from">{_name(token, matches.query.lang)}</div>'
            f"<div>{_name(other, matches.passage.lang)}</div>"
            f'<div class="cosine number" dir="ltr" style="{shade((cosine - low) / spread)};text-align:center">'
            f"{cosine:.3f}</div></div>"
        )
    yield "</div>"
    silent = [token for token in matches.query.tokens if not token.kept]
    if silent:
        names = " ".join(_name(token, matches.query.lang) for token in silent)
        yield f'<p class="note">Read, but without vectors: <span class="skipped">{names}</span></p>'


def _passage(matches: Matches) -> Iterator[str]:
    most = float(matches.given.max())
    given = iter(matches.given.tolist())
    yield (
        f'<p class="note">From white (nothing) to dark blue ({most:.2f}). <span class="skipped">Struck through</span>: '
        "read, but without a vector. Italics: the prompt. Dashed: tokens that are no text.</p>"
    )
    yield f'<p class="text" {attributes(matches.passage.lang)}>'
    pieces = []
    for token in matches.passage.tokens:
        value = next(given) if token.kept else None
        pieces.append(_span(token, value, most))
    if matches.passage.rest.strip():
        pieces.append(
            f'<span class="cut" title="cut off: the encoder never read it">{escape(matches.passage.rest)}</span>'
        )
    yield "".join(pieces) + "</p>"


def _span(token: Token, value: float | None, most: float) -> str:
    title = escape(_title(token) + (", no vector" if value is None else f", gives {value:.3f}"))
    style = f' style="{shade(value / most)}"' if value else ""
    if token.role in ("text", "prefix") and (token.text or token.role == "prefix"):
        # The space stays outside, or a gap would be coloured; no padding, so that Arabic letters stay joined.
        bare = token.text.lstrip()
        space = " " if bare != token.text else ""
        kinds = " ".join(
            kind for kind, holds in (("skipped", value is None), ("prefix", token.role == "prefix")) if holds
        )
        return f'{space}<span class="{kinds}"{style} title="{title}">{escape(bare)}</span>'
    if value is None and not token.text:
        return ""
    return f' <span class="role" dir="ltr"{style} title="{title}">{escape(token.label())}</span>'


def _matrix(matches: Matches) -> Iterator[str]:
    low, spread = _scale(matches)
    yield (
        f'<p class="note">Query tokens down, passage tokens across, from {low:.2f} (white) to {low + spread:.2f} (dark '
        "blue); framed: the best of its line, which counts.</p>"
    )
    heads = "".join(
        f'<th title="{escape(_title(token))}"><div>{_name(token, matches.passage.lang)}</div></th>'
        for token in matches.passage.kept
    )
    yield f'<div class="wide"><table class="matrix">\n<thead><tr><th></th>{heads}</tr></thead>\n<tbody>'
    for token, line, chosen in zip(matches.query.kept, matches.similarity, matches.best, strict=True):
        cells = "".join(
            f'<td{" class=best" if place == chosen else ""} style="{shade((value - low) / spread)}" '
            f'title="{value:.4f}">{_two(value)}</td>'
            for place, value in enumerate(line.tolist())
        )
        yield f'<tr><th title="{escape(_title(token))}">{_name(token, matches.query.lang)}</th>{cells}</tr>'
    yield "</tbody></table></div>"


def _name(token: Token, lang: str) -> str:
    # Tokens that are no text are written as the vocabulary has them, or </s> would read <s/> beside Arabic.
    written = attributes(lang) if token.role == "text" else 'dir="ltr"'
    return f"<bdi {written}>{escape(token.label())}</bdi>"


def _title(token: Token) -> str:
    return token.piece if token.role == "text" else f"{token.piece} ({ROLES[token.role]})"


def _two(value: float) -> str:
    """`.87`, `1.0`, `-.10`: two digits fit a narrow cell."""
    return "1.0" if value > 0.995 else f"{value:.2f}".replace("0.", ".", 1)


def _scale(matches: Matches) -> tuple[float, float]:
    """The lowest cosine, and how far the highest is from it: of an encoder whose cosines all lie near 1 the differences
    are what tells tokens apart."""
    low, high = float(np.min(matches.similarity)), float(np.max(matches.similarity))
    return low, max(high - low, 1e-6)


def match_lines(matches: Matches) -> list[tuple[str, str, str]]:
    """(query token, passage token, cosine) of each query vector, for the terminal."""
    return [
        (token.label(), matches.passage.kept[int(chosen)].label(), f"{cosine:.4f}")
        for token, chosen, cosine in zip(matches.query.kept, matches.best, matches.cosines, strict=True)
    ]


def skipped_tokens(side: Side) -> str:
    """The tokens without vectors, for the terminal."""
    return " ".join(token.label() for token in side.tokens if not token.kept)
