"""A session's life: restarts, crashes, many callers, lost requests."""

import time

import pytest

import realm
from bus import Connection
from processes import until
from session import NAME, ROOT


def a_restarted_daemon_has_a_token_without_a_login(desktop, keycloak):
    """P5, N14; promise 2."""
    user = desktop.ready_account("work", client=realm.CONSENT_CLIENT)

    desktop.restart_daemon()

    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]
    assert len(keycloak.events("app", user, "LOGIN")) == 1


def a_killed_daemon_has_a_token_without_a_login(desktop, keycloak, relay):
    """D4, D7: kill -9 right after a rotation, three times over."""
    user = desktop.ready_account("work", client=realm.CONSENT_CLIENT)
    for _ in range(3):
        rotated = desktop.token("work", force_refresh=True).access_token
        desktop.restart_daemon(kill=True)
        fresh = desktop.token("work").access_token
        assert fresh != rotated  # the access token lived in memory only
        assert keycloak.introspect("app", fresh)["active"]

    assert len(keycloak.events("app", user, "LOGIN")) == 1
    assert relay.count("refresh_token") == relay.count("refresh_token", 200)


def a_hundred_callers_with_an_expired_token_cause_one_refresh(desktop, keycloak, relay):
    """D3, Q7; section 10."""
    user = desktop.ready_account("work", client=realm.BRIEF_CLIENT)
    relay.hold("refresh_token")
    expires = desktop.account_property("work", "AccessExpires")
    until("the access token's end", lambda: time.time() > expires, 15, every=0.1)
    callers = [Connection(desktop.bus.address) for _ in range(100)]

    calls = [caller.send(NAME, ROOT, NAME, "GetToken", "s", "work") for caller in callers]
    for caller in callers:
        caller.call(NAME, ROOT, "org.freedesktop.DBus.Peer", "Ping")  # answered: the call before it has arrived too
    relay.wait_held()
    assert relay.count("refresh_token") == 0
    relay.release()
    answers = [caller.reply(call) for caller, call in zip(callers, calls, strict=True)]

    for caller in callers:
        caller.close()
    tokens = {answer[0] for answer in answers if isinstance(answer, tuple)}
    assert len(tokens) == 1 and all(isinstance(answer, tuple) for answer in answers), answers
    assert keycloak.introspect("app", tokens.pop())["active"]
    assert relay.count("refresh_token") == len(keycloak.events("app", user, "REFRESH_TOKEN")) == 1


def a_caller_is_served_from_memory_while_a_refresh_hangs(desktop, relay):
    """N7, N18: a token that is still good doesn't wait for the next one."""
    desktop.ready_account("work")
    before = desktop.token("work").access_token
    relay.hold("refresh_token")
    other = Connection(desktop.bus.address)
    call = other.send(NAME, ROOT, NAME, "GetTokenWithOptions", "sa{sv}", "work", {"force_refresh": ("b", True)})
    relay.wait_held()

    started = time.monotonic()
    assert desktop.token("work").access_token == before
    assert time.monotonic() - started < 1

    relay.release()
    assert other.reply(call)[0] not in ("", before)
    other.close()


def a_request_that_never_arrived_is_sent_again(desktop, keycloak, relay):
    """D8: the refresh token is unspent, and the session goes on."""
    user = desktop.ready_account("work")
    relay.drop("refresh_token", delivered=False)

    token = desktop.token("work", force_refresh=True).access_token
    until("a refresh at Keycloak", lambda: keycloak.events("app", user, "REFRESH_TOKEN"), 20)

    desktop.until_state("work", "ready")
    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]
    assert keycloak.introspect("app", token)["active"]


def an_answer_that_got_lost_ends_in_login_required_and_not_in_a_storm(desktop, keycloak, relay):
    """D8, D15, K10: Keycloak without a grace for the spent refresh token can't be talked round."""
    user = desktop.ready_account("work", client=realm.BRIEF_CLIENT)
    relay.drop("refresh_token", delivered=True)
    expires = desktop.account_property("work", "AccessExpires")
    until("the access token's end", lambda: time.time() > expires, 15, every=0.1)

    error = desktop.refused_token("work")

    assert error.word == "LoginRequired", error
    assert desktop.account_state("work") == "expired"
    assert relay.count("refresh_token") <= 3
    assert len(keycloak.events("app", user, "REFRESH_TOKEN")) == 1
    state, _ = desktop.log_in("work")
    assert state == "succeeded"
    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]


def accounts_on_two_realms_never_mix(desktop, keycloak):
    """A9, C13, R12: each token is of its own realm, client and user, before and after a restart."""
    desktop.ready_account("one", realm_name="app", client=realm.QUIET_CLIENT)
    desktop.ready_account("two", realm_name="short", client=realm.PUBLIC_CLIENT)

    for kill in (False, True):
        for name, realm_name, other in (("one", "app", "short"), ("two", "short", "app")):
            token = desktop.token(name)
            accepted = keycloak.introspect(realm_name, token.access_token)
            assert accepted["username"] == desktop.users[name], name
            assert not keycloak.introspect(other, token.access_token)["active"]
            assert token.details["account"] == ("s", name)
        desktop.restart_daemon(kill=kill)

    desktop.call("Logout", "s", "two")
    assert desktop.account_state("one") == "ready"
    assert keycloak.introspect("app", desktop.token("one").access_token)["active"]


def a_shell_gets_a_token_with_busctl_alone(desktop, keycloak):
    """Promise: any local program; the message alone says what to do."""
    desktop.add_account("work")
    desktop.start_daemon()
    desktop.set_secret("work")
    call = ("call", "org.bearerd.Broker1", "/org/bearerd/Broker1", "org.bearerd.Broker1", "GetToken", "s", "work")
    refused = desktop.busctl(*call)
    assert refused.returncode != 0
    assert refused.stderr.strip().endswith('LoginRequired: not logged in to "work"; run: bearerctl login work')
    desktop.log_in("work")

    answer = desktop.busctl(*call)

    assert answer.returncode == 0, answer.stderr
    token = answer.stdout.split('"')[1]
    assert keycloak.introspect("app", token)["active"]


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def a_daemon_that_was_away_too_long_says_so_and_asks_for_a_login(desktop, kill):
    """N12, N14: past the refresh token's life it tries once and reports `expired`."""
    desktop.ready_account("work", realm_name="short", client=realm.PUBLIC_CLIENT)
    ends = desktop.account_property("work", "SessionExpires")
    desktop.kill_daemon() if kill else desktop.stop_daemon()
    until("the session's end", lambda: time.time() > ends + 1, 40, every=0.2)

    desktop.start_daemon()

    assert desktop.refused_token("work").word == "LoginRequired"
    desktop.until_state("work", "expired")
    until("the session's item to be gone", lambda: desktop.keyring.schemas() == [], 10)
