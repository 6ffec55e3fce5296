"""smart_home behind the registry: see `colbertxm.data.smart_home`."""

from __future__ import annotations

from dataclasses import replace

from colbertxm.data.smart_home import open_smart_home
from colbertxm.evaluation.collections.entry import Entry, Loaded, Request, after_prefix, language_pairs
from colbertxm.sources import HOMEASSISTANT, fetch


def load_smart_home(entry: Entry, request: Request) -> Loaded:
    """`sample` counts pairs here, of queries and passages alike."""
    split, cross = entry.split(request), entry.crossing(request)
    home = open_smart_home(fetch(HOMEASSISTANT))
    langs = home.check_languages(split, list(request.langs or home.languages(split)))
    found = [home.collection(split, a, b, request.sample, request.seed) for a, b in language_pairs(langs, cross)]
    return Loaded([replace(collection, measures=entry.measures) for collection in found], after_prefix)
