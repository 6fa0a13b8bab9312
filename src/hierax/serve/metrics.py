"""What a server counts, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server, in a registry of its own.

    Attributes:
        kind: Media type of `text`.
    """

    def __init__(self) -> None:
        import prometheus_client as prometheus

        self._registry = registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        self._prometheus, self.kind = prometheus, prometheus.CONTENT_TYPE_LATEST
        self._requests = prometheus.Counter(
            "hierax_requests", "Requests by address and status.", ["route", "status"], registry=registry
        )
        self._rejected = prometheus.Counter(
            "hierax_rejected", "Requests without an answer, by error_type.", ["error_type"], registry=registry
        )
        self._restarts = prometheus.Counter(
            "hierax_worker_restarts", "How often the model's process was replaced.", registry=registry
        )
        self._request_s = self._histogram("hierax_request_seconds", "From head to answer.", _SECONDS, ["route"])
        self._wait_s = self._histogram("hierax_queue_seconds", "An input waits for the model.", _SECONDS)
        self._decode_s = self._histogram("hierax_decode_seconds", "Decoding and preprocessing an image.", _SECONDS)
        self._forward_s = self._histogram("hierax_forward_seconds", "The model is at a batch.", _SECONDS)
        self._batch = self._histogram("hierax_batch_size", "Images that the model was given at a time.", _SIZES)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Any:
        return self._prometheus.Histogram(name, text, labels, registry=self._registry, buckets=buckets)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A number that is asked for whenever somebody looks."""
        self._prometheus.Gauge(name, text, registry=self._registry).set_function(value)

    def about(self, card: dict[str, Any]) -> None:
        """Say once which model answers."""
        known = {key: str(card[key]) for key in ("name", "architecture", "license", "dtype")}
        self._prometheus.Info("hierax_model", "The model that answers.", registry=self._registry).info(known)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()
        self._request_s.labels(route).observe(seconds)

    def rejected(self, kind: str) -> None:
        """A request was refused."""
        self._rejected.labels(kind).inc()

    def decoded(self, since: float) -> None:
        """An image was decoded, or refused by its decoder; `since` is of `time.perf_counter`."""
        self._decode_s.observe(time.perf_counter() - since)

    def batch(self, size: int, waited_s: Sequence[float], seconds: float) -> None:
        """The model answered a batch."""
        self._batch.observe(size)
        self._forward_s.observe(seconds)
        for waited in waited_s:
            self._wait_s.observe(max(waited, 0.0))

    def restarted(self) -> None:
        """The model's process was replaced."""
        self._restarts.inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return self._prometheus.generate_latest(self._registry)
