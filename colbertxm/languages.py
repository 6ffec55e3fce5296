"""The 81 languages of X-MOD: codes, adapters, names, scripts, and how data sets spell them.

    >>> language("dt").adapter, language("zh-Hant").code, language("arabic").rtl
    ('nl_XX', 'zh-hant', True)

There is no default: a spelling that is not in the table is an error.
"""

from __future__ import annotations

from dataclasses import dataclass

from colbertxm.errors import UserError, nearest

RIGHT_TO_LEFT = frozenset({"Arab", "Hebr"})
UNSEGMENTED = frozenset({"Hans", "Hant", "Jpan", "Thai", "Khmr", "Laoo", "Mymr"})


@dataclass(frozen=True)
class Language:
    """One language, or one script of it."""

    code: str
    """What a `Text` carries: ISO 639-1, with its script where a language has a second row (sr-latn)."""
    adapter: str
    """The X-MOD adapter that reads it, such as de_DE."""
    iso3: str
    """ISO 639-3."""
    script: str
    """ISO 15924, such as Latn."""
    name: str
    """In English."""

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


def _parse(entry: str) -> Language:
    code, adapter, iso3, script, name = entry.split(" ", 4)
    return Language(code, adapter, iso3, script, name)


_OF_ADAPTERS = tuple(_parse(entry) for line in _TABLE.split("\n") for entry in line.split("|") if entry)
ADAPTERS: tuple[str, ...] = tuple(found.adapter for found in _OF_ADAPTERS)
"""X-MOD's 81 adapter names, in the order of their numbers."""
_SECOND_SCRIPTS = (Language("sr-latn", "sr_RS", "srp", "Latn", "Serbian (Latin)"),)
LANGUAGES: tuple[Language, ...] = (*_OF_ADAPTERS, *_SECOND_SCRIPTS)
"""The languages of the adapters, and a second script where collections keep it apart."""

# What else data sets and people write: mMARCO and ir_datasets (dt), NTREX and FLORES (zho-CN, zho_Hans, arb),
# ISO 639-2's bibliographic codes (ger), withdrawn codes (iw), Norway's two standards, everyday names.
_SPELLINGS = {
    "dt": "nl", "zh-cn": "zh", "zh-hans": "zh", "zh-hans-cn": "zh", "zho-cn": "zh", "zho-hans": "zh",
    "zh-tw": "zh-hant", "zh-hk": "zh-hant", "zh-hant-tw": "zh-hant", "zho-tw": "zh-hant",
    "zho-hant": "zh-hant", "simplified chinese": "zh", "chinese (simplified)": "zh",
    "chinese (traditional)": "zh-hant", "sr-cyrl": "sr", "srp-cyrl": "sr", "srp-latn": "sr-latn",
    "nb": "no", "nn": "no", "nob": "no", "nno": "no", "iw": "he", "in": "id", "fil": "tl", "filipino": "tl",
    "per": "fa", "pes": "fa", "farsi": "fa", "arb": "ar", "ger": "de", "fre": "fr", "dut": "nl", "chi": "zh",
    "cze": "cs", "gre": "el", "rum": "ro", "slo": "sk", "swh": "sw", "khk": "mn", "zsm": "ms", "ekk": "et",
    "lvs": "lv", "azj": "az", "uzn": "uz", "ory": "or", "npi": "ne", "als": "sq", "myanmar": "my",
    "oriya": "or",
}  # fmt: skip


def _spellings() -> dict[str, Language]:
    by_code = {found.code: found for found in LANGUAGES}
    known = {spelling: by_code[code] for spelling, code in _SPELLINGS.items()}
    # Backwards, so that of two scripts of one language the table's first keeps the shared names.
    for found in reversed(LANGUAGES):
        for spelling in (found.iso3, found.adapter.lower().replace("_", "-"), found.name.lower(), found.code):
            known[spelling] = found
    return known


_KNOWN = _spellings()


def language(spelling: str) -> Language:
    """The language meant by a code, an adapter's name, an ISO 639-3 code, an English name or a data set's
    spelling. Case does not matter, nor `_` for `-`. Raises UserError for an unknown one, with the nearest."""
    key = str(spelling).strip().lower().replace("_", "-")
    if key not in _KNOWN:
        raise UserError(
            f"unknown language {spelling!r}{nearest(key, _KNOWN)}: X-MOD has {len(ADAPTERS)} languages, "
            "listed in colbertxm/languages.py"
        )
    return _KNOWN[key]
