"""Counters for Prometheus, in its text format (version 0.0.4): a few families, which need no library."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = Mapping[str, str]


class Metrics:
    """Requests by route, method and status; seconds by route; gauges that are asked when they are read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[str, list[float]] = {}
        self._gauges: dict[str, tuple[str, Callable[[], Mapping[str, float]]]] = {}

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one. `route` is a pattern, never what a client wrote: that would be a series for each."""
        with self._lock:
            key = (route, method, status)
            self._requests[key] = self._requests.get(key, 0) + 1
            counts = self._seconds.setdefault(route, [0.0] * (len(BUCKETS) + 2))
            counts[bisect_left(BUCKETS, seconds)] += 1
            counts[-1] += seconds

    def gauge(self, name: str, about: str, read: Callable[[], Mapping[str, float]]) -> None:
        """A number for each name that `read` gives, labelled `of`."""
        self._gauges[name] = about, read

    def text(self) -> str:
        """All of it."""
        with self._lock:
            requests, seconds = dict(self._requests), {route: list(counts) for route, counts in self._seconds.items()}
        lines = head("colbertxm_requests_total", "counter", "Answered requests.")
        for (route, method, status), answered in sorted(requests.items()):
            labels = {"route": route, "method": method, "status": str(status)}
            lines.append(sample("colbertxm_requests_total", labels, answered))
        lines += head("colbertxm_request_seconds", "histogram", "From a request's head to its answer.")
        for route, counts in sorted(seconds.items()):
            total = 0.0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=False):
                total += count
                lines.append(sample("colbertxm_request_seconds_bucket", {"route": route, "le": bound}, total))
            lines.append(sample("colbertxm_request_seconds_sum", {"route": route}, counts[-1]))
            lines.append(sample("colbertxm_request_seconds_count", {"route": route}, total))
        for name, (about, read) in self._gauges.items():
            lines += head(name, "gauge", about)
            lines += [sample(name, {"of": of}, value) for of, value in read().items()]
        return "\n".join(lines) + "\n"


def head(name: str, kind: str, about: str) -> list[str]:
    """The two lines before a family's samples."""
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def sample(name: str, labels: Labels, value: float) -> str:
    """One line."""
    inside = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value:.10g}"


def escaped(text: str) -> str:
    """A label's value as the format wants it."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
