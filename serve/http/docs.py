"""`/docs`: the interface on one page, without scripts, images or styles from elsewhere.

FastAPI's usual page loads scripts from a CDN, which learns who reads the page and can run code in
it. Tools read `/openapi.json`.
"""

import json
from collections.abc import Iterator
from html import escape
from typing import Any

HEADERS = {"Content-Security-Policy": "default-src 'none'"}
_CALLS = {
    "curl": "curl -s ADDRESS{path}{curl}",
    "Python": """\
import httpx

response = httpx.{method}("ADDRESS{path}"{python})
print(response.status_code, response.json())""",
    "JavaScript": """\
const response = await fetch("ADDRESS{path}"{javascript});
console.log(response.status, await response.json());""",
}


def page(openapi: dict[str, Any]) -> str:
    """HTML that lists the operations of an OpenAPI description: fields, answers and calls."""
    title = escape(openapi["info"]["title"])
    parts = [
        part
        for path, calls in openapi["paths"].items()
        for method, call in calls.items()
        for part in _operation(path, method, call, openapi)
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title><h1>{title}</h1>'
        f'<p>For tools: <a href="openapi.json">openapi.json</a>. In the calls, ADDRESS is where the'
        f" endpoint listens, and TOKEN is the tenant's token; a deployment without tokens needs no"
        f" such header.</p>{''.join(parts)}</html>"
    )


def _operation(
    path: str, method: str, call: dict[str, Any], openapi: dict[str, Any]
) -> Iterator[str]:
    yield f"<h2>{escape(method.upper())} {escape(path)}</h2><p>{escape(call['description'])}</p>"
    body = call.get("requestBody", {}).get("content", {}).get("application/json", {})
    fields = [(one["name"], one["schema"], one) for one in call.get("parameters", ())]
    model = openapi["components"]["schemas"].get(body.get("schema", {}).get("$ref", "/")[21:], {})
    fields += [(name, schema, schema) for name, schema in model.get("properties", {}).items()]
    if fields:
        yield "<h3>Fields</h3><dl>"
        for name, schema, said in fields:
            default = f", by default {json.dumps(schema['default'])}" if "default" in schema else ""
            meaning = said.get("description", "")
            yield f"<dt><code>{escape(name)}</code>: {escape(kind(schema) + default)}</dt>"
            yield f"<dd>{escape(meaning)}</dd>"
        yield "</dl>"
    yield "<h3>Answers</h3><ul>"
    for status, answer in call["responses"].items():
        yield f"<li>{escape(status)}: {escape(answer['description'])}{_example(answer)}</li>"
    yield "</ul><h3>Calls</h3>"
    examples = [one["value"] for one in body.get("examples", {}).values()]
    example = examples[0] if examples else None
    for language, text in _calls(path, method, call, example).items():
        yield f"<h4>{language}</h4><pre>{escape(text)}</pre>"


def _example(answer: dict[str, Any]) -> str:
    content = answer.get("content", {}).get("application/json", {})
    examples = [one["value"] for one in content.get("examples", {}).values()]
    examples += [content["example"]] if "example" in content else []
    return "".join(f"<pre>{escape(json.dumps(one, indent=2))}</pre>" for one in examples)


def kind(schema: dict[str, Any]) -> str:
    """The type of a field in words, with its bounds."""
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(json.dumps(one) for one in schema["enum"])
    said = str(schema.get("type", "any"))
    if said == "array":
        said = f"list of {schema['minItems']} to {schema['maxItems']} of {kind(schema['items'])}"
    if "maxLength" in schema:
        said += f" of {schema['minLength']} to {schema['maxLength']} characters"
    if "maximum" in schema:
        said += f" from {schema['minimum']:g} to {schema['maximum']:g}"
    return said


def _calls(path: str, method: str, call: dict[str, Any], example: object) -> dict[str, str]:
    """The same call in several languages; `example`: its body, or None."""
    body = None if example is None else json.dumps(example)
    headers = {"Authorization": "Bearer TOKEN"} if "security" in call else {}
    in_python = [f"headers={json.dumps(headers)}"] if headers else []
    in_python += [f"json={body}"] if body else []
    if body:
        headers["Content-Type"] = "application/json"
    in_curl = [f"-H '{name}: {value}'" for name, value in headers.items()]
    in_curl += [f"-d '{body}'"] if body else []
    in_javascript = [f'method: "{method.upper()}"'] if method != "get" else []
    in_javascript += [f"headers: {json.dumps(headers)}"] if headers else []
    in_javascript += [f"body: JSON.stringify({body})"] if body else []
    values = {
        "path": path.replace("{tenant}", "acme"),
        "method": method,
        "curl": "".join(f" \\\n  {one}" for one in in_curl),
        "python": "".join(f",\n    {one}" for one in in_python),
        "javascript": ", {\n" + "".join(f"  {one},\n" for one in in_javascript) + "}"
        if in_javascript
        else "",
    }
    return {language: text.format_map(values) for language, text in _CALLS.items()}
