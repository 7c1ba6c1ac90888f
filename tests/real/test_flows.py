"""Other ways to log in, on a real Keycloak: pushed requests, a code for another device, and a key instead of a secret."""

import re
import subprocess

import pytest
import requests

import pages
import realm
from browser import Chromium
from session import LOGIN

CODE = re.compile(r"open on any device:\n  (\S+)\nand enter the code:\n  (\S+)\n")


def a_realm_that_takes_only_pushed_requests_is_logged_in_to(desktop, keycloak):
    """G10, A14: the browser carries the client and a reference; Keycloak refuses this client's unpushed requests."""
    desktop.add_discovered_account("work", client=realm.PUSHING_CLIENT)
    desktop.start_daemon()
    desktop.set_secret("work")
    attempt, url = desktop.start_login("work")
    assert sorted(re.findall(r"[?&](\w+)=", url)) == ["client_id", "request_uri"]
    user = desktop.users["work"]

    page = pages.login_through_pages(url, user, keycloak.password_of(user))

    assert desktop.wait_login(attempt) == "succeeded", page
    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]


def a_client_that_must_push_is_refused_when_pushing_is_switched_off(desktop, keycloak):
    """G10: what the switch costs, in Keycloak's own words."""
    desktop.add_discovered_account("work", client=realm.PUSHING_CLIENT, par=False)
    desktop.start_daemon()
    desktop.set_secret("work")
    attempt, url = desktop.start_login("work")
    assert "request_uri" not in url

    requests.get(url, timeout=40)  # redirects to the listener at once

    assert desktop.wait_login(attempt) == "failed"
    message = desktop.connection.get("org.bearerd.Broker1", attempt, LOGIN, "ErrorMessage")
    assert "Pushed Authorization Request" in message, message


def a_code_is_entered_in_a_browser_elsewhere(desktop, keycloak, tmp_path):
    """I1-I4, I8: `bearerctl login --device`, and a Chromium that knows the address and the code alone."""
    desktop.add_discovered_account("work", client=realm.DEVICE_CLIENT)
    desktop.start_daemon()
    desktop.set_secret("work")
    user = desktop.users["work"]
    login = desktop.start_ctl("login", "work", "--device")
    shown = login.ready("the code", lambda: CODE.search(login.output()), 20)
    page, code = shown.groups()

    with Chromium(tmp_path) as browser:
        text = browser.enter_code(page, code, user, keycloak.password_of(user))

    assert "Device Login Successful" in text, text
    assert login.wait(30) == 0, login.output()
    assert f"logged in to \"work\" as {user}" in login.output()
    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]


def a_code_that_the_user_refuses_is_told_apart(desktop, keycloak, tmp_path):
    """I4: Keycloak's access_denied."""
    desktop.add_discovered_account("work", client=realm.DEVICE_CLIENT)
    desktop.start_daemon()
    desktop.set_secret("work")
    user = desktop.users["work"]
    options = {"open_browser": ("b", False), "flow": ("s", "device")}
    attempt, _ = desktop.call("LoginWithOptions", "sa{sv}", "work", options)
    shown = ("VerificationUri", "UserCode")
    page, code = (desktop.connection.get("org.bearerd.Broker1", attempt, LOGIN, name) for name in shown)

    with Chromium(tmp_path) as browser:
        browser.enter_code(page, code, user, keycloak.password_of(user), consent=False)

    assert desktop.wait_login(attempt) == "denied"


def a_login_page_that_was_left_open_leads_to_a_fresh_login(desktop, keycloak):
    """K5: logged in meanwhile in another tab, and the first tab's page is over."""
    desktop.add_discovered_account("work")
    desktop.start_daemon()
    desktop.set_secret("work")
    user = desktop.users["work"]
    password = keycloak.password_of(user)
    attempt, url = desktop.start_login("work")
    browser = pages.Browser()
    left_open = browser.open(url)
    elsewhere = f"{keycloak.authorization_endpoint('app')}?client_id={realm.QUIET_CLIENT}&response_type=code" + (
        f"&redirect_uri=http://127.0.0.1:9/&code_challenge_method=S256&code_challenge={'x' * 43}"
    )
    assert "code=" in browser.through_the_pages(elsewhere, user, password, consent=True)
    browser.forget("AUTH_SESSION_ID", "KC_RESTART")

    expired = browser.submit(left_open, {"username": user, "password": password})
    assert "authentication_expired" in expired, expired
    callback = browser.through_the_pages(browser.next_of(expired), user, password, consent=True)
    browser.get_callback(callback)

    assert desktop.wait_login(attempt) == "succeeded"
    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def a_client_with_a_key_signs_instead_of_sending_a_secret(desktop, keycloak, tmp_path, kind):
    """C4: Keycloak knows the certificate alone; login, renewal and logout are signed."""
    client = f"signing-{kind}"
    certificate = _write_key(tmp_path, kind)
    keycloak.create_signing_client("app", client, certificate, "ES256" if kind == "ec" else "RS256")
    key = {"client_auth": "private_key_jwt", "client_key_file": str(tmp_path / "key.pem")}
    user_id = desktop.add_discovered_account("work", client=client, **key)
    desktop.start_daemon()
    attempt, url = desktop.start_login("work")
    user = desktop.users["work"]

    page = pages.login_through_pages(url, user, keycloak.password_of(user))

    assert desktop.wait_login(attempt) == "succeeded", page
    first = desktop.token("work").access_token
    renewed = desktop.token("work", force_refresh=True).access_token
    assert renewed != first and keycloak.introspect("app", renewed)["active"]
    assert desktop.call("Logout", "s", "work") == (True,)
    assert keycloak.sessions("app", user_id) == []


def _write_key(folder, kind):
    """A private key in key.pem; returns its certificate, without the lines around it."""
    new = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["rsa:2048"]}[kind]
    argv = ["openssl", "req", "-x509", "-nodes", "-subj", "/CN=desk", "-days", "2", "-newkey", *new]
    paths = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run([*argv, *paths], check=True, timeout=60, capture_output=True)
    (folder / "key.pem").chmod(0o600)
    return "".join((folder / "cert.pem").read_text().splitlines()[1:-1])
