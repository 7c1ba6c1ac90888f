"""An observing relay in front of Keycloak's back channel: counts, remembers what must stay secret, holds and drops."""

import http.client
import http.server
import json
import socket
import threading
import urllib.parse

_PLACES_OF_SECRETS = ("access_token", "refresh_token", "id_token", "code", "code_verifier", "client_secret")


class Relay:
    """Listens on a port of its own and passes everything on to Keycloak."""

    def __init__(self, keycloak, tls=None):
        self._upstream = ("127.0.0.1", keycloak.port)
        self._lock = threading.Condition()
        self._requests = []  # (path, form, status)
        self._secrets = set()
        self._last = {}
        self._open = threading.Event()
        self._open.set()
        self._held = 0
        self._held_grant = None
        self._held_answers = False
        self._cutting = False
        self._away = False
        self._drop = None
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                relay._handle(self)

            def do_GET(self):
                relay._handle(self)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # a peer that hangs up is what some tests are about

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.base = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}/auth"

    def token_endpoint(self, realm_name):
        return f"{self.base}/realms/{realm_name}/protocol/openid-connect/token"

    def close(self):
        self._open.set()
        self._server.shutdown()
        self._server.server_close()

    # --- what was seen

    def count(self, grant_type, status=None, realm_name=""):
        """How many token requests of this kind Keycloak has answered, with this status, in this realm."""
        with self._lock:
            return sum(
                form.get("grant_type") == grant_type and status in (None, answered) and f"/realms/{realm_name}" in path
                for path, form, answered in self._requests
            )

    def secrets(self):
        """Every token, code, verifier and client secret that passed."""
        with self._lock:
            return set(self._secrets)

    def issued(self, place="access_token"):
        """The last token of this kind that Keycloak issued."""
        with self._lock:
            return self._last.get(place)

    # --- interference

    def hold(self, grant_type, answers=False):
        """From now on requests of this kind wait until `release`: unsent, or with Keycloak's answer in hand."""
        with self._lock:
            self._held_grant = grant_type
            self._held_answers = answers
            self._cutting = False
        self._open.clear()

    def wait_held(self, number=1, seconds=15):
        """Waits until that many requests are waiting here."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._held >= number, seconds), (
                f"{self._held} requests held, not {number}"
            )

    def release(self, cut=False):
        """Lets what waits go on, or hangs up on it."""
        self._cutting = cut
        self._open.set()

    def go_away(self, away=True):
        """Hangs up on everybody at once, before Keycloak has seen anything."""
        self._away = away

    def drop(self, grant_type, delivered=True):
        """The next request of this kind ends in a closed connection, before Keycloak saw it or after it answered."""
        with self._lock:
            self._drop = (grant_type, delivered)

    def _dropping(self, grant_type, delivered):
        with self._lock:
            if self._drop != (grant_type, delivered):
                return False
            self._drop = None
            return True

    def _waits(self, grant, answers):
        """Waits if this is what is held; whether its connection is to be cut afterwards."""
        if self._open.is_set() or grant != self._held_grant or answers != self._held_answers:
            return False
        with self._lock:
            self._held += 1
            self._lock.notify_all()
        self._open.wait()
        with self._lock:
            self._held -= 1
        return self._cutting

    # --- passing on

    def _handle(self, handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        form = dict(urllib.parse.parse_qsl(body.decode("utf-8", "replace")))
        grant = form.get("grant_type")
        if self._away or self._waits(grant, answers=False):
            return _hang_up(handler)
        if self._dropping(grant, delivered=False):
            return _hang_up(handler)
        upstream = http.client.HTTPConnection(*self._upstream, timeout=60)
        # Host is Keycloak's own: its issuer follows from it. Nothing compressed: the tokens are read here.
        own = ("host", "connection", "accept-encoding")
        headers = {name: value for name, value in handler.headers.items() if name.lower() not in own}
        try:
            upstream.request(handler.command, handler.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        except OSError:
            return _hang_up(handler)
        finally:
            upstream.close()

        with self._lock:
            self._requests.append((handler.path, form, answer.status))
            self._remember(form)
            self._remember(_json(content))
            if basic := handler.headers.get("Authorization"):
                self._secrets.add(basic.partition(" ")[2])
        if self._dropping(grant, delivered=True) or self._waits(grant, answers=True):
            return _hang_up(handler)

        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _remember(self, values):
        for place in _PLACES_OF_SECRETS:
            if isinstance(value := values.get(place), str) and value:
                self._secrets.add(value)
                self._last[place] = value


def _hang_up(handler):
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def _json(content):
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
