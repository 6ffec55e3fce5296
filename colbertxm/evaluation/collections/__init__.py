"""Collections behind one registry: `load("miracl", Request(langs=["fi"]))`; see `registry`."""

from colbertxm.evaluation.collections.entry import Entry, Loaded, Request, counted
from colbertxm.evaluation.collections.registry import COLLECTIONS, find, listing, load

__all__ = ["COLLECTIONS", "Entry", "Loaded", "Request", "counted", "find", "listing", "load"]
