"""The table of languages: X-MOD's order, and every spelling that a data set uses."""

from __future__ import annotations

import re

import pytest

from colbertxm.errors import UserError
from colbertxm.languages import ADAPTERS, LANGUAGES, OTHERS, language, proxies, proxy_notes, to_load

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
        ("chinese zh zho chi zh-cn zh_CN zh_Hans zh-Hans zho-CN zho_Hans cmn_Hans", "zh"),
        ("zh-Hant zh_TW zh-tw zho-TW zho_Hant zh-HK zh-MO zh-Hant-HK", "zh-hant"),
        ("sr-Latn srp_Latn SR_LATN srp-Latn sr-Latn-RS sr-Latn-ME", "sr-latn"),
        ("sr srp sr-Cyrl srp-Cyrl serbian sr-RS", "sr"),
        ("fas per pes farsi persian fa_IR pes_Arab", "fa"),
        ("rus russian", "ru"),
        ("arabic ara arb ar_AR arb_Arab", "ar"),
        ("swahili swa swh", "sw"),
        ("no nb nn nob nno nor norwegian nb-NO", "no"),
        ("he iw heb hebrew", "he"),
        ("id ind in indonesian", "id"),
        ("my mya burmese myanmar", "my"),
    ],
)
def test_spellings_of_data_sets(spellings: str, code: str) -> None:
    assert {language(spelling).code for spelling in spellings.split()} == {code}


# Each collection's whole list of languages, as it spells them, and what they are.
COLLECTIONS = {
    "mMARCO in ir_datasets": ("ar zh dt fr de hi id it ja pt ru es vi", "ar zh nl fr de hi id it ja pt ru es vi"),
    "mMARCO on the hub": (
        "arabic chinese dutch english french german hindi indonesian italian japanese portuguese russian spanish "
        "vietnamese",
        "ar zh nl en fr de hi id it ja pt ru es vi",
    ),
    "Mr. TyDi in ir_datasets": ("ar bn en fi id ja ko ru sw te th", "ar bn en fi id ja ko ru sw te th"),
    "Mr. TyDi on the hub": (
        "arabic bengali english finnish indonesian japanese korean russian swahili telugu thai",
        "ar bn en fi id ja ko ru sw te th",
    ),
    "MIRACL": (
        "ar bn de en es fa fi fr hi id ja ko ru sw te th yo zh",
        "ar bn de en es fa fi fr hi id ja ko ru sw te th yo zh",
    ),
    "NeuCLIR": ("zho rus fas zh ru fa eng", "zh ru fa zh ru fa en"),
    "CLIRMatrix, CIRAL": ("hausa somali swahili yoruba ha so sw yo", "ha so sw yo ha so sw yo"),
    "XQuAD": ("ar de el en es hi ro ru th tr vi zh", "ar de el en es hi ro ru th tr vi zh"),
    "XQuAD-R": ("ar de el en es hi ru th tr vi zh", "ar de el en es hi ru th tr vi zh"),
    "smart_home": (
        "sk ko hu gl es en de cs ga lt ja sv pt tr el bg he eu nl et fr ca zh-Hant zh-Hans sr sr-Latn ru en-GB it id "
        "pl nb pt-BR sl fi da uk vi ro mk lv fy lb es-419 ar is gsw hr ka af hy fa th nn bn cy ta ml hi bs eo ur sq ne",
        "sk ko hu gl es en de cs ga lt ja sv pt tr el bg he eu nl et fr ca zh-hant zh sr sr-latn ru en it id pl "
        "no pt sl fi da uk vi ro mk lv fy lb es ar is gsw hr ka af hy fa th no bn cy ta ml hi bs eo ur sq ne",
    ),
    "Pyserini's and Lucene's analyzers": (
        "ar bn ca cs da de el en es eu fa fi fr ga gl hi hu hy id it ja ko lt lv nl no pt ro ru sr sv sw te th tr zh "
        "brazilian bangla sorani",
        "ar bn ca cs da de el en es eu fa fi fr ga gl hi hu hy id it ja ko lt lv nl no pt ro ru sr sv sw te th tr zh "
        "pt bn ckb",
    ),
}


@pytest.mark.parametrize("name", COLLECTIONS)
def test_every_language_of_the_collections(name: str) -> None:
    spellings, codes = (listed.split() for listed in COLLECTIONS[name])
    assert [language(spelling).code for spelling in spellings] == codes


FLORES_200 = """
ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn als_Latn amh_Ethi apc_Arab arb_Arab arb_Latn
ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl
bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn cjk_Latn
ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn est_Latn eus_Latn
ewe_Latn fao_Latn fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gaz_Latn gla_Latn gle_Latn glg_Latn grn_Latn
guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn
ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab kas_Deva kat_Geor kaz_Cyrl kbp_Latn kea_Latn
khk_Cyrl khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn kmr_Latn knc_Arab knc_Latn kon_Latn kor_Hang lao_Laoo lij_Latn
lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn lua_Latn lug_Latn luo_Latn lus_Latn lvs_Latn mag_Deva mai_Deva
mal_Mlym mar_Deva min_Arab min_Latn mkd_Cyrl mlt_Latn mni_Beng mos_Latn mri_Latn mya_Mymr nld_Latn nno_Latn nob_Latn
npi_Deva nso_Latn nus_Latn nya_Latn oci_Latn ory_Orya pag_Latn pan_Guru pap_Latn pbt_Arab pes_Arab plt_Latn pol_Latn
por_Latn prs_Arab quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Olck scn_Latn shn_Mymr sin_Sinh slk_Latn
slv_Latn smo_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn
szl_Latn tam_Taml taq_Latn taq_Tfng tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi tpi_Latn tsn_Latn tso_Latn
tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn vie_Latn war_Latn
wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zsm_Latn zul_Latn
""".split()
NTREX_128 = """
afr amh arb aze-Latn bak bel bem ben bod bos bul cat ces ckb-Arab cym dan deu div dzo ell eng-GB eng-IN eng-US est
eus ewe fao fas fij fil fin fra fra-CA fuc gle glg guj gsw-BE gsw-ZH hau heb hin hmn hrv hun hye ibo ind isl ita jpn
kan kat kaz khm kin kir kmr kor lao lav lit ltz mal mar mey mkd mlg mlt mon mri msa mya nde nep nld nno nob nso nya
orm pan pol por por-BR prs pus ron rus shi sin slk slv smo sna-Latn snd-Arab som spa spa-MX sqi srp-Cyrl srp-Latn
ssw swa swe tah tam tat tel tgk-Cyrl tha tir ton tsn tuk tur uig ukr urd uzb ven vie wol xho yor yue zho-CN zho-TW
zul
""".split()


@pytest.mark.parametrize("names", [FLORES_200, NTREX_128], ids=["FLORES-200", "NTREX-128"])
def test_flores_and_ntrex_keep_their_languages_and_scripts(names: list[str]) -> None:
    found = {name: language(name) for name in names}
    for name, one in found.items():
        script = name.replace("Hang", "Kore")[4:]  # FLORES writes kor_Hang
        assert len(script) != 4 or one.script == script, name
    # One language to a spelling, but for regions, and both of Norway's standards.
    assert len({one.code for one in found.values()}) >= len(names) - 11
    assert sum(one.xmod is not None for one in found.values()) >= 76


def test_a_region_is_dropped() -> None:
    spellings = "de-AT pt-BR pt_PT en-GB eng-US es-419 ar-001 fra-CA zh-SG zh-Hans-US nb-NO sr-Cyrl-ME yor-NG"
    codes = "de pt pt en en es ar fr zh zh no sr yo"
    assert [language(spelling).code for spelling in spellings.split()] == codes.split()


@pytest.mark.parametrize(
    "spelling", ["uz-Cyrl", "uz-AF", "sr-ME", "zh-US", "pa-PK", "de-Cyrl", "ks-Latn", "en-Grek-GB"]
)
def test_a_tag_of_another_script_is_refused(spelling: str) -> None:
    with pytest.raises(UserError, match="means another script than"):
        language(spelling)


@pytest.mark.parametrize(
    "spelling", ["de-QQ", "xx-DE", "de-AT-1996", "german-AT", "de--AT", "de-", "-DE", "de-1", "zh-yue"]
)
def test_only_a_known_language_with_a_known_region_is_a_tag(spelling: str) -> None:
    with pytest.raises(UserError, match="unknown language"):
        language(spelling)


def test_no_spelling_takes_another_languages_code_or_name() -> None:
    every = (*LANGUAGES, *OTHERS)
    assert len({found.code for found in every}) == len({found.name for found in every}) == len(every)
    for found in every:
        assert language(found.code) is found and language(found.name) is found
        assert language(found.iso3).iso3 == found.iso3


def test_a_language_without_adapter_is_known_and_says_what_to_do() -> None:
    yoruba = language("yor")
    assert (yoruba.code, yoruba.xmod, yoruba.script, yoruba.rtl) == ("yo", None, "Latn", False)
    with pytest.raises(UserError, match=r"no adapter for Yoruba \(yo\): .* lang_proxy=\{yo:sw\}"):
        _ = yoruba.adapter
    assert {found.code for found in OTHERS if found.rtl} >= {"yi", "ug", "sd", "ckb", "arz"}


def test_proxies_are_codes_whatever_their_spelling() -> None:
    assert proxies({"Yoruba": "swahili", "deu": "dt"}) == {"yo": "sw", "de": "nl"}
    assert proxies(None) == proxies({}) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"yoo": "sw"}, r"lang_proxy=\{yoo:sw\}: unknown language 'yoo' \(did you mean 'yo'"),
        ({"yo": "swahilli"}, "did you mean 'swahili'"),
        ({"yo": "ig"}, "no adapter for Igbo either"),
        ("sw", r"lang_proxy=sw: give a mapping"),
        ({"yo": "sw", "yor": "ha"}, "two proxies for 'yo': 'sw' and 'ha'"),
        ({"yo": False}, "unknown language False"),  # what YAML 1.1 makes of a bare no
    ],
)
def test_misspelt_proxies(given: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        proxies(given)
    assert "\n" not in str(caught.value)


def test_what_a_model_loads_for_its_proxies() -> None:
    found = proxies({"yo": "sw", "de": "nl"})
    assert to_load(["en", "yo", "de"], found) == ["en", "de", "sw", "nl"]
    assert to_load(["en", "om"], found) == ["en", "om", "sw", "nl"]  # so that om's own error is seen


def test_notes_say_what_is_replaced() -> None:
    without, forced = proxy_notes(proxies({"yo": "sw", "de": "nl"}))
    assert without == "lang_proxy: sw_KE reads Yoruba (yo), which has no adapter"
    assert forced == "lang_proxy: nl_XX reads German (de), instead of its own de_DE"


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


@pytest.mark.parametrize("spelling", ["", "xx", "e", "english!", "auto", False, None])
def test_there_is_no_default(spelling: object) -> None:
    with pytest.raises(UserError, match="unknown language"):
        language(spelling)  # type: ignore[arg-type]
