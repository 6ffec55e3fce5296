"""Tokens for BM25 that suit the language, and the name of how each was made.

>>> cutter("de", "full").how
'words, Snowball german (PyStemmer 3.1.0)'

Three schemes, of which the last two are the same on any machine:

    best   a maintained library where one is installed, else the plainer way; `how` says which it was
    full   as `best`, but a library that is not installed is an error
    plain  no library at all: words where spaces part them, elsewhere character bigrams

What `best` takes was chosen on smart_home's development split (`python benchmarks/bm25_tokens.py`): Snowball's stems
for the languages that it has; for Japanese Sudachi's shortest units; for Korean bigrams, as Lucene's CJKAnalyzer
makes, which need no library; for Thai, Lao, Khmer and Burmese ICU's dictionaries, as Lucene's ICUTokenizer takes them.
Chinese stays with bigrams: neither ICU's words nor jieba's found more.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import Any

from colbertxm.errors import MissingExtra, UserError, nearest
from colbertxm.languages import language

SCHEMES = ("best", "full", "plain")
EXTRA = "bm25"

# Scripts without spaces: Thai, Lao, Burmese, Khmer, kana, Han. A run of them is cut into overlapping bigrams,
# the usual stand-in for a segmenter in retrieval (Nie et al., 2000; Lucene's CJKBigramFilter).
DENSE = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]+"
)
HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]+")
# Soft hyphen, joiners and byte order mark stand inside words and change only how these look (UAX 29, WB4).
INVISIBLE = dict.fromkeys((0x00AD, 0x200C, 0x200D, 0x2060, 0xFEFF))
DOTTED = {"tr", "az"}  # where I is the capital of the dotless ı

SNOWBALL = dict(
    pair.split(":")
    for pair in """
    ar:arabic hy:armenian eu:basque ca:catalan cs:czech da:danish nl:dutch en:english eo:esperanto et:estonian
    fi:finnish fr:french de:german el:greek hi:hindi hu:hungarian id:indonesian ga:irish it:italian lt:lithuanian
    ne:nepali no:norwegian fa:persian pl:polish pt:portuguese ro:romanian ru:russian sr:serbian sr-latn:serbian
    st:sesotho es:spanish sv:swedish ta:tamil tr:turkish yi:yiddish
    """.split()
)
"""Our codes -> Snowball's algorithms (https://snowballstem.org, BSD), as of PyStemmer 3.1."""
ICU = ("th", "lo", "km", "my")
"""Languages that ICU's word breaks read with a dictionary (Chinese and Japanese besides)."""
SUDACHI_LIMIT = 10_000
"""Characters at a time: Sudachi refuses texts above 49,149 bytes."""


@dataclass(frozen=True)
class Cutter:
    """How texts of one language become tokens, in words for a result row, and the function that does it."""

    how: str
    cut: Callable[[str], list[str]]


class _Absent(Exception):
    """A library that the language's best way needs is not installed, or too old."""


@cache
def cutter(lang: str, scheme: str = "best") -> Cutter:
    """The way of `lang` under `scheme`. Raises UserError for an unknown language or scheme, and MissingExtra where
    `full` needs what is not installed."""
    code = language(lang).code
    if scheme not in SCHEMES:
        raise UserError(f"unknown tokenisation {scheme!r}{nearest(scheme, SCHEMES)}; there are {', '.join(SCHEMES)}")
    if scheme == "plain":
        return _plain(code)
    try:
        return _best(code)
    except _Absent as absent:
        if scheme == "full":
            raise MissingExtra(str(absent), EXTRA) from None
        found = _plain(code)
        return Cutter(f"{found.how} ({absent} is not installed)", found.cut)


def tokenize(text: str, lang: str, scheme: str = "plain") -> list[str]:
    """The tokens of one text. Plain: lower-cased NFKC words; in languages written without spaces, bigrams of each run
    of their script (a run of one character stays as it is) and words of the rest."""
    return cutter(lang, scheme).cut(text)


def _plain(code: str) -> Cutter:
    if language(code).segmented:
        return Cutter("words", lambda text: words(text, code))
    return Cutter("character bigrams", lambda text: runs(words(text, code), DENSE, bigrams))


def _best(code: str) -> Cutter:
    if code in SNOWBALL:
        return _snowball(code)
    if code == "ko":
        return Cutter("character bigrams", lambda text: runs(words(text, code), HANGUL, bigrams))
    if code == "ja":
        return _sudachi()
    return _icu(code) if code in ICU else _plain(code)


def words(text: str, code: str) -> list[str]:
    """Lower-cased NFKC words."""
    folded = unicodedata.normalize("NFKC", text).translate(INVISIBLE)
    if code in DOTTED:
        folded = folded.replace("I", "ı").replace("İ", "i")
    found: list[str] = _word().findall(folded.lower().replace("i\u0307", "i"))  # "İ".lower() has two characters
    return found


@cache
def _word() -> re.Pattern[str]:
    """Letters, digits, underscores, and the marks that `\\w` leaves out: most vowels of Hindi, Thai or Tamil."""
    marks = (chr(i) for i in range(sys.maxunicode + 1) if unicodedata.category(chr(i))[0] == "M")
    return re.compile(f"[\\w{''.join(marks)}]+")


def runs(found: list[str], script: re.Pattern[str], cut: Callable[[str], list[str]]) -> list[str]:
    """Words with each run of `script` in them cut by `cut`, and the rest left whole."""
    tokens: list[str] = []
    for word in found:
        at = 0
        for run in script.finditer(word):
            tokens += [word[at : run.start()]] if run.start() > at else []
            tokens += cut(run.group())
            at = run.end()
        tokens += [word[at:]] if at < len(word) else []
    return tokens


def bigrams(run: str) -> list[str]:
    """Overlapping pairs of characters; a single one stays as it is."""
    return [run[i : i + 2] for i in range(len(run) - 1)] or [run]


def _snowball(code: str) -> Cutter:
    name = SNOWBALL[code]
    stemmer, version = _library("Stemmer", "PyStemmer")
    if name not in stemmer.algorithms():
        raise _Absent(f"PyStemmer with {name} (3.1 or later)")
    stem = stemmer.Stemmer(name).stemWords
    return Cutter(f"words, Snowball {name} (PyStemmer {version})", lambda text: list(stem(words(text, code))))


def _sudachi() -> Cutter:
    sudachi, version = _library("sudachipy", "SudachiPy")
    _, dictionary = _library("sudachidict_core", "SudachiDict-core")
    tokenizer = sudachi.Dictionary().create(mode=sudachi.SplitMode.A)

    def cut(run: str) -> list[str]:
        pieces = (run[i : i + SUDACHI_LIMIT] for i in range(0, len(run), SUDACHI_LIMIT))
        return [found.normalized_form() for piece in pieces for found in tokenizer.tokenize(piece)]

    how = f"words of mode A, normalised (SudachiPy {version}, core dictionary {dictionary})"
    return Cutter(how, lambda text: [token for word in words(text, "ja") for token in cut(word)])


def _icu(code: str) -> Cutter:
    breakers, version = _library("icu4py.breakers", "icu4py")
    locale = language(code).code
    return Cutter(
        f"words of ICU's dictionary (icu4py {version})",
        lambda text: runs(words(text, code), DENSE, lambda run: list(breakers.WordBreaker(run, locale))),
    )


def _library(module: str, package: str) -> tuple[Any, str]:
    """An optional library and its version. Raises _Absent."""
    try:
        return import_module(module), metadata.version(package)
    except (ImportError, metadata.PackageNotFoundError):
        raise _Absent(package) from None
