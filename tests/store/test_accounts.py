"""Codes are good once, tokens until they are revoked, sessions until they end; nothing is kept in clear."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from foldase.store.accounts import CODE_SECONDS, SESSION_SECONDS
from foldase_workflows.contracts import NotSignedIn


def test_a_code_opens_one_session(store):
    code = store.accounts.new_code()
    user, secret = store.accounts.redeem_code(code)
    assert user.id == "local"
    assert store.accounts.session_user(secret) == user
    with pytest.raises(NotSignedIn):
        store.accounts.redeem_code(code)


def test_codes_and_sessions_grow_old(store, clock):
    code = store.accounts.new_code()
    _, secret = store.accounts.redeem_code(store.accounts.new_code())
    clock.advance(CODE_SECONDS + 1)
    with pytest.raises(NotSignedIn):
        store.accounts.redeem_code(code)
    assert store.accounts.session_user(secret)
    clock.advance(SESSION_SECONDS)
    with pytest.raises(NotSignedIn):
        store.accounts.session_user(secret)


def test_signing_out_is_real(store):
    _, secret = store.accounts.redeem_code(store.accounts.new_code())
    store.accounts.end_session(secret)
    store.accounts.end_session("never existed")
    with pytest.raises(NotSignedIn):
        store.accounts.session_user(secret)


def test_tokens(store, clock):
    token = store.accounts.new_token("laptop")
    short = store.accounts.new_token("script", seconds=60)
    assert store.accounts.token_user(token).id == "local"
    _, secret = store.accounts.sign_in(token)
    assert store.accounts.session_user(secret)
    assert {record.name for record in store.accounts.tokens()} == {"laptop", "script"}
    clock.advance(61)
    with pytest.raises(NotSignedIn):
        store.accounts.token_user(short)
    laptop = next(record for record in store.accounts.tokens() if record.name == "laptop")
    store.accounts.revoke_token(laptop.id)
    with pytest.raises(NotSignedIn):
        store.accounts.token_user(token)
    assert [record.name for record in store.accounts.tokens()] == ["script"]


def test_one_kind_of_secret_is_no_other(store):
    code, token = store.accounts.new_code(), store.accounts.new_token("laptop")
    _, session = store.accounts.redeem_code(store.accounts.new_code())
    for wrong in (token, session, "", "x" * 43):
        with pytest.raises(NotSignedIn):
            store.accounts.redeem_code(wrong)
    for wrong in (code, session, ""):
        with pytest.raises(NotSignedIn):
            store.accounts.token_user(wrong)
    for wrong in (code, token, ""):
        with pytest.raises(NotSignedIn):
            store.accounts.session_user(wrong)


def test_no_secret_lies_in_the_database(store, home):
    secrets = [store.accounts.new_code(), store.accounts.new_token("laptop")]
    secrets.append(store.accounts.redeem_code(store.accounts.new_code())[1])
    with store.database.write() as connection:
        connection.execute(text("UPDATE run SET name = name"))
    content = b"".join(path.read_bytes() for path in home.glob("foldase.db*"))
    assert len(content) > 1000
    for secret in secrets:
        assert secret.encode() not in content
