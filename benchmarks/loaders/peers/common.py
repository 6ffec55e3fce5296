"""What the three scripts share. Two of them run in environments without colbertxm: plain json in and out."""

import itertools
import json
import sys
import time

COLUMNS = ("query", "positive", "negative")


def job():
    """The job file named on the command line."""
    with open(sys.argv[1], encoding="utf-8") as file:
        return json.load(file)


def timed(job, batches):
    """Seconds from `batches()`, which opens the data, to the first batch, and triples a second after some more."""
    started = time.perf_counter()
    stream = iter(batches())
    next(stream)
    first = time.perf_counter() - started
    drawn = sum(1 for _ in itertools.islice(stream, job["warm"]))
    started = time.perf_counter()
    counted = sum(1 for _ in itertools.islice(stream, job["batches"]))
    if (drawn, counted) != (job["warm"], job["batches"]):
        sys.exit(f"only {drawn} + {counted} batches: no figure")
    return {"per_s": counted * job["size"] / (time.perf_counter() - started), "first_s": first}


def nth(batches, n):
    """Batch n, from 0."""
    return next(itertools.islice(iter(batches), n, None))


def report(found):
    """The last line of the output is the answer."""
    print(json.dumps(found))
