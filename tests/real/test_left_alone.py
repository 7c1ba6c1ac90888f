"""Sessions that nobody asks for anything: one that can go on for ever, one that the provider will end."""

import time

import pytest

import matrix
import realm
from processes import until
from relay import Relay
from session import Session, closing

LIFE = 20  # of a refresh token in realm.short()
END = 60  # of a session in realm.ending()


@pytest.fixture(scope="session")
def left_alone(tmp_path_factory, binaries, keycloak):
    """Logs in early; other tests run while it waits."""
    relay = Relay(keycloak)
    session = Session(tmp_path_factory.mktemp("s"), binaries, keycloak, relay)
    session.keyring.start()
    session.began = time.monotonic()
    session.user_id = session.ready_account("work", realm_name="short", client=realm.QUIET_CLIENT)
    session.ready_account("temp", realm_name="ending", client=realm.PUBLIC_CLIENT)
    yield from closing(session)
    relay.close()


@pytest.mark.first
def two_sessions_are_left_alone_from_here_on(left_alone):
    """N3, K8: both ends are announced as the provider states them."""
    now = time.time()
    assert left_alone.account_property("work", "SessionExpires") == pytest.approx(now + LIFE, abs=4)
    assert left_alone.account_property("temp", "SessionExpires") == pytest.approx(now + END, abs=6)


@pytest.mark.last
def a_session_with_a_hard_end_is_announced_and_not_hammered(left_alone, keycloak):
    """K8, K9, N8, N12: lifetimes shrink towards the end; no storm before it, nothing sent after it."""
    until("the end", lambda: time.monotonic() - left_alone.began > END + 5, END + 10, every=1)

    left_alone.until_state("temp", "expired")

    assert left_alone.account_property("temp", "StateMessage")
    requests = left_alone.relay.count("refresh_token", realm_name="ending")
    assert 1 <= requests <= 8, requests
    assert left_alone.refused_token("temp").word == "LoginRequired"
    assert left_alone.relay.count("refresh_token", realm_name="ending") == requests


@pytest.mark.last
def a_session_left_alone_outlives_ten_of_its_lifetimes(left_alone, keycloak):
    """N3, N5, N9, D10; promise 2: nobody called, nobody logged in again, and no more requests than needed."""
    # The time itself is the test; other tests have used most of it.
    until("ten lifetimes", lambda: time.monotonic() - left_alone.began > 10 * LIFE, 11 * LIFE, every=1)

    token = left_alone.token("work")

    assert keycloak.introspect("short", token.access_token)["active"]
    assert len(keycloak.events("short", left_alone.user_id, "LOGIN")) == 1
    renewals = left_alone.relay.count("refresh_token", realm_name="short")
    assert renewals == left_alone.relay.count("refresh_token", 200, realm_name="short")
    elapsed = time.monotonic() - left_alone.began
    assert elapsed / LIFE <= renewals <= elapsed / 9 + 2, f"{renewals} renewals in {elapsed:.0f} s"
    matrix.row(66, "200 s idle, refresh tokens live 20 s", "token", "one each 10 to 20 s", "lives")
