"""A desktop session of its own: home, bus, keyring, and in it the product's daemon and command line."""

import collections
import contextlib
import json
import os
import pathlib
import signal
import socket
import time

import leaks
import pages
import realm
from bus import BusError, PrivateBus
from keyring import Keyring
from processes import Process, required, run

NAME = "org.bearerd.Broker1"
ROOT = "/org/bearerd/Broker1"
ACCOUNT = "org.bearerd.Broker1.Account"
LOGIN = "org.bearerd.Broker1.Login"

Token = collections.namedtuple("Token", "access_token expires_at details")


class Session:
    """Everything below one folder. The bus and the keyring run; the daemon is started by the test."""

    def __init__(self, folder, binaries, keycloak, relay=None, keyring=Keyring):
        self.folder = pathlib.Path(folder)
        self.binaries = binaries
        self.keycloak = keycloak
        self.relay = relay
        self.home = self.folder / "home"
        self.runtime = self.folder / "run"
        self.config = self.home / ".config"
        self.state = self.home / ".local" / "state"
        self.log = self.folder / "bearerd.log"
        for path in (self.home, self.runtime, self.config, self.state):
            path.mkdir(parents=True, mode=0o700)
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_CONFIG_HOME": str(self.config),
            "XDG_STATE_HOME": str(self.state),
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.runtime}/bus",
        }
        # Everything that the daemon can say, so that the search for leaks means something.
        self.daemon_env = self.env | {"BEARERD_LOG": "trace", "RUST_BACKTRACE": "1"}
        self.bus = PrivateBus(self.runtime, self.env)
        self.connection = self.bus.connect()
        self._keyring = keyring
        self.keyring = keyring(self.bus, self.env, self.runtime)
        self.daemon = None
        self.users = {}
        self._accounts = {}
        self._handed_out = set()

    # --- configuration

    def add_account(self, name, user=None, realm_name="app", client=realm.QUIET_CLIENT, through_relay=True, **settings):
        """Configures an account for a new Keycloak user, and returns that user's id."""
        user = user or f"{name}-{self.folder.name}".lower()
        host = self.relay if self.relay and through_relay else self.keycloak
        self._accounts[name] = {
            "client_id": client,
            "client_auth": "none" if client == realm.PUBLIC_CLIENT else "post",
            "authorization_endpoint": self.keycloak.authorization_endpoint(realm_name),
            "token_endpoint": host.token_endpoint(realm_name),
            "scopes": ["profile", "locks"],
            "iss": "if-present",
        } | settings
        self.write_config()
        self.users[name] = user
        return self.keycloak.create_user(realm_name, user)

    def add_discovered_account(self, name, realm_name="app", client=realm.QUIET_CLIENT, **settings):
        """The same by the issuer alone, with ID tokens; nothing of it passes the relay."""
        user_id = self.add_account(name, realm_name=realm_name, client=client)
        self._accounts[name] = {
            "issuer": self.keycloak.realm_url(realm_name),
            "client_id": client,
            "scopes": ["openid", "profile"],
        } | ({"client_auth": "none"} if client == realm.PUBLIC_CLIENT else {}) | settings
        self.write_config()
        return user_id

    def write_config(self):
        """Writes config.toml; JSON's strings, numbers and lists are TOML's."""
        lines = []
        for name, settings in self._accounts.items():
            lines += [
                f"[accounts.{json.dumps(name)}]",
                *(f"{key} = {json.dumps(value)}" for key, value in settings.items()),
                "",
            ]
        folder = self.config / "bearerd"
        folder.mkdir(exist_ok=True)
        (folder / "config.toml").write_text("\n".join(lines))

    # --- the daemon

    def start_daemon(self, within=(), env=None):
        """Starts bearerd, within another program if wanted, and waits for its READY=1: its name is on the bus then."""
        with _ReadySocket(self.runtime / "notify") as ready:
            env = self.daemon_env | {"NOTIFY_SOCKET": str(ready.path)} | (env or {})
            self.daemon = Process([*within, self.binaries / "bearerd"], log=self.log, env=env)
            self.daemon.ready("READY=1", ready.received, 10)
        assert self.connection.owner(NAME), f"ready, but {NAME} isn't on the bus:\n{self.daemon.output()[-4000:]}"

    def replace_bus(self):
        """The bus dies with everybody on it, and a new one comes; the daemon and the keyring are the caller's to start."""
        self.bus.process.kill()
        self.connection.close()
        self.keyring.stop()
        (self.runtime / "bus").unlink(missing_ok=True)
        self.bus = PrivateBus(self.runtime, self.env)
        self.connection = self.bus.connect()
        self.keyring = self._keyring(self.bus, self.env, self.runtime)

    def kill_daemon(self):
        """kill -9, and nothing else: what is not in the keyring is lost."""
        self.daemon.signal(signal.SIGKILL)
        assert self.daemon.wait() == -signal.SIGKILL
        self.daemon = None

    def stop_daemon(self):
        """An orderly end, as systemd asks for it."""
        daemon, self.daemon = self.daemon, None
        status = daemon.stop()
        assert status == 0, f"bearerd ended with {status}:\n{self.log.read_text(errors='replace')[-4000:]}"

    def restart_daemon(self, kill=False):
        self.kill_daemon() if kill else self.stop_daemon()
        self.start_daemon()

    # --- its command line

    def ctl(self, *args, stdin=None, timeout=40):
        """Runs bearerctl to its end."""
        return run([self.binaries / "bearerctl", *args], env=self.env, stdin=stdin, timeout=timeout)

    def start_ctl(self, *args):
        """Starts a bearerctl that waits for something; its output is in the returned process's log."""
        return Process(
            [self.binaries / "bearerctl", *args], env=self.env, log=self.folder / f"ctl-{time.monotonic_ns()}.log"
        )

    def busctl(self, *args):
        """busctl, as a shell script would use it."""
        return run([required("busctl"), f"--address={self.bus.address}", *args], env=self.env, timeout=40)

    def set_secret(self, account, secret=realm.SECRET):
        done = self.ctl("set-secret", account, stdin=secret)
        assert done.returncode == 0, f"set-secret: exit {done.returncode}: {done.stderr}"

    # --- its bus interface

    def call(self, member, signature="", *body, path=ROOT, interface=NAME):
        return self.connection.call(NAME, path, interface, member, signature, *body)

    def token(self, account, **options):
        """GetToken, or with options GetTokenWithOptions."""
        if options:
            kinds = {bool: "b", int: "u", str: "s"}
            typed = {key: (kinds[type(value)], value) for key, value in options.items()}
            token = Token(*self.call("GetTokenWithOptions", "sa{sv}", account, typed))
        else:
            token = Token(*self.call("GetToken", "s", account))
        self._handed_out.add(token.access_token)
        return token

    def refused_token(self, account, **options):
        """The error that GetToken answers with; a token instead of it fails the test."""
        try:
            token = self.token(account, **options)
        except BusError as error:
            return error
        raise AssertionError(f"GetToken {account} answered with a token, {token.expires_at=}, {token.details}")

    def account_property(self, account, name):
        return self.connection.get(NAME, f"{ROOT}/account/{path_element(account)}", ACCOUNT, name)

    def account_state(self, account):
        return self.account_property(account, "State")

    def until_state(self, account, wanted, seconds=20):
        """Waits for one of the account's states."""
        seen = []
        deadline = time.monotonic() + seconds
        while (state := self.account_state(account)) != wanted:
            if not seen or seen[-1] != state:
                seen.append(state)
            message = self.account_property(account, "StateMessage") if time.monotonic() > deadline else ""
            assert time.monotonic() < deadline, (
                f"{account}: {' -> '.join(seen)} ({message}), not {wanted} within {seconds} s"
            )
            time.sleep(0.05)

    def start_login(self, account, flow="code"):
        """Login without a browser: (attempt, url)."""
        options = {"open_browser": ("b", False), "flow": ("s", flow)}
        return self.call("LoginWithOptions", "sa{sv}", account, options)

    def wait_login(self, attempt):
        return self.call("Wait", "u", 20000, path=attempt, interface=LOGIN)[0]

    def log_in(self, account, consent=True, get=None):
        """A whole login through Keycloak's pages; returns (login state, final page)."""
        attempt, url = self.start_login(account)
        user = self.users[account]
        page = pages.login_through_pages(url, user, self.keycloak.password_of(user), consent, get)
        return self.wait_login(attempt), page

    def ready_account(self, name="work", **settings):
        """The shortest way to a session: configured, daemon started, secret set, logged in. Returns the user's id."""
        user_id = self.add_account(name, **settings)
        if self.daemon:
            assert self.ctl("reload").returncode == 0
        else:
            self.start_daemon()
        if settings.get("client") != realm.PUBLIC_CLIENT:
            self.set_secret(name)
        state, page = self.log_in(name)
        assert state == "succeeded", f"{state}: {page}"
        self.until_state(name, "ready")
        return user_id

    # --- the end

    def close(self):
        """Ends everything, then looks at what every test must leave behind: an orderly end and no secret anywhere."""
        secrets = self._secrets()
        try:
            if self.daemon:
                self.stop_daemon()
        finally:
            if self.daemon:
                self.daemon.kill()
            self.connection.close()
            self.keyring.stop()
            self.bus.stop()
        self._check_leftovers(secrets)

    def _secrets(self):
        """Everything that this session's daemon has had to keep to itself."""
        secrets = self._handed_out | {realm.SECRET} | (self.relay.secrets() if self.relay else set())
        readable = self.keyring.process and self.keyring.locked() is False
        for _, stored in self.keyring.items() if readable else []:
            # An item may be taken away between the listing and the look at it.
            with contextlib.suppress(ValueError, AttributeError):
                record = json.loads(stored or "")
                secrets |= {
                    value for key, value in record.items() if ("token" in key or key == "dpop_key") and isinstance(value, str) and value
                }
        return secrets

    def _check_leftovers(self, secrets):
        """No panic in the log, and no secret in the log or in any file but the keyring's."""
        log = self.log.read_text(errors="replace") if self.log.exists() else ""
        assert "panicked at" not in log, log[log.index("panicked at") - 200 :][:3000]
        keyrings = self.home / ".local" / "share" / "keyrings"
        files = [self.log] + [path for path in self.home.rglob("*") if path.is_file() and keyrings not in path.parents]
        for path in files:
            if path.exists():
                leaks.assert_none_in(path.read_bytes(), secrets, path.relative_to(self.folder))


def closing(session):
    """Gives a session away and closes it; what its daemon said is shown when the test fails."""
    try:
        yield session
    finally:
        if session.log.exists():
            print(f"--- {session.log}, its end:\n{session.log.read_text(errors='replace')[-6000:]}")
        session.close()


class _ReadySocket:
    """The service manager's end of sd_notify."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)
        return self

    def __exit__(self, *_):
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def received(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                if b"READY=1" in self._socket.recv(8192).split(b"\n"):
                    return True
        return False


def path_element(name):
    """sd_bus_path_encode: everything but letters and digits as _XX, and a leading digit too."""

    def encoded(index, byte):
        char = chr(byte)
        plain = char.isascii() and (char.isalpha() or (char.isdigit() and index > 0))
        return char if plain else f"_{byte:02x}"

    return "".join(encoded(*place) for place in enumerate(name.encode())) or "_"
