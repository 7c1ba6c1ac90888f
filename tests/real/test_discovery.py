"""OpenID Connect on a real Keycloak: its metadata, its keys, its ID tokens."""

import pytest

import pages
import realm
from processes import until
from session import LOGIN


@pytest.mark.parametrize("client", [realm.QUIET_CLIENT, realm.PUBLIC_CLIENT], ids=["confidential", "public"])
def a_realm_is_found_by_its_issuer_and_says_who_logged_in(desktop, keycloak, client):
    """G1, G2, G8, H1-H8, C2, C3: the secret full of odd characters goes by client_secret_basic, the public client by PKCE."""
    user = desktop.add_discovered_account("work", client=client)
    desktop.start_daemon()
    if client != realm.PUBLIC_CLIENT:
        desktop.set_secret("work")

    state, page = desktop.log_in("work")

    assert state == "succeeded", page
    assert desktop.account_property("work", "Subject") == desktop.users["work"]
    assert desktop.account_property("work", "Issuer") == keycloak.realm_url("app")
    assert keycloak.introspect("app", desktop.token("work", force_refresh=True).access_token)["active"]
    desktop.restart_daemon(kill=True)
    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]
    assert desktop.ctl("logout", "work").returncode == 0
    assert keycloak.sessions("app", user) == []


def another_user_is_not_merged_into_the_account(desktop, keycloak):
    """H11."""
    desktop.add_discovered_account("work")
    desktop.start_daemon()
    desktop.set_secret("work")
    desktop.log_in("work")
    before = desktop.token("work").access_token
    stranger = keycloak.create_user("app", f"stranger-{desktop.folder.name}")
    attempt, url = desktop.start_login("work")

    name = f"stranger-{desktop.folder.name}"
    pages.login_through_pages(url, name, keycloak.password_of(name))

    assert desktop.wait_login(attempt) == "failed"
    message = desktop.connection.get("org.bearerd.Broker1", attempt, LOGIN, "ErrorMessage")
    assert name in message and desktop.users["work"] in message, message
    assert desktop.token("work").access_token == before
    until("the stranger's session to be given back", lambda: keycloak.sessions("app", stranger) == [], 10)


def an_address_from_another_machines_browser_is_pasted(desktop, keycloak):
    """A15."""
    desktop.add_discovered_account("work")
    desktop.start_daemon()
    desktop.set_secret("work")
    options = {"open_browser": ("b", False), "flow": ("s", "paste")}
    attempt, url = desktop.call("LoginWithOptions", "sa{sv}", "work", options)
    user = desktop.users["work"]
    address = pages.callback_of(url, user, keycloak.password_of(user))

    desktop.call("Complete", "s", address, path=attempt, interface=LOGIN)

    assert desktop.wait_login(attempt) == "succeeded"
    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]
