"""Three independent providers behind one face: clients by their way to authenticate, users, and logins as a person does them."""

import gzip
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import urllib.parse

import keycloak
import pages
import realm
import requests
from processes import Process, free_port, required

SECRET = "s3cret+with%odd:signs"  # form-encoded in places: an encoding slip shows


class Keycloak:
    name = "Keycloak 26.7"
    secret = realm.SECRET
    clients = {
        "basic": realm.QUIET_CLIENT,
        "post": realm.QUIET_CLIENT,
        "none": realm.PUBLIC_CLIENT,
        "consent": realm.CONSENT_CLIENT,
        "device": realm.DEVICE_CLIENT,
        "bound": realm.BOUND_CLIENT,
        "private_key_jwt": "signing",
    }
    redirect_uri = None

    def __init__(self, folder):
        self._server = keycloak.Keycloak(pathlib.Path(os.environ["BEARERD_KEYCLOAK"]), folder)
        self._server.start()
        self.issuer = self._server.realm_url("app")
        self.key_file, certificate = _write_key(folder)
        self._server.create_signing_client("app", "signing", "".join(certificate.read_text().splitlines()[1:-1]), "ES256")

    def add_user(self, name):
        self._server.create_user("app", name)

    def callback_of(self, url, user, consent=True):
        return pages.callback_of(url, user, self._server.password_of(user), consent)

    def answer_device(self, url, user):
        pages.answer_device(url, user, self._server.password_of(user))

    def stop(self):
        self._server.stop()
        shutil.rmtree(self._server.home, ignore_errors=True)


class OidcProvider:
    name = "oidc-provider 9.13"
    secret = SECRET
    clients = {
        "basic": "basic",
        "post": "post",
        "none": "none",
        "consent": "basic",
        "device": "basic",
        "bound": "basic",
        "private_key_jwt": "signing",
    }
    resource = "https://api.example/"
    redirect_uri = None

    def __init__(self, folder):
        port = free_port()
        self.issuer = f"http://127.0.0.1:{port}"
        here = pathlib.Path(__file__).parent / "provider.mjs"
        script = pathlib.Path(os.environ["BEARERD_OIDC_PROVIDER"]) / "provider.mjs"
        shutil.copy(here, script)  # packages are looked for beside the script
        self.key_file, certificate = _write_key(folder)
        argv = [required("node"), script, str(port), SECRET, certificate]
        self._process = Process(argv, log=pathlib.Path(folder) / "node.log")
        self._process.ready("its metadata", lambda: _answers(self.issuer), 30)

    def add_user(self, name):
        """Every name is one already."""

    def callback_of(self, url, user, consent=True):
        return self._through_the_pages(url, user, consent)

    def answer_device(self, url, user):
        self._through_the_pages(url, user, end="Sign-in Success")

    def _through_the_pages(self, url, user, consent=True, end=None):
        """To the first address outside, or to the page with these words."""
        http = requests.Session()
        answer = http.get(url, allow_redirects=False, timeout=20)
        for _ in range(12):
            if answer.is_redirect:
                target = urllib.parse.urljoin(answer.url, answer.headers["Location"])
                if not target.startswith(self.issuer):
                    return target
                answer = http.get(target, allow_redirects=False, timeout=20)
            elif end and end in answer.text:
                return answer.url
            elif "/interaction/" not in answer.url:  # the user code, and whether it is the right one
                form = pages.Form(answer.text)
                answer = http.post(form.action, data=form.hidden, allow_redirects=False, timeout=20)
            elif 'name="password"' in answer.text:
                form = {"prompt": "login", "login": user, "password": "any"}
                answer = http.post(answer.url, data=form, allow_redirects=False, timeout=20)
            elif consent:
                answer = http.post(answer.url, data={"prompt": "consent"}, allow_redirects=False, timeout=20)
            else:
                answer = http.get(f"{answer.url}/abort", allow_redirects=False, timeout=20)
        raise AssertionError(f"no end of pages: {answer.url} {answer.text[:500]}")

    def stop(self):
        self._process.stop()


class Glewlwyd:
    name = "glewlwyd 2.7"
    secret = "s3cret with+odd%signs"
    raw_basic = True  # it does not form-decode what is in the header (RFC 6749 section 2.3.1)
    clients = {"basic": "basic", "post": "post", "none": "none", "device": "basic", "bound": "basic", "private_key_jwt": "signing"}
    audience_is_endpoint = True  # of a client's assertion
    empty_refusals = True  # 400 without an error code for wrong secrets and spent tokens (RFC 6749 section 5.2 wants one)

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        port, back = free_port(), free_port()
        self._api = f"http://127.0.0.1:{port}/api"
        self.issuer = f"{self._api}/oidc"
        self.redirect_uri = f"http://127.0.0.1:{back}/callback"  # compared letter by letter
        sql = gzip.open("/usr/share/doc/glewlwyd/database/init.sqlite3.sql.gz", "rt").read()
        with sqlite3.connect(folder / "db") as database:
            database.executescript(sql)
        settings = {
            "port": port,
            "bind_address": "127.0.0.1",
            "external_url": f"http://127.0.0.1:{port}/",
            "login_url": "login.html",
            "api_prefix": "api",
            "cookie_secure": 0,
            "log_mode": "console",
            "log_level": "INFO",
            "static_files_path": "/usr/share/glewlwyd/webapp",
            "hash_algorithm": "SHA512",
        } | {
            f"{kind}_module_path": f"/usr/lib/glewlwyd/{place}"
            for kind, place in (("user", "user"), ("client", "client"), ("user_auth_scheme", "scheme"), ("plugin", "plugin"))
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        lines.append(f'database = {{ type = "sqlite3"; path = "{folder / "db"}"; }};')
        (folder / "glewlwyd.conf").write_text("\n".join(lines))
        self.key_file, self._certificate = _write_key(folder)
        self._process = Process(["/usr/bin/glewlwyd", f"--config-file={folder / 'glewlwyd.conf'}"], log=folder / "glewlwyd.log")
        self._process.ready("an answer", lambda: _answers(self._api, ""), 30)
        self._admin = self._session("admin", "password")
        self._configure(folder)

    def _configure(self, folder):
        key = folder / "key.pem"
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True, timeout=20)
        public = subprocess.run(["openssl", "ec", "-in", key, "-pubout"], check=True, timeout=20, capture_output=True, text=True)
        flows = ("code", "refresh", "device")
        others = ("token", "id-token", "none", "password", "client", "implicit")
        self._post("mod/plugin/", {
            "module": "oidc", "name": "oidc", "display_name": "OpenID Connect", "order_rank": 0, "enabled": True,
            "parameters": {
                "iss": self.issuer, "jwt-type": "ecdsa", "jwt-key-size": "256",
                "key": key.read_text(), "cert": public.stdout, "jwks-show": True, "jwks-uri": "",
                "access-token-duration": 300, "refresh-token-duration": 1800, "code-duration": 600,
                "refresh-token-rolling": True, "refresh-token-one-use": "always", "auth-type-code-revoke-replayed": True,
                "device-authorization-expiration": 600, "device-authorization-interval": 5,
                "allow-non-oidc": True, "subject-type": "public", "oauth-as-iss-id": True,
                "pkce-allowed": True, "pkce-method-plain-allowed": False,
                "introspection-revocation-allowed": True, "introspection-revocation-auth-scope": [],
                "introspection-revocation-allow-target-client": True,
                "oauth-par-allowed": True, "oauth-par-duration": 90,
                "oauth-par-request_uri-prefix": "urn:ietf:params:oauth:request_uri:",
                "request-parameter-allow": True, "client-pubkey-parameter": "pubkey", "client-jwks-parameter": "jwks",
                "oauth-dpop-allowed": True, "oauth-dpop-iat-duration": 30,
                "name-claim": "mandatory", "scope-claim": "on-demand", "email-claim": "no", "address-claim": {"type": "no"},
                "scope": [], "additional-parameters": [], "claims": [],
            } | {f"auth-type-{flow}-enabled": True for flow in flows} | {f"auth-type-{flow}-enabled": False for flow in others},
        })
        self._post("scope/", {
            "name": "profile", "display_name": "Profile", "password_required": True, "password_max_age": 0, "scheme": {},
        })
        for method, auth in (("basic", "client_secret_basic"), ("post", "client_secret_post"), ("none", "none")):
            secret = {} if method == "none" else {"client_secret": self.secret, "password": self.secret}
            self._post("client/?source=database", {
                "client_id": method, "name": method, "confidential": method != "none", "enabled": True, "scope": [],
                "redirect_uri": [self.redirect_uri], "token_endpoint_auth_method": [auth],
                "authorization_type": ["code", "refresh_token", "device_authorization"],
            } | secret)

        key = ["openssl", "x509", "-in", self._certificate, "-pubkey", "-noout"]
        public = subprocess.run(key, check=True, timeout=20, capture_output=True, text=True).stdout
        backend = self._admin.get(f"{self._api}/mod/client/database", timeout=20).json()
        backend["parameters"] = backend.get("parameters") or {}
        backend["parameters"].setdefault("data-format", {})["pubkey"] = {"multiple": False, "read": True, "write": True}
        answer = self._admin.put(f"{self._api}/mod/client/database", json=backend, timeout=20)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        self._post("client/?source=database", {
            "client_id": "signing", "name": "signing", "confidential": True, "enabled": True, "scope": [],
            "redirect_uri": [self.redirect_uri], "token_endpoint_auth_method": ["private_key_jwt"], "pubkey": public,
            "authorization_type": ["code", "refresh_token", "device_authorization"],
        })

    def _session(self, user, password):
        http = requests.Session()
        answer = http.post(f"{self._api}/auth/", json={"username": user, "password": password}, timeout=20)
        assert answer.status_code == 200, f"{user}: {answer.status_code} {answer.text}"
        return http

    def _post(self, path, body):
        answer = self._admin.post(f"{self._api}/{path}", json=body, timeout=20)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"

    def add_user(self, name):
        user = {"username": name, "password": f"pw-{name}", "name": name, "enabled": True, "scope": ["openid", "profile"]}
        self._post("user/?source=database", user)

    def callback_of(self, url, user, consent=True):
        """Its pages are a script that makes these calls."""
        http = self._session(user, f"pw-{user}")
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
        answer = http.put(f"{self._api}/auth/grant/{query['client_id']}", json={"scope": "openid profile"}, timeout=20)
        assert answer.status_code == 200, f"grant: {answer.status_code} {answer.text}"
        answer = http.get(f"{url}&g_continue", allow_redirects=False, timeout=20)
        target = answer.headers.get("Location", "")
        assert target.startswith(self.redirect_uri), f"{answer.status_code} {target} {answer.text[:500]}"
        return target

    def answer_device(self, url, user):
        http = self._session(user, f"pw-{user}")
        answer = http.put(f"{self._api}/auth/grant/{self.clients['device']}", json={"scope": "openid profile"}, timeout=20)
        assert answer.status_code == 200, f"grant: {answer.status_code} {answer.text}"
        answer = http.get(f"{url}&g_continue", allow_redirects=False, timeout=20)
        target = answer.headers.get("Location", "")
        assert "prompt=deviceComplete" in target, f"{answer.status_code} {target} {answer.text[:500]}"

    def stop(self):
        self._process.stop()


def _write_key(folder):
    """A client's private key, and a certificate of it: two paths."""
    key, certificate = (pathlib.Path(folder) / name for name in ("client.pem", "client-certificate.pem"))
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=desk"]
    subprocess.run([*new, "-keyout", key, "-out", certificate], check=True, timeout=60, capture_output=True)
    key.chmod(0o600)
    return key, certificate


def _answers(base, path="/.well-known/openid-configuration"):
    try:
        return requests.get(f"{base}{path}", timeout=5).status_code < 500
    except requests.ConnectionError:
        return False


ALL = (Keycloak, OidcProvider, Glewlwyd)
