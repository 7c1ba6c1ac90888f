"""gnome-keyring as the Secret Service of one private session: start, lock, unlock, kill, and a look inside."""

import pathlib
import signal

from bus import BusError
from processes import Process, required, until

SECRETS = "org.freedesktop.secrets"
SERVICE = "/org/freedesktop/secrets"
LOGIN = "/org/freedesktop/secrets/collection/login"
PASSWORD = "keyring-password"


class Keyring:
    """The keyring daemon of one session; its files outlive it."""

    def __init__(self, bus, env, runtime):
        self._connection = bus.connect()
        self._env = env
        self._log = pathlib.Path(runtime) / "keyring.log"
        self._control = pathlib.Path(runtime) / "keyring-control"
        self.process = None

    def start(self, unlocked=True):
        """Starts the daemon; `unlocked=False` is how it is before anyone has typed the login password."""
        # gnome-keyring leaves locking and unlocking to PAM and to dialogs: at its start the password comes on stdin.
        self._control.mkdir(mode=0o700, exist_ok=True)
        argv = [
            required("gnome-keyring-daemon"),
            "--foreground",
            "--components=secrets",
            f"--control-directory={self._control}",
        ]
        self.process = Process(
            argv + (["--unlock"] if unlocked else []),
            log=self._log,
            env=self._env,
            stdin=PASSWORD.encode() if unlocked else b"",
        )
        self.process.ready("the keyring on the bus", lambda: self._connection.owner(SECRETS), 15)
        if unlocked:
            until("an unlocked login keyring", lambda: self.locked() is False, 15)

    def locked(self):
        """Whether the login collection is locked; None while there is none."""
        try:
            return self._connection.get(SECRETS, LOGIN, "org.freedesktop.Secret.Collection", "Locked")
        except BusError:
            return None

    def lock(self):
        self._service("Lock", "ao", [LOGIN])
        until("a locked keyring", lambda: self.locked() is True)

    def unlock(self):
        """Unlocks without a dialog, as gnome-keyring's PAM module does after a login."""
        session = self._service("OpenSession", "sv", "plain", ("s", ""))[1]
        self._connection.call(
            SECRETS,
            SERVICE,
            "org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface",
            "UnlockWithMasterPassword",
            "o(oayays)",
            LOGIN,
            (session, b"", PASSWORD.encode(), "text/plain"),
        )
        until("an unlocked keyring", lambda: self.locked() is False)

    def kill(self):
        """The daemon dies, as it does in an update or a crash."""
        self.process.signal(signal.SIGKILL)
        self.process.wait()
        self.process = None
        until("the keyring's name to be free", lambda: not self._connection.owner(SECRETS))

    def stop(self):
        if self.process:
            self.process.stop()
            self.process = None
        self._connection.close()

    # --- a look inside

    def items(self):
        """All items: a list of (attributes, secret); secrets of a locked keyring are None."""
        found = []
        session = self._service("OpenSession", "sv", "plain", ("s", ""))[1]
        for item in self._connection.get(SECRETS, LOGIN, "org.freedesktop.Secret.Collection", "Items"):
            try:
                attributes = self._connection.get(SECRETS, item, "org.freedesktop.Secret.Item", "Attributes")
            except BusError:
                continue  # it was removed meanwhile
            try:
                ((_, _, secret, _),) = self._connection.call(
                    SECRETS, item, "org.freedesktop.Secret.Item", "GetSecret", "o", session
                )
                secret = bytes(secret)
            except BusError:
                secret = None
            found.append((attributes, secret))
        return found

    def schemas(self):
        """The kinds of all items; one that goes while we look is not counted."""
        kinds = []
        for item in self._connection.get(SECRETS, LOGIN, "org.freedesktop.Secret.Collection", "Items"):
            try:
                attributes = self._connection.get(SECRETS, item, "org.freedesktop.Secret.Item", "Attributes")
            except BusError:
                continue
            kinds.append(attributes["xdg:schema"])
        return kinds

    def _service(self, member, signature, *body):
        return self._connection.call(SECRETS, SERVICE, "org.freedesktop.Secret.Service", member, signature, *body)
