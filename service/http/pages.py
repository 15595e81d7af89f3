"""Pages and files for people: `/`, to try the service, and `/docs`, a page of `/openapi.json`.

The files are read once. The pages load nothing from other hosts, and run only their own script.
"""

import hashlib
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.http.openapi import document

_SITE = Path(__file__).with_name("site")
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), geolocation=(), microphone=()",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def pages(api: Sequence[Route], *, with_try: bool) -> list[Route]:
    """Return the routes of the pages and their files.

    Args:
        api: What is described.
        with_try: Whether `/` is the page to try the service.
    """
    spec = document(api)
    found = [
        _file(
            "/openapi.json",
            json.dumps(spec, ensure_ascii=False).encode(),
            "application/json",
        ),
        _file("/docs", _described(spec).encode(), _KINDS[".html"]),
        *(_site(name) for name in ("style.css", "icon.svg")),
    ]
    if with_try:
        found += [_site("index.html", "/"), *(_site(name) for name in ("try.js", "call.js"))]
    return found


def _site(name: str, path: str = "") -> Route:
    file = _SITE / name
    return _file(path or f"/{name}", file.read_bytes(), _KINDS[file.suffix])


def _file(path: str, content: bytes, kind: str) -> Route:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {**_HEADERS, "etag": tag}

    async def send(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=kind)

    return Route(path, send, name=path)


def _described(spec: dict[str, Any]) -> str:
    """Return the page of an OpenAPI document."""
    parts = [
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>{_operation(path, about)}"
        "</section>"
        for path, operations in spec["paths"].items()
        for method, about in operations.items()
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<title>Hansang over HTTP</title><link rel="icon" href="/icon.svg">'
        '<link rel="stylesheet" href="/style.css"></head><body>'
        f"<header><h1>Hansang {escape(spec['info']['version'])} over HTTP</h1></header><main>"
        f"<p>{escape(spec['info']['description'])} Errors are problems of RFC 9457. For tools:"
        ' <a href="/openapi.json">openapi.json</a>.</p>' + "".join(parts) + "</main></body></html>"
    )


def _operation(path: str, about: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(each['name'])}</code></td><td>{each['in']}</td>"
        f"<td>{escape(each.get('description', ''))}</td></tr>"
        for each in about["parameters"]
        if each["in"] != "path"
    ]
    table = f"<table><tbody>{''.join(rows)}</tbody></table>" if rows else ""
    kinds = ", ".join(about.get("requestBody", {}).get("content", {}))
    body = f"<p>Body: <code>{escape(kinds)}</code></p>" if kinds else ""
    answer = about["responses"]["200"]["content"]["application/json"]["schema"]
    shape = answer.get("$ref", "").rpartition("/")[2] or answer.get("type", "")
    curl = {
        "image/*": f"curl --data-binary @photo.jpg HOST:8080{path.replace('{model}', 'food42')}"
    }.get(kinds.partition(",")[0], "")
    example = f"<pre>{escape(curl)}</pre>" if curl else ""
    return (
        f"<p>{escape(about['summary'])}</p>{table}{body}<p>Answer: <code>{escape(shape)}</code></p>"
        f"{example}"
    )
