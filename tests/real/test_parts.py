"""The parts themselves, without the product: when one of these fails, look here before looking at bearerd."""

import base64
import hashlib
import http.server
import secrets
import subprocess
import threading
import time
import urllib.parse

import pytest
import requests

import booted
import leaks
import pages
import realm
from bus import BusError
from session import Session


class Client:
    """The least that a loopback client can be: a listener and a code exchange, as RFC 8252 has it."""

    def __init__(self, token_request, authorization_endpoint, client=realm.CONSENT_CLIENT):
        self._token_request = token_request
        self.tokens = self.error = None
        self._verifier = secrets.token_urlsafe(48)
        client_of = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
                if self.path.startswith("/callback"):
                    client_of._exchange(query)
                    self.send_response(303)
                    self.send_header("Location", "/done")
                    self.end_headers()
                else:
                    self.send_response(200 if self.path == "/done" else 404)
                    self.send_header("Content-Type", "text/html")
                    self.end_headers()
                    self.wfile.write(f"<title>{'in' if client_of.tokens else 'out'}</title>".encode())

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._redirect_uri = f"http://127.0.0.1:{self._server.server_port}/callback"
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self._verifier.encode()).digest()).rstrip(b"=").decode()
        self.url = f"{authorization_endpoint}?" + urllib.parse.urlencode(
            {
                "client_id": client,
                "redirect_uri": self._redirect_uri,
                "response_type": "code",
                "scope": "profile locks",
                "state": "the-state",
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )

    def _exchange(self, query):
        self.error = query.get("error")
        if code := query.get("code"):
            answer = self._token_request(
                grant_type="authorization_code",
                code=code,
                redirect_uri=self._redirect_uri,
                code_verifier=self._verifier,
            )
            assert answer.status_code == 200, answer.text
            self.tokens = answer.json()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def client(keycloak):
    client = Client(
        lambda **form: keycloak.token_request("app", realm.CONSENT_CLIENT, **form),
        keycloak.authorization_endpoint("app"),
    )
    yield client
    client.close()


def keycloak_logs_in_through_its_pages_and_rotates_refresh_tokens(keycloak, client):
    """T0: lifetimes of the seed, no ID token without openid, replay of a spent refresh token ends the session."""
    user = keycloak.create_user("app", "parts-pages")

    page = pages.login_through_pages(client.url, "parts-pages", keycloak.password_of("parts-pages"))

    assert (page.status, "in" in page.html) == (200, True)
    # A second may be gone: Keycloak counts from the session's start in whole seconds.
    assert client.tokens["expires_in"] in (299, 300) and client.tokens["refresh_expires_in"] in (1799, 1800)
    assert "id_token" not in client.tokens
    assert keycloak.introspect("app", client.tokens["access_token"])["username"] == "parts-pages"
    first = client.tokens["refresh_token"]
    second = _refresh(keycloak, first).json()["refresh_token"]
    assert len(keycloak.events("app", user, "REFRESH_TOKEN")) == 1
    assert _refresh(keycloak, first).json()["error"] == "invalid_grant"
    assert _refresh(keycloak, second).json()["error"] == "invalid_grant"


def keycloak_reports_a_refusal_at_its_consent_page(keycloak, client):
    """K4."""
    keycloak.create_user("app", "parts-no")

    pages.login_through_pages(client.url, "parts-no", keycloak.password_of("parts-no"), consent=False)

    assert (client.error, client.tokens) == ("access_denied", None)


def keycloak_keeps_its_sessions_through_a_restart(keycloak, client):
    user = keycloak.create_user("app", "parts-restart")
    pages.login_through_pages(client.url, "parts-restart", keycloak.password_of("parts-restart"))

    keycloak.stop()
    keycloak.start()

    assert keycloak.introspect("app", client.tokens["access_token"])["active"]
    assert _refresh(keycloak, client.tokens["refresh_token"]).status_code == 200
    assert len(keycloak.sessions("app", user)) == 1


def chromium_logs_in_at_keycloak(keycloak, client, chromium, tmp_path):
    keycloak.create_user("app", "parts-chromium")

    title, url, _ = chromium.log_in(client.url, "parts-chromium", keycloak.password_of("parts-chromium"))

    assert (title, url.partition("?")[0].rpartition("/")[2]) == ("in", "done")
    assert client.tokens["access_token"]
    assert (tmp_path / "consent.png").stat().st_size > 1000


def the_relay_counts_holds_and_drops(keycloak, relay):
    """Its issuer is Keycloak's, and what it saw is searched for in logs."""
    user = keycloak.create_user("app", "parts-relay")
    client = Client(
        lambda **form: _through(relay, **form), keycloak.authorization_endpoint("app"), client=realm.QUIET_CLIENT
    )
    pages.login_through_pages(client.url, "parts-relay", keycloak.password_of("parts-relay"))
    client.close()
    assert relay.count("authorization_code", 200) == 1
    assert {client.tokens["access_token"], client.tokens["refresh_token"], realm.SECRET} <= relay.secrets()
    assert keycloak.introspect("app", client.tokens["access_token"])["active"]

    relay.hold("refresh_token")
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(
            _through(relay, grant_type="refresh_token", refresh_token=client.tokens["refresh_token"])
        )
    )
    thread.start()
    relay.wait_held()
    assert keycloak.events("app", user, "REFRESH_TOKEN") == []
    relay.release()
    thread.join(20)
    assert answers[0].status_code == 200

    relay.drop("refresh_token")
    with pytest.raises(requests.ConnectionError):
        _through(relay, grant_type="refresh_token", refresh_token=answers[0].json()["refresh_token"])
    assert len(keycloak.events("app", user, "REFRESH_TOKEN")) == 2


def a_refresh_token_of_the_short_realm_is_dead_after_its_life(keycloak):
    """What a daemon that slept too long meets; its own renewal must come before."""
    keycloak.create_user("short", "parts-short")
    client = Client(
        lambda **form: keycloak.token_request("short", **form),
        keycloak.authorization_endpoint("short"),
        realm.QUIET_CLIENT,
    )
    pages.login_through_pages(client.url, "parts-short", keycloak.password_of("parts-short"))
    client.close()
    life = client.tokens["refresh_expires_in"]
    assert client.tokens["expires_in"] in (7, 8) and life in (19, 20)

    time.sleep(life + 1)  # the life itself: nothing announces its end

    answer = keycloak.token_request("short", grant_type="refresh_token", refresh_token=client.tokens["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


def the_keyring_locks_unlocks_and_comes_back(tmp_path_factory, keycloak):
    session = Session(tmp_path_factory.mktemp("s"), None, keycloak)
    try:
        assert session.connection.owner("org.freedesktop.secrets") is None
        session.keyring.start()
        store = ["secret-tool", "store", "--label=x", "account", "work"]
        subprocess.run(store, input=b"hush", env=session.env, timeout=10, check=True)
        assert [secret for _, secret in session.keyring.items()] == [b"hush"]

        session.keyring.lock()
        assert [secret for _, secret in session.keyring.items()] == [None]
        session.keyring.unlock()
        assert [secret for _, secret in session.keyring.items()] == [b"hush"]

        session.keyring.kill()
        session.keyring.start(unlocked=False)
        assert session.keyring.locked()
        session.keyring.unlock()
        assert [secret for _, secret in session.keyring.items()] == [b"hush"]
    finally:
        session.close()


def the_private_bus_activates_nothing_by_itself(tmp_path_factory, keycloak):
    session = Session(tmp_path_factory.mktemp("s"), None, keycloak)
    try:
        with pytest.raises(BusError) as error:
            session.token("work")
        assert error.value.word == "ServiceUnknown"
        assert "org.freedesktop.DBus" in session.busctl("list", "--no-pager").stdout
    finally:
        session.close()


def the_search_for_leaks_finds_every_form():
    token = "aaaa.bbbbbbbbbbbbbbbbbbbbbbbb.cccccccccccccccccccccccc"
    hidden = [
        b"x" + token.encode(),
        b"sig=" + token.rpartition(".")[2].encode(),
        base64.b64encode(b"basic id:" + token.encode()),
        urllib.parse.quote_plus(realm.SECRET).encode(),
    ]
    for text in hidden:
        with pytest.raises(AssertionError):
            leaks.assert_none_in(text, {token, realm.SECRET}, "here")
    leaks.assert_none_in(b"nothing of the kind", {token, realm.SECRET}, "here")


def a_debian_boots_with_a_user_bus_and_an_unlocked_keyring(prepared, tmp_path):
    machine = booted.Booted(prepared["BEARERD_ROOT_TAR"], tmp_path)
    try:
        machine.keyring_unlocked_by_a_script()
        machine.boot()
        machine.start_keyring()

        machine.run("secret-tool", "store", "--label=x", "a", "b", stdin="hush", check=True)

        assert machine.run("secret-tool", "lookup", "a", "b").stdout == "hush"
        assert machine.run("id", "-un").stdout.strip() == "carol"
        assert machine.show("dbus.service", "ActiveState") == "active"
        machine.run("systemd-cat", "-t", "hello", "echo", "a line", check=True)
        assert machine.journal("-t", "hello")[0]["MESSAGE"] == "a line"
    finally:
        machine.stop()


def a_debian_that_does_not_power_off_is_ended_by_its_process_id(prepared, tmp_path):
    machine = booted.Booted(prepared["BEARERD_ROOT_TAR"], tmp_path)
    try:
        machine.boot()
    finally:
        machine.stop(orderly=False)


def _refresh(keycloak, refresh_token):
    return keycloak.token_request("app", realm.CONSENT_CLIENT, grant_type="refresh_token", refresh_token=refresh_token)


def _through(relay, **form):
    credentials = {"client_id": realm.QUIET_CLIENT, "client_secret": realm.SECRET}
    return requests.post(relay.token_endpoint("app"), data=credentials | form, timeout=30)
