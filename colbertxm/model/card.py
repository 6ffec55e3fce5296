"""The model card: README.md made from what a model folder says of itself, so that no figure in it is typed by hand.

The front matter is what the hub reads (github.com/huggingface/hub-docs, modelcard.md); the rest is for people. What a
folder does not record is said to be not recorded; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from colbertxm.languages import LANGUAGES, OTHERS
from colbertxm.model.adapters import name_of
from colbertxm.model.hub import CONFIG, REVISIONS, SETTINGS, looks_like_hub_name
from colbertxm.model.json_files import read_object
from colbertxm.sources import cache_folder

MARK = "<!-- Made by `colbertxm push` from colbertxm.json; remove this line to keep a card that you have edited. -->"
UNKNOWN = "not recorded"
BASES = {"small": "intfloat/multilingual-e5-small"}  # names of ours -> the hub's
LICENCES = {
    "intfloat/multilingual-e5-small": "mit",
    "facebook/xmod-base": "mit",
    "antoinelouis/colbert-xm": "mit",
}
"""What the bases are published under; a card without `license` takes over its base's."""
METRICS = {"RR": "mrr", "nDCG": "ndcg", "R": "recall", "P": "precision", "AP": "map"}
_OF_ADAPTERS = {name_of(found.code): found for found in reversed((*LANGUAGES, *OTHERS))}


@dataclass(frozen=True)
class Facts:
    """What a model folder says of itself."""

    folder: Path
    adapters: tuple[str, ...]
    settings: dict[str, Any]
    """colbertxm.json, or nothing where another library wrote the folder."""
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the training run."""
        return dict(self.provenance.get("config") or {})

    @property
    def base(self) -> str | None:
        """What was trained on, as the configuration names it."""
        model = self.config.get("model")
        return str(model["base"]) if isinstance(model, Mapping) and model.get("base") else None

    @property
    def base_model(self) -> str | None:
        """The base's name on the hub, where it has one. `owner/name` may be a folder on the author's machine, too: it
        counts as a hub's name where it is a known one, carries a revision, or has been fetched here."""
        base = BASES.get(self.base or "", self.base or "")
        name = base.split("@")[0]
        fetched = (cache_folder() / "hub" / name.replace("/", "--")).is_dir()
        known = base in BASES.values() or name in REVISIONS or "@" in base or fetched
        return name if looks_like_hub_name(base) and known else None


def read_facts(folder: Path) -> Facts:
    """Read a model folder's own account. Raises UserError where it is none or is damaged."""
    config = read_object(folder / CONFIG)
    settings = read_object(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    return Facts(folder, tuple(config.get("languages") or ()), settings, dict(settings.get("provenance") or {}))


def model_card(
    facts: Facts,
    repo: str,
    rows: Sequence[Mapping[str, Any]] = (),
    license: str | None = None,
    datasets: Sequence[str] = (),
) -> str:
    """README.md for the repository `repo`. `rows` are this model's result rows (evaluation/results.py), `datasets`
    names on the hub. Without `license` it is the base's, where that is known."""
    license = license or LICENCES.get(facts.base_model or "")
    body = [
        f"# {repo}",
        MARK,
        _what(facts),
        "## Languages\n\n" + _languages(facts),
        "## Base\n\n" + _base(facts),
        "## Data\n\n" + _data(facts, datasets),
        "## Training\n\n" + _training(facts),
        "## Evaluation\n\n" + _evaluation(rows),
        "## Energy\n\n" + _energy(facts),
        "## Use\n\n" + _use(facts, repo),
        "## Limits\n\n" + _limits(facts, rows),
    ]
    return f"---\n{front_matter(facts, repo, rows, license, datasets)}\n---\n\n" + "\n\n".join(body) + "\n"


def front_matter(
    facts: Facts, repo: str, rows: Sequence[Mapping[str, Any]], license: str | None, datasets: Sequence[str]
) -> str:
    """The YAML block, without its dashes, as huggingface_hub writes it."""
    from huggingface_hub import ModelCardData

    codes = dict.fromkeys(_OF_ADAPTERS[a].code.split("-")[0] for a in facts.adapters if a in _OF_ADAPTERS)
    kind = {"multi": ["late-interaction", "multi-vector", "ColBERT"], "single": ["single-vector"]}
    more: dict[str, Any] = {"base_model_relation": "finetune"} if facts.base_model else {}
    data = ModelCardData(
        language=list(codes) or None,
        license=license,
        base_model=facts.base_model,
        library_name="colbertxm",
        pipeline_tag="sentence-similarity",
        tags=[
            "colbertxm",
            "xmod",
            "passage-retrieval",
            "multilingual",
            *kind.get(facts.settings.get("pooling", ""), []),
        ],
        datasets=list(datasets) or None,
        model_name=repo if rows else None,
        eval_results=[result for row in rows for result in _results(row)] or None,
        **more,
    )
    return str(data.to_yaml()).strip()


def _results(row: Mapping[str, Any]) -> list[Any]:
    """The hub's form of one row: one result a measure."""
    from huggingface_hub import EvalResult

    pair = f"{row['query_lang']}-{row['passage_lang']}"
    collection = str(row.get("collection", UNKNOWN))
    return [
        EvalResult(
            task_type="information-retrieval",
            dataset_type=collection,
            dataset_name=f"{collection} {pair}",
            dataset_config=pair,
            metric_type=_metric(name),
            metric_name=name,
            metric_value=value,
        )
        for name, value in ((name, row[name]) for name in _measures(row))
    ]


def _measures(row: Mapping[str, Any]) -> list[str]:
    """A row's measures, in the order of METRICS: the files sort their keys."""
    order = list(METRICS)
    found = [name for name in row if "@" in name]
    known = {name: order.index(m) if (m := name.partition("@")[0]) in order else len(order) for name in found}
    return sorted(
        found, key=lambda name: (known[name], int(depth) if (depth := name.partition("@")[2]).isdigit() else 0)
    )


def _metric(name: str) -> str:
    """RR@10 as mrr_at_10, the spelling that cards on the hub use."""
    measure, _, depth = name.partition("@")
    return f"{METRICS.get(measure, measure.lower())}_at_{depth}"


def _what(facts: Facts) -> str:
    pooling, dim = facts.settings.get("pooling"), facts.settings.get("dim")
    kinds = {
        "multi": "late-interaction retriever: one vector per token, compared by MaxSim",
        "single": "single-vector retriever: one mean-pooled vector per text, compared by cosine",
    }
    width = {None: UNKNOWN, 0: "the encoder's own"}.get(dim, str(dim))
    return (
        f"A multilingual {kinds.get(str(pooling), f'retriever (kind of vectors: {UNKNOWN})')}. The encoder is an "
        "X-MOD: shared weights and a small adapter per language; each text goes through its own language's adapter. "
        f"Dimensions of a vector: {width}."
    )


def _languages(facts: Facts) -> str:
    if not facts.adapters:
        return f"Adapters: {UNKNOWN}."
    lines = ["| language | code | adapter |", "|---|---|---|"]
    for adapter in facts.adapters:
        found = _OF_ADAPTERS.get(adapter)
        lines.append(f"| {found.name if found else UNKNOWN} | {found.code if found else ''} | `{adapter}` |")
    return "\n".join(lines)


def _base(facts: Facts) -> str:
    if facts.base is None:
        return f"The base is {UNKNOWN}."
    if facts.base == "small":
        return (
            f"[{facts.base_model}](https://huggingface.co/{facts.base_model}) in 4 bits, dressed as an X-MOD whose "
            "adapters start as identity (`model=small`)."
        )
    if facts.base_model:
        return f"[{facts.base}](https://huggingface.co/{facts.base_model})."
    return f"A model folder of the author's, `{Path(facts.base).name}`."


def _data(facts: Facts, datasets: Sequence[str]) -> str:
    data = facts.config.get("data")
    target = data.get("_target_") if isinstance(data, Mapping) else None
    lines = [f"Read by: {f'`{target}`' if target else UNKNOWN}."]
    if datasets:
        lines.append("On the hub: " + ", ".join(datasets) + ".")
    checksums = facts.provenance.get("checksums") or {}
    if not checksums:
        return " ".join(lines) + f" Checksums: {UNKNOWN}."
    table = ["| file | sha256 |", "|---|---|", *(f"| {name} | `{digest}` |" for name, digest in checksums.items())]
    return " ".join(lines) + "\n\n" + "\n".join(table)


def _training(facts: Facts) -> str:
    made = facts.provenance
    names = ("seed", "version", "revision", "python", "torch", "transformers", "lightning", "platform", "cpus")
    lines = [f"- {name}: {UNKNOWN if made.get(name) is None else made[name]}" for name in names]
    if not facts.config:
        return "\n".join(lines) + f"\n\nConfiguration: {UNKNOWN}."
    shown = yaml.safe_dump(facts.config, sort_keys=False, allow_unicode=True).strip()
    return "\n".join(lines) + f"\n\n```yaml\n{shown}\n```"


def _evaluation(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "No results were given with this model."
    measures = _measures(rows[0])
    head = ["collection", "queries in", "passages in", *measures, "95% interval of RR@10", "queries"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|" + "---:|" * (len(measures) + 2)]
    for row in rows:
        figures = [f"{row[name]:.3f}" if name in row else UNKNOWN for name in measures]
        interval = f"[{row['low']:.3f}, {row['high']:.3f}]" if "low" in row and "high" in row else UNKNOWN
        where = [str(row.get("collection", UNKNOWN)), row["query_lang"], row["passage_lang"]]
        lines.append("| " + " | ".join([*where, *figures, interval, str(row["queries"])]) + " |")
    return "Measured by `colbertxm evaluate`; every measure is a mean over the queries.\n\n" + "\n".join(lines)


def _energy(facts: Facts) -> str:
    energy = facts.provenance.get("energy")
    if not isinstance(energy, Mapping) or not energy:
        return "Not measured."
    if energy.get("method") == "none":
        energy = {name: value for name, value in energy.items() if name.startswith(("seconds", "tdp", "paper"))}
        return "Not measured.\n\n" + "\n".join(f"- {name}: {value}" for name, value in energy.items())
    return "\n".join(f"- {name}: {value}" for name, value in energy.items())


def _use(facts: Facts, repo: str) -> str:
    codes = [_OF_ADAPTERS[a].code for a in facts.adapters if a in _OF_ADAPTERS]
    lang = "en" if "en" in codes or not codes else codes[0]
    return f"""```python
from colbertxm.model.checkpoints import load_model
from colbertxm.model.hub import pull
from colbertxm.records import Text
from colbertxm.retriever import Retriever

retriever = Retriever(load_model(pull("{repo}", languages=["{lang}"])))  # only these adapters are fetched
retriever.add([Text("1", "...", "{lang}"), Text("2", "...", "{lang}")])
hits = retriever.search([Text("q", "...", "{lang}")], k=2)[0]
```

```bash
model=$(python -c 'from colbertxm.model.hub import pull; print(pull("{repo}"))')
colbertxm index checkpoint="$model" corpus=passages.jsonl output=index
colbertxm search "..." lang={lang} checkpoint="$model" index=index
```"""


def _limits(facts: Facts, rows: Sequence[Mapping[str, Any]]) -> str:
    tokens = facts.settings.get("tokens") or {}
    query, passage = (tokens.get(name, UNKNOWN) for name in ("query_maxlen", "passage_maxlen"))
    lines = [
        f"Reads the {len(facts.adapters)} languages above and no other; the language of every text must be given.",
        f"Longer texts are cut: queries after {query} tokens, passages after {passage}.",
    ]
    if not rows:
        lines.append("Its quality is not reported here: measure it on your own collection first.")
    elif len(measured := {row["passage_lang"] for row in rows}) < len(facts.adapters):
        lines.append(f"Measured for passages in {', '.join(sorted(measured))} alone.")
    if facts.base == "small":
        lines.append("Its base has no language adapters of its own and never learnt its `<mask>` token.")
    return "\n".join(f"- {line}" for line in lines)
