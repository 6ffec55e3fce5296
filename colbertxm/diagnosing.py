"""What `colbertxm diagnose` does, one function for each of its kinds: from a configuration to files and a few lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text as Styled

from colbertxm.errors import UserError
from colbertxm.evaluation.results import write_text
from colbertxm.records import Text
from colbertxm.stages import index_folder, open_model, resolve_model, say, smart_home

WIDTH = 140


def run_comparison(cfg: DictConfig) -> None:
    """Two runs: counts and tests in the terminal, every query in queries.csv, texts in comparison.html."""
    from colbertxm.evaluation.diagnosis_runs import compare, lines_csv, read_tasks, summaries
    from colbertxm.evaluation.diagnosis_runs_page import comparison_page, summary_line

    if len(cfg.runs) != 2:
        raise UserError(f"runs={list(cfg.runs)}: give two, the one to compare with and the one to look at")
    runs = [Path(run) for run in cfg.runs]
    names = run_names(runs, cfg.names)
    tasks = read_tasks(runs, Path(cfg.qrels))
    lines = [line for task in tasks for line in compare(task, cfg.measure, cfg.top)]
    found = summaries(lines)
    shown = {line.query_id for line in lines} | {hit.passage_id for line in lines for hits in line.top for hit in hits}
    shown |= {passage for line in lines for passage in line.relevant}
    texts = read_texts([cfg.queries, cfg.corpus], cfg.lang, cfg.passage_lang, shown)
    head = ("task", "queries", *names, "wins", "losses", "ties", "difference", "p", "p (Holm)")
    show(f"{cfg.measure}, wins and losses of {names[1]}", head, [summary_line(one) for one in found])
    output = Path(cfg.output)
    write_text(output / "queries.csv", lines_csv(lines, names, cfg.measure, texts))
    write_text(output / "comparison.html", comparison_page(lines, found, names, cfg.measure, texts, cfg.show))
    print(f"page: {output / 'comparison.html'}  every query: {output / 'queries.csv'}")


def run_distributions(cfg: DictConfig) -> None:
    """Spreads of scores (run and qrels) and of lengths (checkpoint and texts): json, csv and a picture each."""
    from colbertxm.evaluation import plots_distributions as pictures
    from colbertxm.evaluation.diagnosis_distributions import dicts_csv, score_lines
    from colbertxm.evaluation.diagnosis_runs import read_tasks

    scores: list[dict[str, Any]] = []
    if cfg.run is not None or cfg.qrels is not None:
        if cfg.run is None or cfg.qrels is None:
            raise UserError("spreads of scores need both run=... and qrels=...")
        scores = [line for task in read_tasks([Path(cfg.run)], Path(cfg.qrels)) for line in score_lines(task)]
    lengths = token_lengths(cfg) if cfg.queries is not None or cfg.corpus is not None else []
    if not scores and not lengths:
        raise UserError("nothing to look at: give run=... qrels=... for scores, queries=... or corpus=... for lengths")
    output = Path(cfg.output)
    for name, lines, plot in (
        ("scores", scores, pictures.plot_scores),
        ("lengths", lengths, pictures.plot_lengths),
    ):
        if lines:
            write_text(output / f"{name}.csv", dicts_csv(lines))
            write_text(output / f"{name}.json", json.dumps(lines, indent=2, ensure_ascii=False) + "\n")
            plot(lines, output / f"{name}.png")
            columns = [c for c in dict.fromkeys(c for line in lines for c in line) if c not in ("sd", "p25", "p75")]
            show(name, columns, [[_cell(line.get(column)) for column in columns] for line in lines])
            print(f"{name}: {output / name}.csv, .json, .png")


def token_lengths(cfg: DictConfig) -> list[dict[str, Any]]:
    """Lines of `length_lines` for the queries and passages that `cfg` names, as the checkpoint's tokenizer reads them
    when nothing is cut off."""
    from colbertxm.evaluation.diagnosis_distributions import length_lines
    from colbertxm.model.tokens import Kind, Tokens

    own = open_model(resolve_model(cfg.checkpoint, [cfg.lang] if cfg.lang else None)).tokens
    endless = replace(own.settings, query_maxlen=2**30, passage_maxlen=2**30, expand_queries_to=0)
    tokens = Tokens(own.tokenizer, endless)
    lines = []
    kinds: list[tuple[Kind, str | None, str | None, int]] = [
        ("query", cfg.queries, cfg.lang, own.settings.query_maxlen),
        ("passage", cfg.corpus, cfg.passage_lang or cfg.lang, own.settings.passage_maxlen),
    ]
    for kind, source, lang, limit in kinds:
        if source is None:
            continue
        by_lang: dict[str, list[int]] = {}
        texts = [text for text in _texts(source, lang) if source != "smart_home" or f":{kind[0]}:" in text.id]
        for text, read in zip(texts, tokens(texts, kind), strict=True):
            by_lang.setdefault(text.lang, []).append(len(read.ids))
        lines += length_lines(kind, by_lang, limit)
    return lines


def run_recall(cfg: DictConfig) -> None:
    """Recall of a compressed index by budget, printed and as recall.json."""
    from colbertxm import engine_recall
    from colbertxm.engine.index import CompressedIndex
    from colbertxm.engine.opening import open_index
    from colbertxm.evaluation.results import provenance, write_json
    from colbertxm.progress import progress
    from colbertxm.retriever import Retriever

    model = resolve_model(cfg.checkpoint)
    folder = index_folder(cfg.checkpoint, model, cfg.index)
    index = open_index(folder)
    if not isinstance(index, CompressedIndex):
        raise UserError(
            f"{folder} is not compressed: its search is exhaustive and misses nothing (bits=... compresses)"
        )
    texts = _texts(cfg.queries, cfg.lang)
    if cfg.queries == "smart_home":
        texts = [text for text in texts if ":q:" in text.id]
    texts = texts[:: max(1, -(-len(texts) // cfg.sample))] if cfg.sample else texts
    retriever = Retriever(open_model(model, cfg.lang_proxy))
    retriever.open(folder)
    vectors = retriever.encode(texts, "query")
    queries = [vectors[i] for i in range(len(texts))]
    chunks = None
    if cfg.float32:
        say(f"encoding {len(index.ids)} passages")
        chunks = engine_recall.encoded(index, retriever, progress(len(index.ids), "passages"))
    lines = engine_recall.measure_recall(index, queries, list(cfg.depths), list(cfg.budgets), chunks, cfg.threads)
    about = {**engine_recall.settings(index), "queries": len(queries), "threads": cfg.threads, "cpus": os.cpu_count()}
    show("recall of the engine, median time of a query searched alone", list(lines[0]),
         [[_cell(value) for value in line.values()] for line in lines])  # fmt: skip
    print("\n".join(f"  {name}: {_cell(value)}" for name, value in about.items()))
    output = Path(cfg.output) if cfg.output else folder.parent / "recall.json"
    write_json(output, {"settings": about, "lines": lines, "provenance": provenance(None, None, {})})
    print(f"figures: {output}")


def run_match(cfg: DictConfig) -> None:
    """Which token of the query met which token of the passage: lines in the terminal and a page."""
    from colbertxm.evaluation.matches_page import match_lines, matches_page, skipped_tokens
    from colbertxm.languages import language, proxies, to_load
    from colbertxm.matches import match

    langs = [language(cfg.lang).code, language(cfg.passage_lang or cfg.lang).code]
    model = resolve_model(cfg.checkpoint, to_load(langs, proxies(cfg.lang_proxy)))
    encoder = open_model(model, cfg.lang_proxy)
    found = match(encoder, Text("query", cfg.query, langs[0]), Text("passage", cfg.passage, langs[1]))
    show(f"score {found.score:.4f}", ("query token", "passage token", "cosine"), match_lines(found))
    for name, side in (("query", found.query), ("passage", found.passage)):
        if silent := skipped_tokens(side):
            print(f"  {name} tokens without a vector: {silent}")
    write_text(Path(cfg.output), matches_page(found))
    print(f"page: {cfg.output}")


def run_names(runs: Sequence[Path], given: Iterable[str] | None) -> tuple[str, str]:
    """What to call two runs: as `given`, or the last parts of their paths in which they differ."""
    if given is not None:
        names = list(given)
        if len(names) != 2 or names[0] == names[1]:
            raise UserError(f"names={names}: give the two runs a name each")
        return names[0], names[1]
    for a, b in zip(reversed(runs[0].absolute().parts), reversed(runs[1].absolute().parts), strict=False):
        if a != b:
            return a.split(".trec")[0], b.split(".trec")[0]
    raise UserError(f"{runs[0]} and {runs[1]} are one run: give two")


def read_texts(
    sources: Sequence[str | None], lang: str | None, passage_lang: str | None, wanted: set[str]
) -> dict[str, Text]:
    """The texts of all `sources` whose ids are `wanted`, by id; the first source is read as `lang`, others as
    `passage_lang`, where they name no languages themselves."""
    found: dict[str, Text] = {}
    for place, source in enumerate(sources):
        if source is not None:
            chosen = lang if place == 0 else passage_lang or lang
            found.update((text.id, text) for text in _texts(source, chosen) if text.id in wanted)
    return found


def _texts(source: str, lang: str | None) -> list[Text]:
    """Queries and passages of `smart_home`, passages of an index folder, or the texts of a file."""
    from colbertxm.data.corpus import read_corpus
    from colbertxm.engine.opening import open_index

    if source == "smart_home":
        home = smart_home()
        langs = home.check_languages("test", [lang]) if lang else list(home.languages("test"))
        collections = [home.collection("test", code, code) for code in langs]
        return [text for collection in collections for text in (*collection.queries, *collection.passages)]
    path = Path(source)
    if path.is_dir():
        index = open_index(path)
        return [Text(*fields) for fields in zip(index.ids, index.texts, index.langs, strict=True)]
    return read_corpus(path, [lang] if lang else [])


def show(title: str, head: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """A table in the terminal; texts on the left, numbers on the right."""
    lines = list(lines)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for place, name in enumerate(head):
        numbers = all(line[place][:1] in "+-.0123456789" for line in lines)
        table.add_column(Styled(name), justify="right" if numbers else "left")
    for line in lines:
        table.add_row(*(Styled(cell) for cell in line))  # Styled, because rich takes brackets for markup
    Console(width=None if Console().is_terminal else WIDTH).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


RUNS = {"runs": run_comparison, "distributions": run_distributions, "recall": run_recall, "match": run_match}
