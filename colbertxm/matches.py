"""The token matches of one query and one passage, from an encoder: `match(encoder, query, passage)`."""

from __future__ import annotations

from colbertxm.errors import UserError
from colbertxm.evaluation.matches import Matches, Role, Side, Token
from colbertxm.languages import language
from colbertxm.model.encoder import Encoder
from colbertxm.model.tokens import STRAY, Kind, Tokenised
from colbertxm.records import Text


def match(encoder: Encoder, query: Text, passage: Text) -> Matches:
    """MaxSim of two texts taken apart. Raises UserError for a single-vector model, an unknown language, a text that is
    none, and a passage of which no token has a vector."""
    if encoder.pooling == "single":
        raise UserError("a single-vector model has no token matches: give a multi-vector checkpoint")
    vectors = [encoder.encode([text], kind)[0] for text, kind in _both(query, passage)]
    sides = [side(encoder, text, kind) for text, kind in _both(query, passage)]
    for found, (text, kind) in zip(vectors, _both(query, passage), strict=True):
        if not len(found):
            raise UserError(f"the {kind} {text.text!r} has no vectors: it is punctuation alone")
    return Matches(sides[0], sides[1], (vectors[0] @ vectors[1].T).numpy())


def _both(query: Text, passage: Text) -> list[tuple[Text, Kind]]:
    return [(query, "query"), (passage, "passage")]


def side(encoder: Encoder, text: Text, kind: Kind) -> Side:
    """The tokens of a text as the encoder reads them, each with what it covers of the text."""
    tokens = encoder.tokens
    settings = tokens.settings
    (found,) = encoder.tokenise([text], kind)
    stray = STRAY if settings.markers == "colbert_xm_train" else ""
    prefix = settings.query_prefix if kind == "query" else settings.passage_prefix
    written = stray + prefix + text.text
    if settings.markers == "added":
        written = written.strip()  # as the tokens are made
    encoding = tokens.tokenizer.encode(written, add_special_tokens=False)
    marker = tokens.marker(kind) is not None
    # The marker took the place of the stray text's first piece.
    ids, offsets = encoding.ids[bool(stray) :], encoding.offsets[bool(stray) :]
    first = 1 + marker
    count = min(len(ids), _end_of_text(found, tokens.mask_id if kind == "query" else None) - first)
    if list(found.ids[first : first + count]) != ids[:count]:
        raise ValueError(f"the tokens of {text.text!r} are not where they were expected")
    spans, end = [], len(stray)
    for _, stop in offsets[:count]:
        spans.append(written[end:stop] if stop > end else "")
        end = max(end, stop)
    starts = len(stray) + len(prefix)
    read: list[Token] = []
    word, in_text = -1, False
    for place, (number, kept) in enumerate(zip(found.ids, found.keep, strict=True)):
        piece = tokens.tokenizer.id_to_token(number) or f"#{number}"
        role = _role(place, first, count, marker)
        covered = ""
        if role == "text":
            covered = spans[place - first]
            if offsets[place - first][1] <= starts:
                role = "prefix" if offsets[place - first][1] > len(stray) else "marker"
        if role == "text":
            # In scripts without spaces a piece is the best guess at a word.
            word += not in_text or piece.startswith("▁") or not language(text.lang).segmented
            in_text = True
        read.append(Token(covered, piece, role, kept, word if role == "text" else -1))
    return Side(language(text.lang).code, tuple(read), written[end:])


def _end_of_text(found: Tokenised, mask: int | None) -> int:
    """The place of `</s>`, behind which only masks stand."""
    end = len(found.ids)
    while mask is not None and found.ids[end - 1] == mask:
        end -= 1
    return end - 1


def _role(place: int, first: int, count: int, marker: bool) -> Role:
    if place == 0:
        return "start"
    if marker and place == 1:
        return "marker"
    if place < first + count:
        return "text"
    return "end" if place == first + count else "mask"
