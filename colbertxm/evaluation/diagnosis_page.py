"""Self-contained HTML: one file without scripts and without anything fetched, readable in print and by colour-blind
people, right to left where the language is.

What a page shows comes from files of others, so every text goes through `escape` and a policy in the head forbids
scripts and connections even where one was forgotten.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from colbertxm.errors import UserError
from colbertxm.languages import Language, language

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Noto Sans", "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff;
  max-width: 76rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 1.8rem 0 .4rem; }
.note { color: #555; font-size: .87rem; margin: .2rem 0 .6rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .55rem; text-align: start; vertical-align: top; border-bottom: 1px solid #ddd; }
th { font-weight: 600; border-bottom: 2px solid #999; }
.number { text-align: right; white-space: nowrap; }
.wide { overflow-x: auto; }
.grey { color: #767676; }
@media print { body { margin: 0; max-width: none; } .wide { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
LIGHT, DARK = (255, 255, 255), (0, 68, 112)  # lightness falls all the way, so the scale reads in grey too
WHITE_TEXT_FROM = 0.55


def escape(text: object) -> str:
    """Text as HTML, inside elements and quoted attributes alike."""
    return html.escape(str(text), quote=True)


def page(title: str, body: Iterable[str], style: str = "") -> str:
    """A whole document; `body` is HTML already, `title` is not."""
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
    )
    return head + "\n".join(body) + "\n</body>\n</html>\n"


def known(lang: str) -> Language | None:
    """The language of a label such as a text's, None where it names no language that we know."""
    try:
        return language(lang)
    except UserError:
        return None


def attributes(lang: str) -> str:
    """`lang` and `dir` of an element with text in `lang`; the browser judges by the text where it is unknown. Han
    characters look different in Chinese, Japanese and Korean fonts, which browsers choose by `lang`."""
    found = known(lang)
    if found is None:
        return 'dir="auto"'
    return f'lang="{escape(found.code)}" dir="{"rtl" if found.rtl else "ltr"}"'


def shade(share: float) -> str:
    """Style of a cell: white for 0, dark blue for 1, and text that stands out from it."""
    share = min(1.0, max(0.0, share))
    mixed = (round(light + (dark - light) * share) for light, dark in zip(LIGHT, DARK, strict=True))
    text = ";color:#fff" if share >= WHITE_TEXT_FROM else ""
    return f"background:#{''.join(f'{level:02x}' for level in mixed)}{text}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A table of texts, escaped here; columns from number `texts` on are numbers."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="number">{escape(cell)}</{tag}>'
            if place >= texts
            else f'<{tag} dir="auto">{escape(cell)}</{tag}>'
            for place, cell in enumerate(cells)
        )

    body = "\n".join(f"<tr>{row(line, 'td')}</tr>" for line in lines)
    return (
        f'<div class="wide"><table>\n<thead><tr>{row(head, "th")}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )
