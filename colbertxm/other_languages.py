"""Codes beside X-MOD's 81 languages: languages that collections have and X-MOD has not, and regions.

Why a table: a text in Yoruba is no mistake and keeps its own code wherever it goes; only reading it needs an
adapter, which `lang_proxy` names (see `colbertxm.languages`).
"""

from __future__ import annotations

# As in `languages`: code, ISO 639-3, script (ISO 15924), English name (CLDR's). All that FLORES-200, NTREX-128 and
# MIRACL have and X-MOD lacks. Arabic and Persian stand for their standard forms: dialects are languages of their own
# here, since only a person can say that Modern Standard Arabic's adapter will do for them. ajp is FLORES-200's;
# ISO 639-3 has merged it into apc since.
WITHOUT_ADAPTER = """
ace ace Latn Acehnese|ace-arab ace Arab Acehnese (Arabic)|ak aka Latn Akan|ar-latn ara Latn Arabic (Latin)
as asm Beng Assamese|ast ast Latn Asturian|awa awa Deva Awadhi|ay aym Latn Aymara|ban ban Latn Balinese
bm bam Latn Bambara|bjn bjn Latn Banjar|bjn-arab bjn Arab Banjar (Arabic)|ba bak Cyrl Bashkir|bem bem Latn Bemba
bho bho Deva Bhojpuri|bs bos Latn Bosnian|br bre Latn Breton|bug bug Latn Buginese|yue yue Hant Cantonese
ceb ceb Latn Cebuano|tzm tzm Tfng Central Atlas Tamazight|knc knc Latn Central Kanuri
knc-arab knc Arab Central Kanuri (Arabic)|ckb ckb Arab Central Kurdish|hne hne Deva Chhattisgarhi
cjk cjk Latn Chokwe|crh crh Latn Crimean Tatar|dv div Thaa Divehi|dyu dyu Latn Dyula|dz dzo Tibt Dzongkha
arz arz Arab Egyptian Arabic|ee ewe Latn Ewe|fo fao Latn Faroese|fj fij Latn Fijian|fon fon Latn Fon
fur fur Latn Friulian|ff ful Latn Fula|lg lug Latn Ganda|gn grn Latn Guarani|ht hat Latn Haitian Creole
mey mey Arab Hassaniyya|hmn hmn Latn Hmong|ig ibo Latn Igbo|ilo ilo Latn Iloko|jv jav Latn Javanese
kbp kbp Latn Kabiyè|kea kea Latn Kabuverdianu|kab kab Latn Kabyle|kac kac Latn Kachin|kam kam Latn Kamba
ks kas Arab Kashmiri|ks-deva kas Deva Kashmiri (Devanagari)|ki kik Latn Kikuyu|kmb kmb Latn Kimbundu
rw kin Latn Kinyarwanda|kg kon Latn Kongo|ltg ltg Latn Latgalian|lij lij Latn Ligurian|li lim Latn Limburgish
ln lin Latn Lingala|lmo lmo Latn Lombard|lua lua Latn Luba-Lulua|luo luo Latn Luo
lb ltz Latn Luxembourgish|mag mag Deva Magahi|mai mai Deva Maithili|mg mlg Latn Malagasy|mt mlt Latn Maltese
mni mni Beng Manipuri|acm acm Arab Mesopotamian Arabic|min min Latn Minangkabau
min-arab min Arab Minangkabau (Arabic)|lus lus Latn Mizo|ary ary Arab Moroccan Arabic|mos mos Latn Mossi
mi mri Latn Māori|ars ars Arab Najdi Arabic|fuv fuv Latn Nigerian Fulfulde|pcm pcm Latn Nigerian Pidgin
apc apc Arab North Levantine Arabic|nd nde Latn North Ndebele|nso nso Latn Northern Sotho|nus nus Latn Nuer
ny nya Latn Nyanja|oc oci Latn Occitan|om orm Latn Oromo|pag pag Latn Pangasinan|pap pap Latn Papiamento
prs prs Arab Dari|fuc fuc Latn Pulaar|qu que Latn Quechua|rn run Latn Rundi|sm smo Latn Samoan
sg sag Latn Sango|sat sat Olck Santali|sc srd Latn Sardinian|gd gla Latn Scottish Gaelic|shn shn Mymr Shan
sn sna Latn Shona|scn scn Latn Sicilian|szl szl Latn Silesian|sd snd Arab Sindhi|azb azb Arab South Azerbaijani
ajp ajp Arab South Levantine Arabic|st sot Latn Southern Sotho|dik dik Latn Southwestern Dinka
su sun Latn Sundanese|ss ssw Latn Swati|gsw gsw Latn Swiss German|acq acq Arab Ta'izzi-Adeni Arabic
shi shi Latn Tachelhit|ty tah Latn Tahitian|tg tgk Cyrl Tajik|taq taq Latn Tamasheq
taq-tfng taq Tfng Tamasheq (Tifinagh)|tt tat Cyrl Tatar|bo bod Tibt Tibetan|ti tir Ethi Tigrinya
tpi tpi Latn Tok Pisin|to ton Latn Tongan|ts tso Latn Tsonga|tn tsn Latn Tswana|tum tum Latn Tumbuka
aeb aeb Arab Tunisian Arabic|tk tuk Latn Turkmen|tw twi Latn Twi|umb umb Latn Umbundu|ug uig Arab Uyghur
ve ven Latn Venda|vec vec Latn Venetian|war war Latn Waray|fy fry Latn Western Frisian|wo wol Latn Wolof
xh xho Latn Xhosa|yi yid Hebr Yiddish|yo yor Latn Yoruba|zu zul Latn Zulu
"""

# ISO 3166-1 alpha-2, and the UN M.49 areas that locales use: world, Europe, Latin America.
REGIONS = frozenset(
    """001 150 419 ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bl bm bn bo bq br bs bt bv
    bw by bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg eh er es et fi fj fk fm
    fo fr ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm
    jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mf mg mh mk ml mm mn mo mp mq mr
    ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs
    ru rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz
    ua ug um us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw""".split()
)

# Where CLDR's likely subtags give a language another script than its adapter reads. zh-tw, zh-hk and zh-mo are
# spellings of zh-hant; the other places of Chinese, and all of these, need the script said.
OTHER_SCRIPT = frozenset(
    """az-iq az-ir az-ru ha-cm ha-sd kk-af kk-cn kk-ir kk-mn ku-iq ku-ir ku-lb ky-cn ky-tr mn-cn ms-cc pa-pk sr-me sr-ro
    sr-ru sr-tr uz-af uz-cn zh-au zh-bn zh-gb zh-gf zh-id zh-pa zh-pf zh-ph zh-sr zh-th zh-us zh-vn""".split()
)
