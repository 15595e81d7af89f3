"""The description of the methods, and how pages are sent; without a browser."""

import json
import re


async def test_the_description_is_of_all_methods(publish, serve, call):
    """Each route is in openapi.json, each reference resolves, and `/docs` lists them all."""
    publish("food")
    server = await serve(http_port=0)
    told = (await call(server, "GET", "/openapi.json")).json
    ids = [about["operationId"] for each in told["paths"].values() for about in each.values()]
    assert len(ids) == len(set(ids))
    assert {"/v1/models/{model}:classify", "/v2/models/{model}/versions/{version}/infer"} <= set(
        told["paths"]
    )
    for reference in re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(told)):
        assert told["components"]["schemas"][reference], reference
    classes = told["components"]["schemas"]["hansang.v1.Class"]["properties"]
    assert {"label": {"type": "string"}, "probability": {"type": "number"},
            "index": {"type": "integer"}} == classes  # fmt: skip
    page = (await call(server, "GET", "/docs")).body.decode()
    for path in told["paths"]:
        assert path.replace("&", "&amp;") in page
    for path, operations in told["paths"].items():
        for method in operations:
            url = path.replace("{model}", "food").replace("{version}", "1")
            assert (await call(server, method.upper(), url, b"")).status not in (404, 405), url


async def test_pages_are_strict_and_may_be_left_out(publish, serve, call):
    """A strict policy, revalidation by tag; with `no_page` no page, and the methods as before."""
    publish("food")
    server = await serve(http_port=0)
    first = await call(server, "GET", "/")
    assert "default-src 'none'" in first.headers["content-security-policy"]
    assert "unsafe" not in first.headers["content-security-policy"]
    assert "nosniff" == first.headers["x-content-type-options"]
    again = await call(server, "GET", "/", None, {"if-none-match": first.headers["etag"]})
    assert (304, b"") == (again.status, again.body)

    without = await serve(http_port=0, no_page=True)
    assert 404 == (await call(without, "GET", "/")).status
    assert 404 == (await call(without, "GET", "/try.js")).status
    assert 200 == (await call(without, "GET", "/v1/models")).status
