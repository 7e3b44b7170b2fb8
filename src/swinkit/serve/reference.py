"""The page at /docs: what /openapi.json says, for people. It loads nothing, where Swagger's page loads scripts from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark; }
h2 { font-family: ui-monospace, monospace; font-size: 1.1rem; margin-top: 2.5rem; border-top: 1px solid; padding-top: 1rem; }
code { font-family: ui-monospace, monospace; } dt { font-weight: 600; margin-top: .5rem; }
"""


def reference(document: Mapping[str, Any], nonce: str) -> str:
    """An OpenAPI document as HTML; `nonce` is that of the Content-Security-Policy, for its style."""
    title = f"{escape(document['info']['title'])} {escape(document['info']['version'])}"
    routes = "".join(
        f"<h2>{method.upper()} {escape(path)}</h2>\n<p>{escape(operation.get('description', ''))}</p>\n{''.join(_facts(operation))}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style nonce="{escape(nonce)}">{STYLE}</style></head>\n'
        f"<body>\n<h1>{title}</h1>\n<p>{escape(document['info']['description'])}</p>\n"
        f'<p>The same for programs: <a href="openapi.json">openapi.json</a></p>\n{routes}</body>\n</html>\n'
    )


def _facts(operation: Mapping[str, Any]) -> Iterator[str]:
    if operation.get("security"):
        yield "<p>Needs <code>Authorization: Bearer TOKEN</code>.</p>\n"
    yield _list("Query", {entry["name"]: _parameter(entry) for entry in operation.get("parameters", ())})
    kinds = operation.get("requestBody", {}).get("content", {})
    yield _list("Body, one of", {kind: _shape(content["schema"]) for kind, content in kinds.items()})
    yield _list("Answers", {status: answer["description"] for status, answer in operation["responses"].items()})


def _parameter(entry: Mapping[str, Any]) -> str:
    return str(entry.get("description") or entry["schema"].get("description", ""))


def _shape(schema: Mapping[str, Any]) -> str:
    properties = schema.get("properties")
    return "the file itself" if properties is None else json.dumps({name: _example(value) for name, value in properties.items()})


def _example(schema: Mapping[str, Any]) -> Any:
    if schema.get("type") == "array":
        return [_example(schema["items"]), "..."]
    return "base64" if schema.get("contentEncoding") else "a file"


def _list(title: str, entries: Mapping[str, str]) -> str:
    if not entries:
        return ""
    rows = "".join(f"<dt><code>{escape(name)}</code></dt><dd>{escape(says)}</dd>\n" for name, says in entries.items())
    return f"<h3>{title}</h3>\n<dl>\n{rows}</dl>\n"
