"""Everything a browser asks for lies on the server itself."""

import re
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient

from pangu.serve.api import build_api
from pangu.serve.api.pages import FILES, SWAGGER
from pangu.serve.inference.engine import RequestEngine
from pangu.serve.prometheus import Metrics
from pangu.serve.settings import ServeSettings

NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'
OWN = [path for path, (place, _, _) in FILES.items() if place != SWAGGER]


class References(HTMLParser):
    """What a page loads or leads to, and whether it holds scripts or styles that its policy forbids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.found += [given[name] or "" for name in ("src", "href", "action", "data", "srcset") if given.get(name)]
        if tag == "style" or (tag == "script" and "src" not in given) or any(n in given for n in ("style", "onload")):
            self.inline.append(tag)


@pytest.fixture(scope="module")
def client() -> TestClient:
    metrics = Metrics()
    api = build_api(RequestEngine({}, ServeSettings(), metrics), metrics)
    return TestClient(api, follow_redirects=False)


def test_no_page_loads_anything_from_elsewhere_and_whatever_it_names_is_there(client: TestClient) -> None:
    for path in FILES:
        answer = client.get(f"/{path}")
        assert answer.status_code == 200, path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "http" not in policy and "*" not in policy
        if path in OWN:
            assert not re.findall(r"(?:https?:)?//[a-z0-9]", answer.text.replace(NAMESPACE, "")), path
        if answer.headers["Content-Type"].startswith("text/html"):
            page = References(answer.text)
            assert page.found and not page.inline
            for reference in page.found:
                assert client.get(reference).status_code == 200, f"{path} names {reference}"
                assert "icon" not in reference or reference == "/favicon.svg"


def test_a_browser_finds_a_start_page_an_icon_and_rules_for_robots(client: TestClient) -> None:
    start = client.get("/")
    assert (start.status_code, start.headers["Location"]) == (307, "/studio")
    assert client.get("/favicon.ico").headers["Content-Type"].startswith("image/svg+xml")
    assert client.get("/favicon.svg").text.startswith("<svg")
    assert "Disallow" in client.get("/robots.txt").text
    for path in ("/redoc", "/docs/oauth2-redirect", "/studio/nothing", "/apple-touch-icon.png"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_head_is_answered_like_get_without_its_body(client: TestClient) -> None:
    for path in [
        "/",
        "/healthz",
        "/readyz",
        "/v1/models",
        "/openapi.json",
        "/nowhere",
        *(f"/{path}" for path in FILES),
    ]:
        whole, head = client.get(path), client.head(path)
        assert head.status_code == whole.status_code, path
        assert head.headers.get("Content-Length") == whole.headers.get("Content-Length"), path
        assert not head.content
    assert client.head("/v1/images/generations").status_code == 405


def test_a_form_of_another_sites_page_draws_nothing(client: TestClient) -> None:
    form = {"prompt": "x"}
    for site in ("cross-site", "same-site"):
        refused = client.post("/v1/images/edits", data=form, headers={"Sec-Fetch-Site": site})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_page")
        with_key = client.post(
            "/v1/images/edits", data=form, headers={"Sec-Fetch-Site": site, "Authorization": "Bearer x"}
        )
        assert with_key.status_code == 400
    for site in ("same-origin", "none"):
        assert client.post("/v1/images/edits", data=form, headers={"Sec-Fetch-Site": site}).status_code == 400
