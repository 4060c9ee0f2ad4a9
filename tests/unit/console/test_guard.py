"""Who may ask the console, and what every answer tells the browser."""

import pytest

from adapterdistill.console.guard import CONTENT_SECURITY_POLICY, MAX_FORM_BYTES
from adapterdistill.console.owner import REPORT_POLICY, Owner
from tests.unit.console.conftest import HOST, ORIGIN, Browser, browser_of, text_of

PATHS = ("/", "/runs", "/releases", "/releases/acme", "/questions", "/questions/acme", "/ask")
CHANGES = (
    "/releases/acme/try",
    "/releases/acme/promote",
    "/releases/acme/drop",
    "/releases/acme/rollback",
    "/questions/acme/label",
    "/questions/acme/export",
    "/ask",
)


@pytest.fixture
def stranger(owner: Owner) -> Browser:
    """A browser that was not given the token."""
    browser = browser_of(owner)
    browser.client.cookies.clear()
    return browser


@pytest.mark.parametrize("path", [*PATHS, "/runs/acme/x/report", "/no/such/page"])
def test_a_page_is_shown_to_nobody_without_the_cookie(stranger: Browser, path: str) -> None:
    for cookie in (None, "", "x" * 43, stranger.access.token):
        stranger.client.cookies.clear()
        if cookie is not None:
            stranger.client.cookies.set(stranger.access.cookie, cookie)
        found = stranger.get(path)
        assert found.status_code == 401 and "zanzibar" not in found.text
        assert "token" in text_of(found)


def test_the_token_brings_a_cookie_that_scripts_and_other_sites_cannot_use(
    stranger: Browser,
) -> None:
    found = stranger.client.get(f"/login?token={stranger.access.token}", follow_redirects=False)
    assert (found.status_code, found.headers["location"]) == (303, "/")
    cookie = found.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert stranger.access.token not in cookie
    assert stranger.get("/").status_code == 200


def test_the_token_may_be_typed_into_the_form(stranger: Browser) -> None:
    send = stranger.client.post
    wrong = send("/login", data={"token": "wrong"}, headers={"Origin": ORIGIN})
    assert wrong.status_code == 401 and "not the token" in wrong.text
    right = {"token": f" {stranger.access.token}\n"}
    foreign = send("/login", data=right, headers={"Origin": "http://127.0.0.1:80"})
    assert foreign.status_code == 403
    assert send("/login", data=right, headers={"Origin": ORIGIN}).status_code == 200
    assert stranger.get("/runs").status_code == 200


def test_a_wrong_token_is_refused_and_not_quoted(stranger: Browser) -> None:
    found = stranger.get("/login?token=guess-guess")
    assert found.status_code == 401 and "guess-guess" not in found.text
    assert stranger.get("/").status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:80", "", HOST + "."])
def test_another_host_name_is_refused_as_after_dns_rebinding(browser: Browser, host: str) -> None:
    for path in ("/", "/static/console.css", "/login"):
        found = browser.get(path, Host=host)
        assert found.status_code == 421 and "address" in text_of(found)


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_needs_the_secret_of_a_page_of_the_console(browser: Browser, path: str) -> None:
    send = browser.client.post
    own = {"Origin": ORIGIN}
    for fields, headers in (
        ({"csrf": ""}, own),
        ({"right": "none"}, own),
        ({"csrf": "0" * 64}, own),
        ({"csrf": browser.access.csrf}, {}),
        ({"csrf": browser.access.csrf}, {"Origin": "null"}),
        ({"csrf": browser.access.csrf}, {"Origin": "http://127.0.0.1:9999"}),
        ({"csrf": browser.access.csrf}, {"Origin": "http://evil.example"}),
    ):
        found = send(path, data=fields, headers=headers)
        assert found.status_code == 403 and "load the page again" in text_of(found)


def test_other_methods_and_bodies_are_refused(browser: Browser) -> None:
    own = {"Origin": ORIGIN}
    send = browser.client
    assert send.put("/ask", headers=own).status_code == 405
    assert send.post("/ask", json={"csrf": browser.access.csrf}, headers=own).status_code == 415
    assert browser.post("/ask", question="x" * MAX_FORM_BYTES).status_code == 413
    many = {f"field-{n}": "x" for n in range(40)}
    assert browser.post("/ask", **many).status_code == 400
    assert browser.post("/runs").status_code == 405


@pytest.mark.parametrize("path", [*PATHS, "/login", "/static/htmx.min.js", "/static/console.css"])
def test_every_answer_forbids_what_a_page_does_not_need(browser: Browser, path: str) -> None:
    for host in (HOST, "evil.example"):
        headers = browser.get(path, Host=host).headers
        assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["x-frame-options"] == "DENY"
    assert "unsafe" not in CONTENT_SECURITY_POLICY and "default-src 'none'" in REPORT_POLICY


def test_no_page_holds_inline_script_or_style_or_names_another_host(browser: Browser) -> None:
    for path in (*PATHS, "/login", "/no/such/page"):
        page = browser.get(path).text
        assert "<style" not in page and " style=" not in page and " onclick" not in page
        assert page.count("<script") == page.count('<script src="/static/')
        assert "http://" not in page and "https://" not in page and "//cdn" not in page


@pytest.mark.parametrize("name", ["%2e%2e", "..%2f..%2fetc", "x%00", "a" * 300, "Acme"])
def test_a_name_that_is_no_tenant_leads_nowhere(browser: Browser, name: str) -> None:
    for path in (f"/runs/{name}/x", f"/runs/acme/{name}", f"/runs/{name}/x/report"):
        assert browser.get(path).status_code == 404
    for path in (f"/releases/{name}", f"/questions/{name}"):
        assert browser.get(path).status_code == 404
    assert browser.post(f"/releases/{name}/rollback").status_code in (404, 405)
    assert browser.get(f"/static/{name}/pages.py").status_code == 404
    assert browser.get("/static/%2e%2e/pages.py").status_code == 404
