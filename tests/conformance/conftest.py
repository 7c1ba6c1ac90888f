"""Each provider once for the whole run, and a session of its own for each test."""

import json
import os
import pathlib

import pytest
import requests

import servers
from session import Session, closing

PROJECT = pathlib.Path(__file__).resolve().parents[2]


class Desk(Session):
    """A desktop session whose account `work` is at one of the providers, found by its issuer."""

    def __init__(self, folder, binaries, server):
        super().__init__(folder, binaries, server, None)
        self.server = server
        self.audience_is_endpoint = getattr(server, "audience_is_endpoint", False)
        self.empty_refusals = getattr(server, "empty_refusals", False)
        self.user = f"robin-{folder.name}".lower()
        server.add_user(self.user)

    def configure(self, auth="basic", client=None, **settings):
        self._accounts["work"] = {
            "issuer": self.server.issuer,
            "client_id": self.server.clients[client or auth],
            "client_auth": "basic-raw" if auth == "basic" and getattr(self.server, "raw_basic", False) else auth,
            "scopes": ["openid", "profile"],
        } | ({"redirect_uri": self.server.redirect_uri} if self.server.redirect_uri else {}) | settings
        self._accounts["work"] = {key: value for key, value in self._accounts["work"].items() if value is not None}
        if auth == "private_key_jwt":
            self._accounts["work"]["client_key_file"] = str(self.server.key_file)
        self.write_config()
        self.start_daemon()
        if auth not in ("none", "private_key_jwt"):
            self.set_secret("work", self.server.secret)

    def callback(self, consent=True):
        """A login up to the address that the provider sends the browser to: (attempt, address)."""
        attempt, url = self.start_login("work")
        return attempt, self.server.callback_of(url, self.user, consent)

    def log_in(self):
        attempt, callback = self.callback()
        page = requests.get(callback, timeout=20)
        state = self.wait_login(attempt)
        assert state == "succeeded", page.text
        return page

    def metadata(self):
        return requests.get(f"{self.server.issuer}/.well-known/openid-configuration", timeout=20).json()

    def accepted(self, access_token):
        """Whether the provider itself takes this access token."""
        headers = {"Authorization": f"Bearer {access_token}"}
        return requests.get(self.metadata()["userinfo_endpoint"], headers=headers, timeout=20).status_code == 200

    def accepted_with_proof(self):
        """The same of a token that is bound to a key; a nonce that is wanted is brought once."""
        userinfo = self.metadata()["userinfo_endpoint"]
        nonce = ()
        for _ in range(2):
            done = self.ctl("token", "work", "--format", "dpop", "GET", userinfo, *nonce)
            assert done.returncode == 0, done.stderr
            headers = dict(line.split(": ", 1) for line in done.stdout.splitlines())
            answer = requests.get(userinfo, headers=headers, timeout=20)
            if "use_dpop_nonce" not in answer.headers.get("WWW-Authenticate", ""):
                break
            nonce = ("--nonce", answer.headers["DPoP-Nonce"])
        return answer.status_code == 200

    def refresh_token(self):
        """The stored one."""
        for attributes, secret in self.keyring.items():
            if attributes["xdg:schema"] == "org.bearerd.Session":
                return json.loads(secret)["refresh_token"]
        raise AssertionError("no session is stored")

    def token_request(self, **form):
        """As another program that has stolen a refresh token and the client's secret."""
        secret = {"client_id": self.server.clients["post"], "client_secret": self.server.secret}
        return requests.post(self.metadata()["token_endpoint"], data=secret | form, timeout=20)


@pytest.fixture(scope="session", params=servers.ALL, ids=lambda kind: kind.name.split()[0])
def server(request, tmp_path_factory):
    server = request.param(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def desk(tmp_path_factory, server):
    binaries = pathlib.Path(os.environ.get("BEARERD_BIN_DIR") or PROJECT / "target" / "release")
    desk = Desk(tmp_path_factory.mktemp("s"), binaries, server)
    desk.keyring.start()
    yield from closing(desk)
