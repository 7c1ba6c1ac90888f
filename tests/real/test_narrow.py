"""Narrower tokens from a real Keycloak."""

import pytest

import realm
from bus import BusError


def a_caller_gets_fewer_scopes_and_the_session_goes_on(desktop, keycloak, relay):
    """A11, J2, J3: Keycloak's own word on each token; the rotated refresh token is the session's."""
    user = desktop.ready_account("work")
    own = desktop.token("work")

    locks = desktop.token("work", scope="locks")
    profile = desktop.token("work", scope="profile")

    def scopes(token):
        seen = keycloak.introspect("app", token.access_token)
        assert seen["active"]
        return set(seen["scope"].split())

    assert "profile" in scopes(profile) and "locks" not in scopes(profile)
    assert "locks" in scopes(locks) and "profile" not in scopes(locks)
    assert {"profile", "locks"} <= scopes(own)
    assert desktop.token("work", scope="locks").access_token == locks.access_token
    assert desktop.token("work").access_token == own.access_token
    assert relay.count("refresh_token") == len(keycloak.events("app", user, "REFRESH_TOKEN")) == 2

    desktop.restart_daemon(kill=True)
    after = desktop.token("work")
    assert {"profile", "locks"} <= scopes(after), "the narrower refresh has narrowed the session"
    assert desktop.account_state("work") == "ready"


def a_scope_that_was_not_granted_never_reaches_the_provider(desktop, relay):
    """A11."""
    desktop.ready_account("work")

    with pytest.raises(BusError) as refused:
        desktop.token("work", scope="locks messaging")

    assert refused.value.word == "InvalidOption"
    granted = str(refused.value).split("granted: ")[1].split("\"")[1]
    assert set(granted.split()) == {"profile", "locks"}
    assert relay.count("refresh_token") == 0
    assert desktop.account_state("work") == "ready"


def an_audience_is_had_by_token_exchange(desktop, keycloak, relay):
    """J4: a token for one API alone; the refresh token is not used for it, and a no is the caller's alone."""
    desktop.ready_account("work", client=realm.EXCHANGING_CLIENT, audience_by="exchange")
    own = desktop.token("work").access_token

    token = desktop.token("work", audience=realm.INTROSPECTOR).access_token

    seen = keycloak.introspect("app", token)
    assert token != own and seen["active"] and seen["aud"] == realm.INTROSPECTOR
    with pytest.raises(BusError) as refused:
        desktop.token("work", audience="nobody")
    assert refused.value.word == "ProviderRefused"
    assert desktop.token("work", audience=realm.INTROSPECTOR).access_token == token
    assert desktop.token("work").access_token == own
    assert relay.count("refresh_token") == 0
    assert desktop.account_state("work") == "ready"
