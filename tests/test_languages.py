"""The table of languages: X-MOD's order, and every spelling that a data set uses."""

from __future__ import annotations

import re

import pytest

from colbertxm.errors import UserError
from colbertxm.languages import ADAPTERS, LANGUAGES, language

XMOD_BASE = """
en_XX id_ID vi_VN ru_RU fa_IR sv_SE ja_XX fr_XX de_DE ro_RO ko_KR hu_HU es_XX fi_FI uk_UA da_DK pt_XX no_XX
th_TH pl_PL bg_BG nl_XX zh_CN he_IL el_GR it_IT sk_SK hr_HR tr_TR ar_AR cs_CZ lt_LT hi_IN zh_TW ca_ES ms_MY
sl_SI lv_LV ta_IN bn_IN et_EE az_AZ sq_AL sr_RS kk_KZ ka_GE tl_XX ur_PK is_IS hy_AM ml_IN mk_MK be_BY la_VA
te_IN eu_ES gl_ES mn_MN kn_IN ne_NP sw_KE si_LK mr_IN af_ZA gu_IN cy_GB eo_EO km_KH ky_KG uz_UZ ps_AF pa_IN
ga_IE ha_NG am_ET lo_LA ku_TR so_SO my_MM or_IN sa_IN
""".split()  # `languages` in the config of facebook/xmod-base


def test_adapters_stand_in_the_order_of_xmod_base() -> None:
    assert list(ADAPTERS) == XMOD_BASE and len(ADAPTERS) == 81
    assert [found.adapter for found in LANGUAGES[:81]] == XMOD_BASE
    assert {found.adapter for found in LANGUAGES} == set(XMOD_BASE)


def test_fields_are_well_formed() -> None:
    assert len({found.code for found in LANGUAGES}) == len({found.name for found in LANGUAGES}) == len(LANGUAGES)
    for found in LANGUAGES:
        assert re.fullmatch(r"[a-z]{2}(-[a-z]{4})?", found.code), found
        assert re.fullmatch(r"[a-z]{3}", found.iso3), found
        assert re.fullmatch(r"[A-Z][a-z]{3}", found.script), found
        assert found.name[0].isupper(), found
        # ISO 639-1 but for a second script: the adapter's own two letters.
        assert found.code[:2] == found.adapter[:2], found


@pytest.mark.parametrize("found", LANGUAGES, ids=lambda found: found.code)
def test_every_language_is_known_by_code_and_name(found) -> None:  # type: ignore[no-untyped-def]
    for spelling in (
        found.code,
        found.code.upper(),
        found.code.replace("-", "_"),
        found.name,
        f" {found.name.lower()} ",
    ):
        assert language(spelling) is found


def test_adapter_names_and_iso3_codes_mean_the_first_script() -> None:
    for found in LANGUAGES[:81]:
        for spelling in (found.adapter, found.adapter.lower(), found.adapter.replace("_", "-")):
            assert language(spelling) is found
    for found in LANGUAGES:
        assert language(found.iso3).iso3 == found.iso3
    assert language("zho").code == "zh" and language("srp").code == "sr" and language("sr_RS").code == "sr"


@pytest.mark.parametrize(
    ("spellings", "code"),
    [
        ("dt dutch nld dut NL", "nl"),  # mMARCO says dt
        ("chinese zh zho chi zh-cn zh_CN zh_Hans zh-Hans zho-CN zho_Hans", "zh"),
        ("zh-Hant zh_TW zh-tw zho-TW zho_Hant zh-HK", "zh-hant"),
        ("sr-Latn srp_Latn SR_LATN", "sr-latn"),
        ("sr srp sr-Cyrl srp-Cyrl serbian", "sr"),
        ("fas per pes farsi persian fa_IR", "fa"),
        ("rus russian", "ru"),
        ("arabic ara arb ar_AR", "ar"),
        ("swahili swa swh", "sw"),
        ("no nb nn nob nno nor norwegian", "no"),
        ("he iw heb hebrew", "he"),
        ("id ind in indonesian", "id"),
        ("my mya burmese myanmar", "my"),
    ],
)
def test_spellings_of_data_sets(spellings: str, code: str) -> None:
    assert {language(spelling).code for spelling in spellings.split()} == {code}


def test_names_of_mr_tydi_and_neuclir() -> None:
    names = "arabic bengali english finnish indonesian japanese korean russian swahili telugu thai".split()
    assert [language(name).code for name in names] == "ar bn en fi id ja ko ru sw te th".split()
    assert [language(code).code for code in ("zho", "fas", "rus", "eng")] == ["zh", "fa", "ru", "en"]


def test_scripts() -> None:
    assert {found.code for found in LANGUAGES if found.rtl} == {"ar", "fa", "he", "ps", "ur"}
    unsegmented = {"ja", "km", "lo", "my", "th", "zh", "zh-hant"}
    assert {found.code for found in LANGUAGES if not found.segmented} == unsegmented
    assert {language(code).script for code in ("zh", "zh-hant", "sr", "sr-latn")} == {"Hans", "Hant", "Cyrl", "Latn"}


@pytest.mark.parametrize(
    ("spelling", "hint"), [("germann", "did you mean 'german'?"), ("portugese", "'portuguese'"), ("de-DEE", "'de-de'")]
)
def test_an_unknown_language_is_an_error_that_names_the_nearest(spelling: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        language(spelling)
    message = str(caught.value)
    assert message.startswith(f"unknown language {spelling!r}") and hint in message
    assert "81 languages" in message and "\n" not in message


@pytest.mark.parametrize("spelling", ["", "xx", "yo", "e", "english!", "en-GB", False, None])
def test_there_is_no_default(spelling: object) -> None:
    with pytest.raises(UserError, match="unknown language"):
        language(spelling)  # type: ignore[arg-type]
