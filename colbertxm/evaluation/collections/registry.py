"""The collections that `evaluate` knows by name, each with what its authors say of it.

>>> loaded = load("mrtydi", Request(langs=["fi", "sw"]))
>>> [c.query_lang for c in loaded.collections], find("mrtydi").measures
(['fi', 'sw'], ('RR@100', 'R@100'))
"""

from __future__ import annotations

from colbertxm.data.formats.folders import MMARCO
from colbertxm.errors import UserError, nearest
from colbertxm.evaluation.collections import beir, home, local, squad, topics
from colbertxm.evaluation.collections.entry import CROSS, Entry, Loaded, Request
from colbertxm.evaluation.collections.remote import files_of
from colbertxm.evaluation.collections.remote import home as cached
from colbertxm.languages import LANGUAGES, OTHERS

TYDI = {
    "ar": "arabic", "bn": "bengali", "en": "english", "fi": "finnish", "id": "indonesian", "ja": "japanese",
    "ko": "korean", "ru": "russian", "sw": "swahili", "te": "telugu", "th": "thai",
}  # fmt: skip
_XQUAD_R = "ar de el en es hi ru th tr vi zh".split()
_BEIR = tuple(
    "msmarco trec-covid nfcorpus nq hotpotqa fiqa arguana webis-touche2020 cqadupstack quora dbpedia-entity scidocs "
    "fever climate-fever scifact".split()
)
_ANSERINI = "topics.mrtydi-v1.1-{code}.{split}.txt", "qrels.mrtydi-v1.1-{code}.{split}.txt"


def same(codes: str) -> dict[str, str]:
    """Languages that the data set spells as we do."""
    return {code: code for code in codes.split()}


MMARCO_ENTRY = Entry(
    "mmarco", "mMARCO, Google's translation: MS MARCO passages", MMARCO, ("RR@10", "R@1000", "R@100", "R@10"),
    ("dev.small",), "Apache-2.0; MS MARCO's texts: non-commercial research", "https://github.com/unicamp-dl/mMARCO",
    topics.load_parallel, ("none", "english", "all"),
    queries=(
        "google/queries/dev/{name}_queries.{split}.tsv", "google/queries/{name}_queries.{split}.tsv",
        "google/queries/dev/{name}_queries.dev.tsv", "google/queries/{name}_queries.dev.tsv",
        "{name}_queries.{split}.tsv", "{name}_queries.dev.tsv", "en:topics/topics.msmarco-passage.dev-subset.txt",
    ),
    qrels=("qrels.{split}.tsv", "qrels/qrels.msmarco-passage.dev-subset.txt"),
    corpus=("google/collections/{name}_collection.tsv", "collections/{name}_collection.tsv", "{name}_collection.tsv"),
)  # fmt: skip
MRTYDI = Entry(
    "mrtydi", "Mr. TyDi v1.1: Wikipedia, questions of native speakers", TYDI, ("RR@100", "R@100"), ("test", "dev"),
    "Apache-2.0; Wikipedia's texts: CC BY-SA 3.0", "https://github.com/castorini/mr.tydi", topics.load_separate,
    queries=(f"topics/{_ANSERINI[0]}", _ANSERINI[0], "mrtydi-v1.1-{name}/topic.{split}.tsv"),
    qrels=(f"qrels/{_ANSERINI[1]}", _ANSERINI[1], "mrtydi-v1.1-{name}/qrels.{split}.txt"),
    corpus=("mrtydi-v1.1-{name}/corpus.jsonl", "mrtydi-v1.1-{name}/collection/docs.jsonl", "{code}/corpus.jsonl"),
)  # fmt: skip
MIRACL = Entry(
    "miracl", "MIRACL v1.0: Wikipedia, judged by native speakers",
    same("ar bn en es fa fi fr hi id ja ko ru sw te th zh de yo"), ("nDCG@10", "R@100"), ("dev",),
    "Apache-2.0; Wikipedia's texts: CC BY-SA 3.0", "https://github.com/project-miracl/miracl", topics.load_separate,
    queries=(
        "topics/topics.miracl-v1.0-{code}-{split}.tsv", "topics.miracl-v1.0-{code}-{split}.tsv",
        "miracl-v1.0-{code}/topics/topics.miracl-v1.0-{code}-{split}.tsv",
    ),
    qrels=(
        "qrels/qrels.miracl-v1.0-{code}-{split}.tsv", "qrels.miracl-v1.0-{code}-{split}.tsv",
        "miracl-v1.0-{code}/qrels/qrels.miracl-v1.0-{code}-{split}.tsv",
    ),
    corpus=("miracl-corpus-v1.0-{code}/docs-*.jsonl", "{code}/corpus.jsonl"),
)  # fmt: skip
NEUCLIR = Entry(
    "neuclir", "TREC NeuCLIR 2022: news, English topics and their translations",
    {"fa": "fas", "ru": "rus", "zh": "zho"}, ("nDCG@20", "AP", "R@1000", "R@100"), ("2022",),
    "topics and qrels: NIST, for research; news texts: their publishers'", "https://neuclir.github.io",
    topics.load_neuclir, ("english", "none"),
    queries=(
        "topics/topics.neuclir22-{code}.ht-title.txt", "topics.neuclir22-{code}.ht-title.txt",
        "topics/topics.neuclir22-{code}.original-title.txt", "topics.neuclir22-{code}.original-title.txt",
    ),
    qrels=("qrels/qrels.neuclir22-{code}.txt", "qrels.neuclir22-{code}.txt"),
    corpus=("data/{name}-00000-of-00001.jsonl", "{name}/docs.jsonl", "collection/sample_{name}_collection.jsonl"),
)  # fmt: skip
XQUAD = Entry(
    "xquad", "XQuAD as retrieval: questions over paragraphs, translated", same(" ".join([*_XQUAD_R, "ro"])),
    ("RR@10", "R@10", "nDCG@10"), ("test",), "CC BY-SA 4.0", "https://github.com/google-deepmind/xquad",
    squad.load_xquad, ("none", "english", "all"), corpus=("xquad.{code}.json",),
)  # fmt: skip
XQUAD_R = Entry(
    "xquad_r", "LAReQA's XQuAD-R: questions over the sentences that answer them", same(" ".join(_XQUAD_R)),
    ("AP", "RR@10", "R@10"), ("test",), "CC BY-SA 4.0", "https://github.com/google-research-datasets/lareqa",
    squad.load_xquad_r, ("pool", "none", "english", "all"), corpus=("xquad-r/{code}.json", "{code}.json"),
)  # fmt: skip
BEIR = Entry(
    "beir", "BEIR: English data sets of many domains", same("en"), ("nDCG@10", "R@100"), ("test", "dev"),
    "of each data set; BEIR's paper lists them", "https://github.com/beir-cellar/beir", beir.load_beir, subsets=_BEIR,
    queries=("topics/topics.beir-v1.0.0-{code}.{split}.tsv", "topics.beir-v1.0.0-{code}.{split}.tsv"),
    qrels=("qrels/qrels.beir-v1.0.0-{code}.{split}.txt", "qrels.beir-v1.0.0-{code}.{split}.txt"),
)  # fmt: skip
NANOBEIR = Entry(
    "nanobeir", "NanoBEIR: 50 queries of each of BEIR's data sets", same("en"), ("nDCG@10", "R@100"), ("test",),
    "CC BY 4.0; the texts' as in BEIR", "https://huggingface.co/collections/zeta-alpha-ai/nanobeir", beir.load_nanobeir,
    subsets=tuple(name for name in _BEIR if name not in ("trec-covid", "cqadupstack")),
)  # fmt: skip
SMART_HOME = Entry(
    "smart_home", "Home Assistant's titles over descriptions, in over twenty languages",
    {found.code: found.code for found in LANGUAGES}, ("RR@10", "R@100", "nDCG@10"), ("test", "dev", "train"),
    "Apache-2.0", "https://www.home-assistant.io", home.load_smart_home, ("english", "none", "all"),
)  # fmt: skip
LOCAL = Entry(
    "local", "your own corpus, queries and qrels", {found.code: found.code for found in (*LANGUAGES, *OTHERS)},
    ("RR@10", "R@100", "nDCG@10"), ("test",), "yours", "", local.load_local,
)  # fmt: skip
COLLECTIONS = (MMARCO_ENTRY, MRTYDI, MIRACL, NEUCLIR, XQUAD, XQUAD_R, BEIR, NANOBEIR, SMART_HOME, LOCAL)


def find(name: str) -> Entry:
    """The entry of that name. Raises UserError, with the nearest, for an unknown one."""
    known = {entry.name: entry for entry in COLLECTIONS}
    if name not in known:
        raise UserError(f"unknown collection {name!r}{nearest(str(name), known)}: there are {', '.join(known)}")
    return known[name]


def load(name: str, request: Request) -> Loaded:
    """The collections that `request` asks for. Raises UserError for what is unknown, absent or damaged."""
    entry = find(name)
    if request.cross is not None and request.cross not in CROSS:
        raise UserError(f"cross={request.cross!r}{nearest(request.cross, CROSS)}: choose {', '.join(entry.cross)}")
    if request.subsets is not None and not entry.subsets:
        raise UserError(f"subsets={list(request.subsets)}: {name} has none; beir and nanobeir have")
    own = {"queries": request.queries, "qrels": request.qrels}
    if name != "local" and (given := [key for key, value in own.items() if value is not None]):
        raise UserError(
            f"{given[0]}={own[given[0]]}: {name} knows its own files; give folder=FOLDER, or collection=local"
        )
    return entry.load(entry, request)


def listing() -> list[tuple[str, ...]]:
    """A line a collection: name, title, languages or data sets, measures, splits, licence, and how much of it lies in
    the cache."""
    return [
        (
            entry.name,
            entry.title,
            _spoken(entry),
            " ".join(entry.measures),
            " ".join(entry.splits),
            entry.licence,
            at_hand(entry),
        )
        for entry in COLLECTIONS
    ]


def _spoken(entry: Entry) -> str:
    if entry.subsets:
        return f"en: {len(entry.subsets)} data sets"
    if entry.name in ("smart_home", "local"):
        return "over twenty" if entry.name == "smart_home" else "any"
    return f"{len(entry.languages)}: {' '.join(entry.languages)}"


def at_hand(entry: Entry) -> str:
    """`fi sw` where all files of these lie in the cache, checked or not."""
    if entry.name == "local":
        return "given by you"
    if entry.name == "smart_home":
        return "fetched at first use"
    folder, split = cached(entry.name), entry.splits[0]
    needs = {key: files_of(entry.name, [key], split) for key in entry.subsets or entry.languages}
    known = {key: files for key, files in needs.items() if any(file.key == key for file in files)}
    whole = [key for key, files in known.items() if all((folder / file.path).exists() for file in files)]
    return " ".join(whole) or "nothing yet"
