"""The same application as a Ray Serve deployment: copies on one or many machines behind Ray's own balancer.

Each replica is a whole server, with a process of its own for its model; Ray starts another where one dies.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from .. import console
from ..bulk.ray_cluster import Cluster, connected, first_line, needs, size_of
from ..errors import HieraxError, MissingExtraError
from .gate import send_reply
from .hosts import bound_to
from .replies import unhealthy
from .settings import Settings

NAME = "hierax"
PROXY_VARIABLE, PROXY = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", f"{__name__}:proxy_middleware"
_WATCH_S, _HEALTH_S, _START_S = 1.0, 5.0, 900.0


class Application:
    """The ASGI application of settings, made where it is first called: what travels to a replica is plain data."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or start and end with the replica."""
        if self._app is None:
            from .app import create_app

            self._app = create_app(Settings.from_dict(self._settings), wait=True)
        await self._app(scope, receive, send)

    @property
    def well(self) -> bool:
        """Whether the model answers, or is on its way back."""
        return self._app is None or self._app.state.service.line.failure is None


class Retryable:
    """Around Ray's proxy: a request whose replica died gets a 503 that says so, where Ray says nothing."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def noted(message: Any) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        with contextlib.suppress(Exception):  # Ray tells its log, and either raises or returns without a word
            await self._app(scope, receive, noted)
        if not started:
            await send_reply(unhealthy("The replica that had this request ended. Try again in a moment.").reply(), send)


def proxy_middleware() -> list[Any]:
    """What Ray's proxies load by name."""
    from starlette.middleware import Middleware

    return [Middleware(Retryable)]


def deployment(settings: Settings, *, replicas: int = 1, cpus: float = 1.0, gpus: float = 0.0) -> Any:
    """What `ray.serve.run` takes.

    Args:
        settings: What to serve.
        replicas: Copies of the model.
        cpus: Processors of each.
        gpus: GPUs of each, or a part of one.

    Raises:
        MissingExtraError: Ray Serve is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("ray", "ray[serve]") from error

    app = Application(settings.to_dict())

    @serve.ingress(app)
    class Replica:
        """A server."""

        async def check_health(self) -> None:
            """Let Ray replace a replica whose model cannot be loaded."""
            if not self.app.well:  # type: ignore[attr-defined]  # Ray's ingress gives it
                raise HieraxError("The model of this replica cannot be loaded.")

    limits = settings.limits
    options = {
        "num_replicas": replicas,
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
        "max_ongoing_requests": limits.requests,
        "max_queued_requests": limits.requests,
        "graceful_shutdown_timeout_s": settings.drain_s,
        "health_check_period_s": _HEALTH_S,
    }
    return serve.deployment(Replica, name=NAME, **options).bind()  # type: ignore[attr-defined]


def serve(settings: Settings, *, host: str, port: int, replicas: int, gpus: float) -> bool:
    """Deploy, watch until asked to stop, and take it down again; says whether it ended in order.

    Raises:
        HieraxError: The cluster has no room, the model cannot be loaded, or the cluster is gone.
        MissingExtraError: Ray Serve is not installed.
    """
    os.environ.setdefault(PROXY_VARIABLE, PROXY)  # a cluster that is there already has proxies of its own
    with connected(0) as cluster:
        size = size_of(cluster.nodes(), replicas, None, gpus or None, on_gpu=settings.device.startswith("cuda"))
        nodes = cluster.nodes()
        cpus = max(1.0, min(size.cpus, sum(node.cpus for node in nodes) // replicas))
        if sum(node.holds(cpus, size.gpus) for node in nodes) < replicas:
            raise HieraxError(needs(nodes, size))
        app = deployment(bound_to(settings, host), replicas=replicas, cpus=cpus, gpus=size.gpus)
        try:
            _run(cluster, app, host, port)
            console.say(f"{replicas} replicas are served at http://{host}:{port}")
            while True:
                time.sleep(_WATCH_S)
                cluster.check()
        except KeyboardInterrupt:
            console.say("stopping: what was accepted is answered; again to stop at once")
            return True
        finally:
            _take_down(cluster)


def _run(cluster: Cluster, app: Any, host: str, port: int) -> None:
    """Start Ray's proxy, and the deployment behind it.

    Raises:
        HieraxError: It did not come up.
    """
    from ray import serve

    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(app, name=NAME, route_prefix="/", blocking=False)
    except Exception as error:
        raise HieraxError(f"Ray Serve must start the model; it did not: {first_line(error)}.") from error


def _take_down(cluster: Cluster) -> None:
    from ray import serve

    serve.shutdown() if cluster.own else serve.delete(NAME)
