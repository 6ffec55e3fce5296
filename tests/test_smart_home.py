"""smart_home: what counts as a pair, the split by component, collections with their judgements."""

from __future__ import annotations

import json
import random
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from colbertxm.data.smart_home import SmartHome, read_pairs, split_of
from colbertxm.errors import UserError


def wheel(path: Path, files: dict[str, object]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            archive.writestr(f"homeassistant/components/{name}.json", text)
    return path


def test_pairs_are_objects_with_title_and_description(tmp_path: Path) -> None:
    english = {
        "config": {"step": {"user": {"title": " Sign  in ", "description": "Give your\nname."}}},
        "services": {
            "on": {"name": "Turn on", "description": "Turns it on.", "fields": {"a": {"name": "A", "description": ""}}}
        },
        "other": {"name": 3, "title": "Title", "description": "By its title."},
        "none": {"description": "No title."},
    }
    chinese = {"services": {"on": {"name": "开", "description": "打开它。"}}}
    files = {
        "en": english,
        "zh-Hans": chinese,
        "en-GB": english,
        "pt-BR": english,
        "gsw": english,
        "nb": {},
        "de": chinese,
    }
    path = wheel(
        tmp_path / "ha.whl", {f"c/translations/{k}": v for k, v in files.items()} | {"c/strings": english, "c/icons": 1}
    )
    pairs = read_pairs(path)
    assert pairs["en"] == {
        "c.config.step.user": ("Sign in", "Give your name."),
        "c.services.on": ("Turn on", "Turns it on."),
        "c.other": ("Title", "By its title."),
    }
    assert pairs["zh"] == {"c.services.on": ("开", "打开它。")}
    assert set(pairs) == {"en", "zh", "de"}


def plain_pairs(node: Any, path: str) -> dict[str, tuple[str, str]]:
    """Every object with its path, then those that are pairs."""
    places, objects = [(path, node)], []
    while places:
        path, node = places.pop()
        if isinstance(node, dict):
            objects.append((path, node))
            places += [(path + "." + key, child) for key, child in node.items()]
    pairs = {}
    for path, found in objects:
        texts = [found[k] for k in ("name", "title", "description") if isinstance(found.get(k), str)]
        if isinstance(found.get("description"), str) and len(texts) > 1:
            pairs[path] = (" ".join(texts[0].split()), " ".join(texts[-1].split()))
    return {path: pair for path, pair in pairs.items() if all(pair)}


@pytest.mark.parametrize("seed", range(15))
def test_pairs_equal_a_plain_walk(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    leaves = ["", " ", "a", "b  c", "d\te\n", 3, None, True, ["a"], [{"name": "x", "description": "y"}]]

    def tree(depth: int) -> Any:
        if depth == 0 or rng.random() < 0.4:
            return rng.choice(leaves)
        keys = rng.sample(["name", "title", "description", "config", "step", "fields"], rng.randrange(1, 6))
        return {key: tree(depth - 1) for key in keys}

    roots = {f"c{i}": {"a": tree(4), "b": tree(4), "name": "N", "description": "D"} for i in range(6)}
    path = wheel(tmp_path / "ha.whl", {f"{c}/translations/en": root for c, root in roots.items()})
    expected = {key: pair for c, root in roots.items() for key, pair in plain_pairs(root, c).items()}
    assert read_pairs(path) == {"en": expected}


def test_the_split_is_pinned() -> None:
    """Published figures stay comparable only while no component moves."""
    expected = {
        "train": "abode zwave_js light nest zha shelly homekit plex roborock wled fritz bond netatmo august",
        "dev": "knx matter cast",
        "test": "hue mqtt sonos unifi ring tado esphome",
    }
    for split, names in expected.items():
        assert {split_of(name) for name in names.split()} == {split}


def test_no_component_is_in_two_parts_and_the_shares_are_right() -> None:
    parts = Counter(split_of(f"component{i}") for i in range(20_000))
    assert parts["test"] / 20_000 == pytest.approx(0.31, abs=0.01)
    assert parts["dev"] / 20_000 == pytest.approx(0.07, abs=0.01)
    assert split_of("light") == split_of("light")


def test_parts_share_no_component_and_no_text(wheels: dict[str, Path]) -> None:
    home = SmartHome(wheels["homeassistant"])
    found = {split: {key.split(".")[0] for key in home.keys(split, "en")} for split in ("train", "dev", "test")}
    assert all(found.values())
    assert not found["train"] & found["test"] and not found["train"] & found["dev"] and not found["dev"] & found["test"]
    test_texts = {text for key in home.keys("test", "en") for text in home.pairs["en"][key]}
    assert not test_texts & {text.text for pair in home.training_pairs() for text in pair}


def test_only_clean_pairs_are_used(tmp_path: Path) -> None:
    long = "one two three four five"
    entries = {
        "a": {"name": "Host", "description": long + " a"},
        "b": {"name": "Host", "description": long + " b"},
        "c": {"name": "Port", "description": long},
        "d": {"name": "Gate", "description": long},
        "e": {"name": "Mode", "description": "too short"},
        "f": {"name": "Name", "description": long + " f"},
    }
    home = SmartHome(wheel(tmp_path / "ha.whl", {"c/translations/en": entries}))
    assert home.clean == {"c.f"}


def component_in(split: str) -> str:
    return next(f"c{i}" for i in range(999) if split_of(f"c{i}") == split)


def test_training_pairs_can_include_the_others(tmp_path: Path) -> None:
    here, elsewhere = component_in("train"), component_in("test")
    entries = {
        "a": {"name": "Host", "description": "one two three"},
        "b": {"name": "Host", "description": "one two three"},  # the same pair
        "c": {"name": "Host", "description": "four five six"},
        "d": {"name": "Port", "description": "two words"},
        "e": {"name": "Mode", "description": "one two three four five"},
    }
    german = {key: {"name": entry["name"], "description": f"{key}!"} for key, entry in entries.items()}
    other = {"f": {"name": "Other", "description": "six seven eight nine ten"}}
    files = {
        f"{here}/translations/en": entries,
        f"{here}/translations/de": german,
        f"{elsewhere}/translations/en": other,
    }
    home = SmartHome(wheel(tmp_path / "ha.whl", files))
    assert [(q.id, p.id) for q, p in home.training_pairs()] == [(f"en:q:{here}.e", f"en:p:{here}.e")]
    found = home.training_pairs(clean=False)
    texts = [("Host", "one two three"), ("Host", "four five six"), ("Mode", "one two three four five")]
    assert [(q.text, p.text) for q, p in found] == texts
    assert [q.id for q, _ in found] == [f"en:q:{here}.{k}" for k in "ace"]  # of equal pairs the first
    assert {text.lang for pair in found for text in pair} == {"en"}
    translated = home.training_pairs(lang="de", clean=False)
    assert [p.text for _, p in translated] == ["a!", "b!", "c!", "e!"] and translated[0][0].lang == "de"
    assert [q.text for q, _ in home.training_pairs("test")] == ["Other"]


def test_collections_are_parallel_and_samples_overlap(wheels: dict[str, Path]) -> None:
    home = SmartHome(wheels["homeassistant"])
    mono, cross = home.collection("test", "de", "de", 12), home.collection("test", "en", "de", 12)
    pairs = {home.pair_of(q.id) for q in mono.queries}
    assert pairs == {home.pair_of(q.id) for q in cross.queries} and len(mono.judgements) == 12
    assert {t.lang for t in cross.queries} == {"en"} and {t.lang for t in cross.passages} == {"de"}
    for judgement in cross.judgements:
        assert home.pair_of(judgement.query_id) == home.pair_of(judgement.passage_id)
    assert home.collection("test", "en", "de", 12) == cross
    assert {home.pair_of(q.id) for q in home.collection("test", "de", "de", 12, seed=1).queries} != pairs


def test_equal_titles_are_one_query_with_several_answers(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(200) if split_of(f"c{i}") == "test"][:2]
    english = {n: {"name": f"Title {n}", "description": f"one two three four {n}"} for n in names}
    german = {n: {"name": "Titel", "description": f"eins {n}"} for n in names}
    files = {
        f"{n}/translations/{lang}": {"x": texts[n]} for n in names for lang, texts in (("en", english), ("de", german))
    }
    collection = SmartHome(wheel(tmp_path / "ha.whl", files)).collection("test", "de", "de")
    assert len(collection.queries) == 1 and len(collection.passages) == 2 and len(collection.judgements) == 2


def test_equal_descriptions_are_one_passage_that_all_judgements_point_to(tmp_path: Path) -> None:
    name = component_in("test")
    english = {k: {"name": f"Title {k}", "description": f"one two three four {k}"} for k in "abcd"}
    german = {k: {"name": f"Titel {k}", "description": "eins" if k in "ac" else f"zwei {k}"} for k in "abcd"}
    german["d"]["name"] = "Titel a"
    path = wheel(tmp_path / "ha.whl", {f"{name}/translations/en": english, f"{name}/translations/de": german})
    found = SmartHome(path).collection("test", "de", "de")
    query, passage = {q.id: q.text for q in found.queries}, {p.id: p.text for p in found.passages}
    assert sorted(passage.values()) == ["eins", "zwei b", "zwei d"]
    assert sorted(query.values()) == ["Titel a", "Titel b", "Titel c"]
    judged = sorted((query[j.query_id], passage[j.passage_id], j.relevance) for j in found.judgements)
    assert judged[:2] == [("Titel a", "eins", 1), ("Titel a", "zwei d", 1)]
    assert judged[2:] == [("Titel b", "zwei b", 1), ("Titel c", "eins", 1)]
    across = SmartHome(path).collection("test", "en", "de")
    assert (len(across.queries), len(across.passages), len(across.judgements)) == (4, 3, 4)


def test_a_larger_sample_holds_the_smaller(wheels: dict[str, Path]) -> None:
    home = SmartHome(wheels["homeassistant"])
    asked = {n: {q.id for q in home.collection("test", "en", "en", n).queries} for n in (5, 10, 10**6)}
    assert len(asked[5]) == 5 and asked[5] < asked[10] < asked[10**6]
    assert asked[10**6] == {q.id for q in home.collection("test", "en", "en").queries}


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_is_an_error_or_harmless(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    content = {"a": {"name": "Turn on the light", "description": "Turns on the light in this room."}}
    path = wheel(tmp_path / "ha.whl", {f"c{i}/translations/en": content for i in range(3)})
    damaged = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 8)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    path.write_bytes(damaged[: rng.randrange(len(damaged))] if seed % 4 == 0 else damaged)
    try:
        assert "en" in read_pairs(path)
    except UserError as error:
        assert "ha.whl" in str(error) and "\n" not in str(error)


def test_languages_with_enough_pairs_english_first(wheels: dict[str, Path]) -> None:
    home = SmartHome(wheels["homeassistant"])
    found = home.languages("test", 1)
    assert found[0] == "en" and set(found) == {"en", "de", "ja", "zh-hant", "sr-latn"}
    most, german = len(home.keys("test", "en")), len(home.keys("test", "de"))
    assert german < most and found == ("en", "ja", "sr-latn", "zh-hant", "de")
    assert home.languages("test", german + 1) == found[:-1]
    assert home.languages("test", most + 1) == ("en",)


@pytest.mark.parametrize("damage", ["no zip", "bad json", "no english", "cut"])
def test_damaged_wheels_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = wheel(tmp_path / "ha.whl", {"c/translations/en": "{" if damage == "bad json" else {"a": 1}})
    if damage == "no zip":
        path.write_bytes(b"nothing")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:60])
    elif damage == "no english":
        wheel(path, {"c/translations/de": {}})
    with pytest.raises(UserError, match=r"ha\.whl"):
        SmartHome(path)


def test_mistakes_are_named(wheels: dict[str, Path]) -> None:
    home = SmartHome(wheels["homeassistant"])
    with pytest.raises(UserError, match="unknown split 'tset' \\(did you mean 'test'"):
        home.collection("tset", "en", "en")
    with pytest.raises(UserError, match="no texts in 'fr'"):
        home.collection("test", "fr", "fr")
    with pytest.raises(UserError, match="sample=0"):
        home.collection("test", "en", "en", 0)
