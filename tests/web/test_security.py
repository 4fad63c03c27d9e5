"""Who may ask: hosts, sites, tokens; and what answers tell browsers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, serving

from refusion.web.security import Access, _cookie_of, access_for, is_loopback
from refusion.web.service import Settings

TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("open")
    with serving(place / "data", Settings(10**6, page=place)) as service:
        yield service


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("guarded") / "data", access=Access(TOKEN, None)) as service:
        yield service


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:80", 200),
        ("localhost", 200),
        ("[::1]:8187", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("", 400),
    ],
)
def test_only_requests_for_this_machine_are_answered(served: Served, host: str, status: int) -> None:
    """A name that was rebound to this machine is that of another site."""
    assert served.client.get("/api/v1/jobs", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
    ],
    ids=str,
)
def test_pages_of_other_sites_neither_change_nor_read(
    served: Served, headers: dict[str, str], status: int
) -> None:
    assert served.client.post("/api/v1/cancel", headers=headers).status_code == status
    assert served.client.get("/api/v1/jobs", headers=headers).status_code == status


def test_the_own_origin_may_ask(served: Served) -> None:
    address = str(served.client.base_url).rstrip("/")
    assert served.client.post("/api/v1/cancel", headers={"Origin": address}).status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/jobs/none", "/none", "/static/none"])
def test_every_answer_is_guarded(served: Served, path: str) -> None:
    headers = served.client.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == ("no-cache" if path.startswith("/static") else "no-store")
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/", "/api/v1/jobs", "/api/v1/openapi.json", "/static/x", "/none"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": f"{_cookie_of(TOKEN)}=x"},
    ],
    ids=str,
)
def test_nothing_is_told_without_the_token(guarded: Served, path: str, headers: dict[str, str]) -> None:
    answer = guarded.client.get(path, headers={"Authorization": "", **headers})
    assert answer.status_code == 401
    assert "token" in answer.json()["detail"]


def test_the_address_with_the_token_gives_a_cookie(guarded: Served) -> None:
    client, nobody = guarded.client, {"Authorization": ""}
    entered = client.get("/", params={"token": TOKEN}, headers=nobody)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
    client.cookies.clear()
    another = f"{_cookie_of('another token')}=another token; "
    for others in (
        "",
        'theme={"dark": 1}; ',
        another,
    ):  # of services at other ports
        given = {**nobody, "Cookie": others + cookie.partition(";")[0]}
        assert client.get("/api/v1/jobs", headers=given).status_code == 200
    assert client.get("/", params={"token": "wrong"}, headers=nobody).status_code == 401
    assert client.get("/api/v1/jobs", params={"token": TOKEN}, headers=nobody).status_code == 401


def test_the_token_in_a_header_is_enough_under_any_name(guarded: Served) -> None:
    assert guarded.client.get("/api/v1/jobs", headers={"Host": "studio.example"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("127.0.0.2", True),
        ("0.0.0.0", False),
        ("192.168.1.2", False),
    ],
)
def test_other_machines_need_a_token_which_is_made_if_none_is_given(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    access = access_for(host, None)
    assert (access.token is None) is loopback
    assert access.token is None or len(access.token) >= 32
    assert access_for(host, TOKEN).token == TOKEN
    assert access.hosts is None or host in access.hosts


def test_tokens_that_can_be_guessed_are_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        Access("short")
    with pytest.raises(ValueError, match="token"):
        Access(None, None)


def test_the_page_is_served(tmp_path: Path) -> None:
    page = tmp_path / "page"
    (page / "examples").mkdir(parents=True)
    (page / "main.js").write_text("")
    (page / "index.html").write_text("<!doctype html><title>refusion</title>")
    for side in ("before", "after"):
        (page / f"examples/tiny-{side}.jpg").write_bytes(b"\xff\xd8\xff")
    with serving(tmp_path / "data", Settings(10**6, page=page)) as served:
        assert "refusion" in served.client.get("/").text
        script = served.client.get("/static/main.js").headers
        assert script["content-type"].startswith("text/javascript")
        assert script["cache-control"] == "no-cache"
        (model,) = served.get("models").json()
        for address in model["example"].values():
            assert served.client.get(address).content == b"\xff\xd8\xff"
        assert served.client.get("/static/../conftest.py").status_code == 404
