"""Logging in and out through Keycloak's real pages."""

import json
import time

import pytest
import requests

import pages
import realm
from processes import until


def a_login_with_consent_gives_a_token_that_keycloak_accepts(desktop, keycloak, relay):
    """A1, A2, A10, B4, B13, B15, B17, P1, P2, P3, T0; promise 3."""
    user = desktop.add_account("work", client=realm.CONSENT_CLIENT)
    desktop.start_daemon()
    assert desktop.refused_token("work").word == "NotConfigured"  # a confidential client without its secret
    desktop.set_secret("work")
    error = desktop.refused_token("work")
    assert error.word == "LoginRequired"
    assert error.message.startswith("LoginRequired: ") and error.message.endswith("run: bearerctl login work")

    state, page = desktop.log_in("work")

    assert state == "succeeded", page
    assert page.status == 200 and "?" not in page.url
    token = desktop.token("work")
    accepted = keycloak.introspect("app", token.access_token)
    assert accepted["active"] and accepted["username"] == desktop.users["work"]
    assert set(accepted["scope"].split()) == {"profile", "locks"}
    assert token.expires_at == pytest.approx(accepted["exp"], abs=3)
    assert token.details["token_type"] == ("s", "Bearer") and token.details["source"] == ("s", "oauth")
    assert desktop.account_property("work", "SessionExpires") == pytest.approx(time.time() + 1800, abs=30)
    with pytest.raises(requests.ConnectionError):
        requests.get(page.callback, timeout=5)  # the port is closed, so a reload can't spend the code again
    assert relay.count("authorization_code") == len(keycloak.events("app", user, "CODE_TO_TOKEN")) == 1
    assert relay.count("refresh_token") == 0


def the_keyring_items_say_no_more_than_they_must(desktop):
    """P2, P3, P4: three attributes, one line, and after many rotations still one item."""
    desktop.ready_account("work")
    for _ in range(3):
        desktop.call("Refresh", path="/org/bearerd/Broker1/account/work", interface="org.bearerd.Broker1.Account")
    desktop.until_state("work", "ready")

    items = {attributes["xdg:schema"]: (attributes, secret) for attributes, secret in desktop.keyring.items()}

    assert set(items) == {"org.bearerd.Session", "org.bearerd.ClientSecret"}
    assert len(desktop.keyring.items()) == 2
    for attributes, secret in items.values():
        assert set(attributes) == {"xdg:schema", "account", "version"}
        assert attributes["account"] == "work"
        assert b"\n" not in secret and b"\r" not in secret
        json.loads(secret)


def bearerctl_login_prints_the_url_waits_and_names_the_user(desktop, keycloak):
    """Design section 4: the URL on stderr, exit 0, and the second time nothing to do."""
    desktop.add_account("work", client=realm.CONSENT_CLIENT)
    desktop.start_daemon()
    desktop.set_secret("work")
    command = desktop.start_ctl("login", "work", "--no-browser")
    url = command.ready("the login URL", lambda: _url_in(command.output()), 20)
    user = desktop.users["work"]

    pages.login_through_pages(url, user, keycloak.password_of(user))

    assert command.wait() == 0, command.output()
    assert "logged in" in command.output()
    again = desktop.ctl("login", "work", "--no-browser")
    assert again.returncode == 0 and "already logged in" in again.stderr
    token = desktop.ctl("token", "work")
    assert token.returncode == 0 and keycloak.introspect("app", token.stdout.strip())["active"]


def a_refused_consent_is_a_denied_login(desktop, keycloak, relay):
    """K4, B6: no token request, no retry, and the command says what happened."""
    desktop.add_account("work", client=realm.CONSENT_CLIENT)
    desktop.start_daemon()
    desktop.set_secret("work")
    command = desktop.start_ctl("login", "work", "--no-browser")
    url = command.ready("the login URL", lambda: _url_in(command.output()), 20)
    user = desktop.users["work"]

    page = pages.login_through_pages(url, user, keycloak.password_of(user), consent=False)

    assert command.wait() == 1, command.output()
    assert "denied" in command.output()
    assert "logged in" not in page.html.lower() or "not logged in" in page.html.lower()
    state, _ = desktop.log_in("work", consent=False)
    assert state == "denied"
    assert relay.count("authorization_code") == 0
    assert desktop.refused_token("work").word == "LoginRequired"


def a_failed_second_login_never_harms_the_session(desktop, keycloak):
    """Design section 3: the old session serves until the new one succeeds."""
    desktop.ready_account("work", client=realm.CONSENT_CLIENT)
    before = desktop.token("work").access_token
    attempt, url = desktop.start_login("work")

    # Keycloak remembers the consent and would not ask again, so the answer is given in its place.
    callback = url.partition("redirect_uri=")[2].partition("&")[0]
    state = url.partition("state=")[2].partition("&")[0]
    requests.get(f"{requests.utils.unquote(callback)}?error=access_denied&state={state}", timeout=20)

    assert desktop.wait_login(attempt) == "denied"
    assert desktop.account_state("work") == "ready"
    assert desktop.token("work").access_token == before
    assert keycloak.introspect("app", before)["active"]


def a_logout_ends_the_session_at_keycloak_and_keeps_the_client_secret(desktop, keycloak, relay):
    """F1, F2, F4, F6; design section 6 (Store)."""
    user = desktop.ready_account("work")
    access_token = desktop.token("work").access_token
    refresh_token = relay.issued("refresh_token")
    assert len(keycloak.sessions("app", user)) == 1

    done = desktop.ctl("logout", "work")

    assert done.returncode == 0, done.stderr
    assert keycloak.sessions("app", user) == []
    assert not keycloak.introspect("app", access_token)["active"]
    spent = keycloak.token_request("app", grant_type="refresh_token", refresh_token=refresh_token)
    assert spent.json()["error"] == "invalid_grant"
    assert [attributes["xdg:schema"] for attributes, _ in desktop.keyring.items()] == ["org.bearerd.ClientSecret"]
    assert desktop.account_state("work") == "logged-out"
    assert desktop.refused_token("work").word == "LoginRequired"
    assert desktop.ctl("token", "work").returncode == 3
    state, _ = desktop.log_in("work")
    assert state == "succeeded"


def a_logout_without_the_provider_removes_the_local_session_all_the_same(desktop, relay):
    """F1: the answer says that the provider was not told."""
    desktop.ready_account("work")
    relay.close()

    (ended_at_provider,) = desktop.call("Logout", "s", "work")

    assert ended_at_provider is False
    assert [attributes["xdg:schema"] for attributes, _ in desktop.keyring.items()] == ["org.bearerd.ClientSecret"]


def a_public_client_logs_in_without_a_secret(desktop, keycloak):
    """A2, C2: client_auth none, PKCE alone."""
    desktop.ready_account("native", client=realm.PUBLIC_CLIENT)

    assert keycloak.introspect("app", desktop.token("native").access_token)["client_id"] == realm.PUBLIC_CLIENT
    assert [attributes["xdg:schema"] for attributes, _ in desktop.keyring.items()] == ["org.bearerd.Session"]


def a_login_that_nobody_finishes_can_be_cancelled(desktop):
    """B4: the port is closed with it."""
    desktop.add_account("work")
    desktop.start_daemon()
    desktop.set_secret("work")
    attempt, url = desktop.start_login("work")
    callback = requests.utils.unquote(url.partition("redirect_uri=")[2].partition("&")[0])
    assert requests.get(callback, timeout=5).status_code == 400  # no state: a stray request, the login goes on

    desktop.call("Cancel", path=attempt, interface="org.bearerd.Broker1.Login")

    assert desktop.wait_login(attempt) == "cancelled"
    until("the port to be closed", lambda: _refused(callback), 5)


def _refused(url):
    try:
        requests.get(url, timeout=5)
    except requests.ConnectionError:
        return True
    return False


def _url_in(text):
    """The first complete line of a command's output that is a URL."""
    for line in text.splitlines(keepends=True):
        for word in line.split():
            if word.startswith("http://") and line.endswith("\n"):
                return word
    return None
