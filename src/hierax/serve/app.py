"""The ASGI application: addresses of all dialects around one service. It uses nothing of a particular server."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from ..errors import HieraxError, MissingExtraError
from . import reference
from .gate import Gate
from .replies import Ask, Refusal, Reply, Route, unhealthy
from .service import Service
from .settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger("hierax")


def application() -> FastAPI:
    """The application of the settings in `HIERAX_SERVE`, for a server that takes one by name.

    Raises:
        InputError: As `Settings.of_environment`.
        HieraxError: As `create_app`.
        MissingExtraError: FastAPI is not installed.
    """
    return create_app(Settings.of_environment())


def create_app(settings: Settings | None = None, *, wait: bool = False) -> FastAPI:
    """An ASGI application; its model is loaded when the server starts it.

    Args:
        settings: What to serve; the small embedded model without any.
        wait: Have the server wait for the model before it answers anything, instead of saying that it is not ready.

    Raises:
        HieraxError: This is Windows, where a process cannot be handed the socket that the model's is.
        MissingExtraError: FastAPI is not installed.
    """
    if sys.platform == "win32":
        raise HieraxError("A server needs Linux or macOS; this is Windows. Run it in WSL or in a container.")
    try:
        from fastapi import FastAPI
        from starlette.exceptions import HTTPException

        service = Service(settings or Settings())
    except ImportError as error:
        raise MissingExtraError("serve", "fastapi") from error
    from .. import __version__
    from .dialects import DIALECTS, search

    search.usable(service)

    @contextlib.asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            if wait:
                await service.line.until_ready()
            yield
        finally:
            service.stop()

    app = FastAPI(title="hierax", version=__version__, docs_url=None, redoc_url=None, lifespan=running)
    for route in (*(route for each in DIALECTS for route in each.ROUTES), *_page_routes()):
        _add(app, service, route)
    documents = reference.page(app.openapi()).encode()

    async def docs(service: Service, ask: Ask) -> Reply:
        """This page."""
        return Reply(documents, "text/html; charset=utf-8", headers=reference.HEADERS)

    _add(app, service, Route("GET", "/docs", docs, gives="text/html", documented=False))
    app.add_exception_handler(HTTPException, _no_such_address)
    app.add_middleware(Gate, service=service)
    app.state.service = service
    return app


def _add(app: FastAPI, service: Service, route: Route) -> None:
    """Let a dialect answer at an address."""
    from fastapi import Request

    async def endpoint(request: Any) -> Any:
        return _response(await _answered(service, route, request))

    endpoint.__annotations__ = {"request": Request}
    extra: dict[str, Any] = {}
    if route.takes:
        extra["requestBody"] = {"required": True, "content": {k: {"schema": v} for k, v in route.takes.items()}}
    if route.query:
        extra["parameters"] = [
            {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
            for name, text in route.query.items()
        ]
    text = (route.answer.__doc__ or "").strip()
    app.add_api_route(
        route.path,
        endpoint,
        methods=[route.method],
        name=route.answer.__name__,
        summary=text.split("\n")[0],
        description=text,
        response_model=None,
        responses={200: {"content": {route.gives: {}}}},
        openapi_extra=extra,
        include_in_schema=route.documented,
    )


async def _answered(service: Service, route: Route, request: Any) -> Reply:
    """What a dialect says, or why it says nothing; a fault of ours is told to the log, not to the client."""
    try:
        return await route.answer(service, await _ask(request))
    except Refusal as refusal:
        service.metrics.rejected(refusal.kind)
        return refusal.reply()
    except Exception as error:
        if service.closed:
            return unhealthy("The server is stopping. Ask another, or try again later.").reply()
        log.error("%s %s failed: %s: %s", route.method, route.path, type(error).__name__, error)
        log.debug("where it failed", exc_info=error)
        service.metrics.rejected("Backend")
        return Refusal(500, "Backend", "The server failed at this request; its log says more.").reply()


async def _ask(request: Any) -> Ask:
    """A request as dialects take it."""
    headers = {key.lower(): value for key, value in request.headers.items()}
    query, path = list(request.query_params.multi_items()), dict(request.path_params)
    if headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return Ask(headers=headers, query=query, path=path, files=await _files(request))
    return Ask(await request.body(), headers, query, path)


async def _files(request: Any) -> list[bytes]:
    """The files of a form.

    Raises:
        Refusal: It is no form, or has no file.
    """
    from starlette.exceptions import HTTPException

    try:
        async with request.form(max_files=1000, max_fields=100) as form:
            found = [await each.read() for _, each in form.multi_items() if not isinstance(each, str)]
    except HTTPException as error:
        raise Refusal(422, "Validation", f"A form must be whole; got: {error.detail}") from error
    if not found:
        raise Refusal(422, "Empty", "A form must hold an image as a file; this one has none.")
    return found


def _response(reply: Reply) -> Any:
    from starlette.responses import Response

    return Response(reply.body, status_code=reply.status, headers=dict(reply.headers), media_type=reply.kind)


async def _no_such_address(request: Any, error: Any) -> Any:
    kind = {404: "NotFound", 405: "Validation"}.get(error.status_code, "Validation")
    words = {404: "There is nothing at this address; /docs lists what there is.", 405: "Another method is needed here."}
    refusal = Refusal(error.status_code, kind, words.get(error.status_code, "This request cannot be answered."))
    reply = refusal.reply()
    return _response(Reply(reply.body, status=reply.status, headers={**reply.headers, **(error.headers or {})}))


def _page_routes() -> list[Route]:
    """The page's, where it is installed."""
    try:
        from .page import routes  # type: ignore[import-not-found]
    except ImportError:
        return []
    return routes()
