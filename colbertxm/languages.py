"""The 81 languages of X-MOD: codes, adapters, names, scripts, and how data sets spell them.

    >>> language("dt").adapter, language("zh-Hant").code, language("arabic").rtl, language("pt-BR").code
    ('nl_XX', 'zh-hant', True, 'pt')
    >>> language(proxies({"yoruba": "sw"}).get("yo", "yo")).adapter
    'sw_KE'

There is no default: a spelling that is not in the table is an error, and so is the adapter of a language that
X-MOD has not learnt, until `lang_proxy` names another language's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from colbertxm.errors import UserError, nearest
from colbertxm.other_languages import OTHER_SCRIPT, REGIONS, WITHOUT_ADAPTER

RIGHT_TO_LEFT = frozenset({"Arab", "Hebr"})
UNSEGMENTED = frozenset({"Hans", "Hant", "Jpan", "Thai", "Khmr", "Laoo", "Mymr"})


@dataclass(frozen=True)
class Language:
    """One language, or one script of it."""

    code: str
    """What a `Text` carries: ISO 639-1, with its script where a language has a second row (sr-latn)."""
    xmod: str | None
    """Its X-MOD adapter, such as de_DE; None where X-MOD has none."""
    iso3: str
    """ISO 639-3."""
    script: str
    """ISO 15924, such as Latn."""
    name: str
    """In English."""

    @property
    def adapter(self) -> str:
        """The X-MOD adapter that reads it. Raises UserError where there is none: naming another one is a decision
        of the experiment, never ours."""
        if self.xmod is None:
            raise UserError(
                f"X-MOD has no adapter for {self.name} ({self.code}): name the language whose adapter is to read it, "
                f"such as lang_proxy={{{self.code}:sw}}"
            )
        return self.xmod

    @property
    def rtl(self) -> bool:
        """Whether it is written from right to left."""
        return self.script in RIGHT_TO_LEFT

    @property
    def segmented(self) -> bool:
        """Whether spaces stand between its words."""
        return self.script not in UNSEGMENTED


# In the order of facebook/xmod-base's config, which is the order of its adapters' numbers.
_TABLE = """
en en_XX eng Latn English|id id_ID ind Latn Indonesian|vi vi_VN vie Latn Vietnamese|ru ru_RU rus Cyrl Russian
fa fa_IR fas Arab Persian|sv sv_SE swe Latn Swedish|ja ja_XX jpn Jpan Japanese|fr fr_XX fra Latn French
de de_DE deu Latn German|ro ro_RO ron Latn Romanian|ko ko_KR kor Kore Korean|hu hu_HU hun Latn Hungarian
es es_XX spa Latn Spanish|fi fi_FI fin Latn Finnish|uk uk_UA ukr Cyrl Ukrainian|da da_DK dan Latn Danish
pt pt_XX por Latn Portuguese|no no_XX nor Latn Norwegian|th th_TH tha Thai Thai|pl pl_PL pol Latn Polish
bg bg_BG bul Cyrl Bulgarian|nl nl_XX nld Latn Dutch|zh zh_CN zho Hans Chinese|he he_IL heb Hebr Hebrew
el el_GR ell Grek Greek|it it_IT ita Latn Italian|sk sk_SK slk Latn Slovak|hr hr_HR hrv Latn Croatian
tr tr_TR tur Latn Turkish|ar ar_AR ara Arab Arabic|cs cs_CZ ces Latn Czech|lt lt_LT lit Latn Lithuanian
hi hi_IN hin Deva Hindi|zh-hant zh_TW zho Hant Traditional Chinese|ca ca_ES cat Latn Catalan
ms ms_MY msa Latn Malay
sl sl_SI slv Latn Slovenian|lv lv_LV lav Latn Latvian|ta ta_IN tam Taml Tamil|bn bn_IN ben Beng Bengali
et et_EE est Latn Estonian|az az_AZ aze Latn Azerbaijani|sq sq_AL sqi Latn Albanian|sr sr_RS srp Cyrl Serbian
kk kk_KZ kaz Cyrl Kazakh|ka ka_GE kat Geor Georgian|tl tl_XX tgl Latn Tagalog|ur ur_PK urd Arab Urdu
is is_IS isl Latn Icelandic|hy hy_AM hye Armn Armenian|ml ml_IN mal Mlym Malayalam
mk mk_MK mkd Cyrl Macedonian
be be_BY bel Cyrl Belarusian|la la_VA lat Latn Latin|te te_IN tel Telu Telugu|eu eu_ES eus Latn Basque
gl gl_ES glg Latn Galician|mn mn_MN mon Cyrl Mongolian|kn kn_IN kan Knda Kannada|ne ne_NP nep Deva Nepali
sw sw_KE swa Latn Swahili|si si_LK sin Sinh Sinhala|mr mr_IN mar Deva Marathi|af af_ZA afr Latn Afrikaans
gu gu_IN guj Gujr Gujarati|cy cy_GB cym Latn Welsh|eo eo_EO epo Latn Esperanto|km km_KH khm Khmr Khmer
ky ky_KG kir Cyrl Kyrgyz|uz uz_UZ uzb Latn Uzbek|ps ps_AF pus Arab Pashto|pa pa_IN pan Guru Punjabi
ga ga_IE gle Latn Irish|ha ha_NG hau Latn Hausa|am am_ET amh Ethi Amharic|lo lo_LA lao Laoo Lao
ku ku_TR kur Latn Kurdish|so so_SO som Latn Somali|my my_MM mya Mymr Burmese|or or_IN ori Orya Odia
sa sa_IN san Deva Sanskrit
"""


def _rows(table: str) -> list[str]:
    return [entry for line in table.split("\n") for entry in line.split("|") if entry]


def _parse(entry: str) -> Language:
    code, adapter, iso3, script, name = entry.split(" ", 4)
    return Language(code, adapter, iso3, script, name)


def _without(entry: str) -> Language:
    code, iso3, script, name = entry.split(" ", 3)
    return Language(code, None, iso3, script, name)


_OF_ADAPTERS = tuple(map(_parse, _rows(_TABLE)))
ADAPTERS: tuple[str, ...] = tuple(found.adapter for found in _OF_ADAPTERS)
"""X-MOD's 81 adapter names, in the order of their numbers."""
_SECOND_SCRIPTS = (Language("sr-latn", "sr_RS", "srp", "Latn", "Serbian (Latin)"),)
LANGUAGES: tuple[Language, ...] = (*_OF_ADAPTERS, *_SECOND_SCRIPTS)
"""The languages of the adapters, and a second script where collections keep it apart."""
OTHERS: tuple[Language, ...] = tuple(map(_without, _rows(WITHOUT_ADAPTER)))
"""Languages that collections have and X-MOD has not: texts in them need a `lang_proxy`."""

# What else data sets and people write: mMARCO and ir_datasets (dt), NTREX and FLORES (zho-CN, arb; of a macrolanguage
# the member that is its standard), ISO 639-2's bibliographic codes (ger), withdrawn codes (iw), Norway's two standards,
# Lucene's analyzers (brazilian), everyday names.
_SPELLINGS = {
    "zh": "zh-cn zh-hans zh-sg zh-my zho-cn cmn cmn-hans chi mandarin|simplified chinese|chinese (simplified)",
    "zh-hant": "zh-tw zh-hk zh-mo zho-tw zho-hk zho-mo zho-hant cmn-hant|chinese (traditional)",
    "sr-latn": "srp-latn", "nl": "dt dut flemish", "no": "nb nn nob nno|norwegian bokmål|norwegian nynorsk",
    "he": "iw", "id": "in", "tl": "fil filipino", "fa": "per pes farsi", "ar": "arb", "de": "ger", "fr": "fre",
    "cs": "cze", "el": "gre", "ro": "rum mo mol moldavian", "sk": "slo", "sq": "alb als", "hy": "arm", "eu": "baq",
    "my": "bur myanmar", "ka": "geo", "is": "ice", "mk": "mac", "ms": "may zsm", "cy": "wel", "sw": "swh", "mn": "khk",
    "et": "ekk", "lv": "lvs", "az": "azj", "uz": "uzn", "or": "ory oriya", "ne": "npi", "ps": "pbt pushto", "ku": "kmr",
    "pa": "panjabi", "pt": "brazilian", "bn": "bangla", "es": "castilian", "sl": "slovene", "ky": "kirghiz",
    "si": "sinhalese", "gsw": "gsw-zh", "ckb": "sorani", "om": "gaz", "mg": "plt", "ay": "ayr", "qu": "quy",
    "yi": "ydd ji", "bo": "tib", "mi": "mao",
}  # fmt: skip
_SAME_SCRIPT = {"hang": "kore", "hrkt": "jpan"}  # FLORES writes kor_Hang


def _spellings() -> dict[str, Language]:
    known: dict[str, Language] = {}
    # Backwards, so that of two scripts of one language the table's first keeps the shared names.
    for found in reversed((*LANGUAGES, *OTHERS)):
        adapter = (found.xmod or found.code).lower().replace("_", "-")
        for spelling in (found.iso3, adapter, found.name.lower(), found.code):
            known[spelling] = found
    for code, listed in _SPELLINGS.items():
        words, *names = listed.split("|")
        known.update(dict.fromkeys((*words.split(), *names), known[code]))
    return known


_KNOWN = _spellings()
_TAG = re.compile(r"([a-z]{2,3})(?:-([a-z]{4}))?(?:-([a-z]{2}|[0-9]{3}))?")


def language(spelling: str) -> Language:
    """The language meant by a code, an adapter's name, an ISO 639-3 code, an English name or a data set's
    spelling, or by a BCP 47 tag of one of these with its script and a region (de-AT, deu_Latn, sr-Latn-RS): the
    region is dropped, a script must be the one that the adapter reads. Case does not matter, nor `_` for `-`.
    Raises UserError for an unknown one, with the nearest."""
    key = str(spelling).strip().lower().replace("_", "-")
    found = _KNOWN.get(key) or _tagged(key)
    if found is None:
        raise UserError(
            f"unknown language {spelling!r}{nearest(key, _KNOWN)}: X-MOD has {len(ADAPTERS)} languages, "
            "listed in colbertxm/languages.py"
        )
    return found


def _tagged(key: str) -> Language | None:
    """A known language with script, region or both. Raises UserError where they mean a script that the language's
    row is not in: it would be read by an adapter that hardly saw it."""
    tag = _TAG.fullmatch(key)
    if tag is None:
        return None
    base, script, region = tag.groups()
    found = _KNOWN.get(base)
    if found is None or (region is not None and region not in REGIONS):
        return None
    found = _KNOWN.get(f"{base}-{script}") or _KNOWN.get(f"{found.code}-{script}") or found
    other = script is not None and _SAME_SCRIPT.get(script, script) != found.script.lower()
    if other or (script is None and f"{found.code}-{region}" in OTHER_SCRIPT):
        raise UserError(
            f"{key!r} means another script than {found.script}, in which {found.code!r} ({found.name}) is read: "
            f"say {found.code!r} if the text is in {found.script}, transliterate it if not"
        )
    return found


def proxies(given: Mapping[str, str] | None) -> dict[str, str]:
    """A `lang_proxy` setting by codes: {language: the language whose adapter reads it}. Raises UserError for unknown
    languages and for a proxy that has no adapter itself."""
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f"lang_proxy={given}: give a mapping of languages, such as lang_proxy={{yo:sw}}")
    found: dict[str, str] = {}
    for spelling, proxy in (given or {}).items():
        try:
            code, reader = language(spelling).code, language(proxy)
        except UserError as error:
            raise UserError(f"lang_proxy={{{spelling}:{proxy}}}: {error}") from None
        if reader.xmod is None:
            raise UserError(f"lang_proxy={{{spelling}:{proxy}}}: X-MOD has no adapter for {reader.name} either")
        if found.setdefault(code, reader.code) != reader.code:
            raise UserError(f"lang_proxy names two proxies for {code!r}: {found[code]!r} and {reader.code!r}")
    return found


def to_load(langs: Sequence[str], found: Mapping[str, str]) -> list[str]:
    """The languages whose adapters a model needs for texts in `langs`: their own where X-MOD has one, and the proxies.
    A language with neither stays in the list, for its adapter's error."""
    own = [lang for lang in langs if language(lang).xmod is not None or language(lang).code not in found]
    return list(dict.fromkeys((*own, *found.values())))


def proxy_notes(found: Mapping[str, str]) -> Sequence[str]:
    """What a run says of its proxies, one line each: they change vectors."""
    notes = []
    for code, proxy in found.items():
        own = language(code).xmod
        instead = "which has no adapter" if own is None else f"instead of its own {own}"
        notes.append(f"lang_proxy: {language(proxy).adapter} reads {language(code).name} ({code}), {instead}")
    return notes
