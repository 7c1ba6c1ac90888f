"""A provider that refuses, ends the session, or is away."""

import shutil
import time

import pytest

import realm
from bus import BusError
from keycloak import Keycloak
from processes import until
from session import ACCOUNT, Session, closing


def a_wrong_client_secret_is_refused_and_the_session_kept(desktop, keycloak):
    """K14, O: 401 unauthorized_client is the configuration's fault, so the refresh token stays."""
    user = desktop.ready_account("work", client=realm.BRIEF_CLIENT)
    desktop.set_secret("work", "not-the-secret")

    with pytest.raises(BusError) as error:
        desktop.call("Refresh", path="/org/bearerd/Broker1/account/work", interface=ACCOUNT)

    assert error.value.word == "ProviderRefused", error.value
    desktop.until_state("work", "refused")
    expires = desktop.account_property("work", "AccessExpires")
    until("the access token's end", lambda: time.time() > expires, 15, every=0.1)
    assert desktop.refused_token("work").word == "ProviderRefused"
    assert desktop.ctl("token", "work").returncode == 6

    desktop.set_secret("work")

    desktop.until_state("work", "ready", 30)
    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]
    assert len(keycloak.events("app", user, "LOGIN")) == 1


def a_login_with_a_wrong_client_secret_fails_and_says_why(desktop):
    """K14 at the code exchange; B17: the page doesn't claim a success."""
    desktop.add_account("work")
    desktop.start_daemon()
    desktop.set_secret("work", "not-the-secret")

    state, page = desktop.log_in("work")

    assert state == "failed"
    assert "logged in" not in page.html.lower() or "not logged in" in page.html.lower()
    assert desktop.account_state("work") == "refused"


def a_session_that_the_provider_ended_asks_for_a_login(desktop, keycloak, relay):
    """D15, K13, O: invalid_grant is terminal, said once, and nothing is sent after it."""
    user = desktop.ready_account("work")
    keycloak.end_sessions("app", user)

    with pytest.raises(BusError) as error:
        desktop.call("Refresh", path="/org/bearerd/Broker1/account/work", interface=ACCOUNT)

    assert error.value.word == "LoginRequired", error.value
    desktop.until_state("work", "expired")
    asked = relay.count("refresh_token")
    assert desktop.account_property("work", "StateMessage")
    until("the session's item to be gone", lambda: desktop.keyring.schemas() == ["org.bearerd.ClientSecret"], 10)
    state, _ = desktop.log_in("work")
    assert state == "succeeded"
    assert relay.count("refresh_token") == asked


@pytest.fixture
def away(prepared, binaries, tmp_path_factory):
    """A session at a Keycloak of its own: nobody else notices when it stops."""
    folder = tmp_path_factory.mktemp("away")
    server = Keycloak(prepared["BEARERD_KEYCLOAK"], folder)
    try:
        server.start()
        session = Session(tmp_path_factory.mktemp("s"), binaries, server)
        session.keyring.start()
        yield from closing(session)
    finally:
        server.stop()
        shutil.rmtree(server.home, ignore_errors=True)


def a_stopped_keycloak_is_offline_and_a_started_one_is_ready_again(away):
    """D8, N7, N16, O, M; promises 2 and 4: served while valid, then said clearly, then back without anybody's help."""
    keycloak = away.keycloak
    user = away.ready_account("work", client=realm.BRIEF_CLIENT)
    expires = away.account_property("work", "AccessExpires")
    keycloak.stop()

    # Served while valid: the bound is 5 s before the end (N1), the token lives 6.
    if time.time() < expires - 5:
        assert away.token("work").access_token
    until("the access token's end", lambda: time.time() > expires, 15, every=0.1)
    error = away.refused_token("work")
    assert error.word == "ProviderUnreachable", error
    away.until_state("work", "offline")
    assert away.ctl("token", "work").returncode == 5
    away.restart_daemon()  # offline at start is no different
    assert away.refused_token("work").word == "ProviderUnreachable"

    keycloak.start()

    away.until_state("work", "ready", 70)
    assert keycloak.introspect("app", away.token("work").access_token)["active"]
    assert len(keycloak.events("app", user, "LOGIN")) == 1
    assert keycloak.admin("GET", "app/events", params={"type": "REFRESH_TOKEN_ERROR"}) == []
