"""Sign-in: codes, tokens, cookies, logout, the brake."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from web_support import API, Running, problem, serving

from foldase_web.problems import HttpError
from foldase_web.services.signin import FailureBrake


def test_the_token_is_made_once_and_private(home: Path) -> None:
    with serving(home) as running:
        first = running.token
        assert stat.S_IMODE((home / "token").stat().st_mode) == 0o600
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        database = (home / "foldase.db").read_bytes() + (home / "foldase.db-wal").read_bytes()
        assert first.encode() not in database, "only its hash is kept"
    with serving(home) as running:
        assert running.token == first
        running.client().get(f"{API}/session").raise_for_status()


def test_a_lost_or_wrong_token_file_is_replaced(home: Path) -> None:
    with serving(home):
        pass
    for content in (None, "nonsense", ""):
        (home / "token").unlink()
        if content is not None:
            (home / "token").write_text(content)
        with serving(home) as running:
            running.client().get(f"{API}/session").raise_for_status()
            assert stat.S_IMODE((home / "token").stat().st_mode) == 0o600


def test_a_code_signs_in_once(running: Running) -> None:
    made = running.client().post(f"{API}/session/codes")
    assert made.status_code == 201
    code = made.json()["code"]
    assert made.json()["path"] == f"/#code={code}"
    browser = running.anonymous()
    answer = browser.post(f"{API}/session", json={"code": code})
    answer.raise_for_status()
    assert answer.json()["user"]["name"]
    cookie = answer.headers["set-cookie"]
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert attribute in cookie
    assert "Secure" not in cookie, "loopback speaks plain HTTP"
    assert browser.get(f"{API}/session").json() == answer.json()
    problem(running.anonymous().post(f"{API}/session", json={"code": code}), 401, "not_signed_in")


def test_a_token_signs_in(running: Running) -> None:
    browser = running.anonymous()
    browser.post(f"{API}/session", json={"token": running.token}).raise_for_status()
    browser.get(f"{API}/runs").raise_for_status()


@pytest.mark.parametrize(
    "body", [{}, {"code": "a", "token": "b"}, {"code": 1}, {"code": None}, {"password": "x"}, [], "x", None]
)
def test_malformed_credentials(running: Running, body: object) -> None:
    answer = running.anonymous().post(f"{API}/session", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"]


def test_signing_out_is_real(running: Running) -> None:
    browser = running.browser()
    cookies = dict(browser.cookies)
    assert browser.delete(f"{API}/session").status_code == 204
    assert not dict(browser.cookies)
    replayed = running.anonymous(cookies=cookies)
    problem(replayed.get(f"{API}/runs"), 401, "not_signed_in")
    running.client().get(f"{API}/session").raise_for_status()


def test_cookies_of_two_folders_do_not_meet(tmp_path: Path) -> None:
    with serving(tmp_path / "a") as one, serving(tmp_path / "b") as other:
        assert set(one.browser().cookies) != set(other.browser().cookies)


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer x", "Basic eDp5", "Bearer " + "x" * 5000])
def test_wrong_credentials(running: Running, authorization: str) -> None:
    problem(
        running.anonymous().get(f"{API}/runs", headers={"Authorization": authorization}), 401, "not_signed_in"
    )


def test_guessing_is_slowed_down(home: Path) -> None:
    with serving(home, failed_sign_ins=3) as running:
        guesser = running.anonymous()
        for _ in range(3):
            problem(guesser.post(f"{API}/session", json={"code": "wrong"}), 401, "not_signed_in")
        answer = guesser.post(f"{API}/session", json={"token": running.token})
        problem(answer, 429, "too_many_sign_ins")
        assert 0 < int(answer.headers["retry-after"]) <= 61
        running.client().get(f"{API}/session").raise_for_status()


def test_the_brake_lets_go_after_a_minute() -> None:
    now = 0.0
    brake = FailureBrake(2, clock=lambda: now)
    for moment in (0.0, 30.0):
        now = moment
        brake.check("a")
        brake.failed("a")
    with pytest.raises(HttpError) as caught:
        brake.check("a")
    assert caught.value.headers["Retry-After"] == "31"
    brake.check("b")
    now = 60.5
    brake.check("a")
    brake.failed("a")
    with pytest.raises(HttpError):
        brake.check("a")
