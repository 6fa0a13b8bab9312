"""Whether the server lives and is ready, what it counts, and what answers."""

from __future__ import annotations

from ... import __version__
from ..replies import Ask, Reply, Route
from ..service import Service


async def live(service: Service, ask: Ask) -> Reply:
    """Whether the web process lives."""
    return Reply.of({"live": True})


async def ready(service: Service, ask: Ask) -> Reply:
    """Whether work sent now would be answered: 200, or 503 while the model is loaded or gone, or the server stops."""
    return Reply.of({"ready": service.ready}, status=200 if service.ready else 503)


async def metrics(service: Service, ask: Ask) -> Reply:
    """What is counted, in Prometheus's text format."""
    return Reply(service.metrics.text(), kind=service.metrics.kind)


async def server(service: Service, ask: Ask) -> Reply:
    """Name and version of the server, and what is known of its model."""
    facts = service.facts
    stages = {name: {"channels": c, "stride": s} for name, (c, s) in facts.stages.items()}
    return Reply.of(
        {
            "name": "hierax",
            "version": __version__,
            "extensions": ["binary_tensor_data"],
            "models": [facts.name],
            "model": {**facts.card, "stages": stages, "preprocess": facts.preprocess.to_dict()},
            "store": None if service.store is None else {"rows": service.store.rows},
        }
    )


ROUTES = [
    Route("GET", "/v2/health/live", live),
    Route("GET", "/v2/health/ready", ready),
    Route("GET", "/metrics", metrics, gives="text/plain"),
    Route("GET", "/v2", server),
]
