"""A real Keycloak on a loopback port, with the seed's paths, and what a test asks of it as an administrator."""

import json
import os
import pathlib
import subprocess
import time

import requests

import realm
from processes import Process, free_port

ADMIN = "admin"
ADMIN_PASSWORD = "admin"


class Keycloak:
    """One server with a data folder of its own; it can be stopped and started again with both kept."""

    def __init__(self, built, folder):
        self.home = pathlib.Path(folder) / "keycloak"
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}/auth"
        self.process = None
        self._log = pathlib.Path(folder) / "keycloak.log"
        self._admin_token = ("", 0.0)
        self._http = requests.Session()
        subprocess.run(["cp", "-a", "--reflink=auto", built, self.home], check=True, timeout=60)
        imports = self.home / "data" / "import"
        imports.mkdir(parents=True)
        for definition in (realm.app(), realm.short(), realm.ending(), realm.lenient()):
            (imports / f"{definition['realm']}-realm.json").write_text(json.dumps(definition))

    def start(self):
        """Starts the server and waits until it answers."""
        argv = [
            self.home / "bin" / "kc.sh",
            "start",
            "--optimized",
            "--import-realm",  # realms that are there already are left alone
            "--http-enabled=true",
            "--hostname-strict=false",
            "--http-host=127.0.0.1",
            f"--http-port={self.port}",
            "--cache=local",
        ]
        env = os.environ | {
            "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
            "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN_PASSWORD,
        }
        # TERM, for kc.sh is a shell that hands it on to its Java.
        self.process = Process(argv, log=self._log, env=env, parent_death="TERM")
        self.process.ready("Keycloak's answer", self._answers, 180)

    def _answers(self):
        try:
            return requests.get(f"{self.base}/realms/app", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def stop(self):
        """Stops the server; sessions and settings are in its database."""
        if self.process:
            self.process.stop(60)
            self.process = None

    # --- addresses

    def realm_url(self, name):
        return f"{self.base}/realms/{name}"

    def authorization_endpoint(self, name):
        return f"{self.realm_url(name)}/protocol/openid-connect/auth"

    def token_endpoint(self, name):
        return f"{self.realm_url(name)}/protocol/openid-connect/token"

    # --- as a client

    def token_request(self, realm_name, client=realm.QUIET_CLIENT, secret=realm.SECRET, **form):
        """Posts to the token endpoint and returns the response."""
        credentials = {"client_id": client} | ({"client_secret": secret} if secret else {})
        return self._http.post(self.token_endpoint(realm_name), data=credentials | form, timeout=20)

    def introspect(self, realm_name, access_token):
        """What an API that was handed this access token learns about it; a dead one is `{"active": False}`."""
        answer = self._http.post(
            f"{self.token_endpoint(realm_name)}/introspect",
            data={"client_id": realm.INTROSPECTOR, "client_secret": realm.SECRET, "token": access_token},
            timeout=20,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    # --- as the administrator

    def admin(self, method, path, **request):
        """One call of the admin API below /auth/admin/realms; returns the decoded answer or None."""
        token, fetched = self._admin_token
        if time.monotonic() - fetched > 40:  # these tokens live for a minute
            answer = self._http.post(
                self.token_endpoint("master"),
                data={
                    "grant_type": "password",
                    "client_id": "admin-cli",
                    "username": ADMIN,
                    "password": ADMIN_PASSWORD,
                },
                timeout=20,
            )
            assert answer.status_code == 200, answer.text
            token = answer.json()["access_token"]
            self._admin_token = (token, time.monotonic())
        answer = self._http.request(
            method,
            f"{self.base}/admin/realms/{path}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=20,
            **request,
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    @staticmethod
    def password_of(user):
        return f"pw-{user}"

    def create_user(self, realm_name, name):
        """A user whose password follows from the name; a test that has its own counts only its own events."""
        named = {"username": name, "exact": "true"}
        if there := self.admin("GET", f"{realm_name}/users", params=named):
            return there[0]["id"]
        user = {
            "username": name,
            "enabled": True,
            "email": f"{name}@example.org",
            "emailVerified": True,
            "firstName": name.capitalize(),
            "lastName": "Tester",
            "credentials": [{"type": "password", "value": self.password_of(name), "temporary": False}],
        }
        self.admin("POST", f"{realm_name}/users", json=user)
        return self.admin("GET", f"{realm_name}/users", params=named)[0]["id"]

    def events(self, realm_name, user_id, kind):
        """The stored events of one user and kind (realm.py lists the kinds).

        Refused token requests often carry no user: count those at the relay.
        """
        return self.admin("GET", f"{realm_name}/events", params={"user": user_id, "type": kind, "max": 500})

    def sessions(self, realm_name, user_id):
        """The user's live sessions."""
        return self.admin("GET", f"{realm_name}/users/{user_id}/sessions")

    def end_sessions(self, realm_name, user_id):
        """Ends the user's sessions, as an administrator or the account page does."""
        self.admin("POST", f"{realm_name}/users/{user_id}/logout")

    def set_secret(self, realm_name, client_id, secret):
        """Gives a client another secret."""
        client = self.admin("GET", f"{realm_name}/clients", params={"clientId": client_id})[0]
        self.admin("PUT", f"{realm_name}/clients/{client['id']}", json=client | {"secret": secret})

    def create_signing_client(self, realm_name, client_id, certificate, algorithm):
        """A client that proves itself with the key of this certificate (RFC 7523)."""
        attributes = {"jwt.credential.certificate": certificate, "token.endpoint.auth.signing.alg": algorithm}
        client = realm.signing_client(client_id, attributes)
        self.admin("POST", f"{realm_name}/clients", json=client)
