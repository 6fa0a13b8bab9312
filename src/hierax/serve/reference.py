"""/docs: every address with what it takes and gives, from the OpenAPI description, as one page that loads nothing."""

from __future__ import annotations

import html
import json
from typing import Any

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.05rem; margin-top: 2rem; border-top: 1px solid; padding-top: 1rem; }
code, pre { font: 0.9rem/1.4 ui-monospace, monospace; }
pre { overflow-x: auto; border: 1px solid; border-radius: 4px; padding: 0.75rem; }
dt { margin-top: 0.5rem; }
"""


def page(described: dict[str, Any]) -> str:
    """The page of an OpenAPI description."""
    parts = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(method.upper(), path, operation))
    title = html.escape(described["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: addresses</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>'
        f"<h1>{title} {html.escape(described['info']['version'])}</h1>"
        '<p>For programs: <a href="/openapi.json">openapi.json</a>. Errors are '
        "<code>{&quot;error&quot;: text, &quot;error_type&quot;: word}</code>.</p>"
        f"{''.join(parts)}</main></body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    text = "".join(f"<p>{html.escape(each)}</p>" for each in operation.get("description", "").split("\n\n"))
    asked = "".join(
        f"<dt><code>{html.escape(each['name'])}</code></dt><dd>{html.escape(each.get('description', ''))}</dd>"
        for each in operation.get("parameters", [])
        if each["in"] == "query"
    )
    content = operation.get("requestBody", {}).get("content", {})
    bodies = "".join(
        f"<p>Body: <code>{html.escape(kind)}</code></p>"
        + (f"<pre>{html.escape(json.dumps(each['schema'], indent=1))}</pre>" if kind.endswith("json") else "")
        for kind, each in content.items()
    )
    gives = ", ".join(operation["responses"].get("200", {}).get("content", {}))
    return (
        f"<section><h2><code>{method} {html.escape(path)}</code></h2>{text}"
        f"{f'<dl>{asked}</dl>' if asked else ''}{bodies}<p>Answer: <code>{html.escape(gives)}</code></p></section>"
    )
