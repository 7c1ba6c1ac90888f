"""A Secret Service of one private session: start, lock, unlock, kill, and a look inside. gnome-keyring is the usual one."""

import pathlib
import signal

from bus import BusError
from processes import Process, required, until

SECRETS = "org.freedesktop.secrets"
SERVICE = "/org/freedesktop/secrets"
COLLECTION = "org.freedesktop.Secret.Collection"
ITEM = "org.freedesktop.Secret.Item"
PASSWORD = "keyring-password"


class Keyring:
    """The keyring daemon of one session; its files outlive it."""

    name = "gnome-keyring"
    says_version = ("gnome-keyring-daemon", "--version")
    collection = "/org/freedesktop/secrets/collection/login"
    forgets_changes = False

    def __init__(self, bus, env, runtime):
        self.connection = bus.connect()
        self.env = env
        self.runtime = pathlib.Path(runtime)
        self.log = self.runtime / "keyring.log"
        self.process = None

    def start(self, unlocked=True):
        """Starts the daemon; `unlocked=False` is how it is before anyone has typed the login password."""
        self.process = self.launch(unlocked)
        self.process.ready("the keyring on the bus", lambda: self.connection.owner(SECRETS), 15)
        if unlocked:
            self.opened()

    def launch(self, unlocked):
        # gnome-keyring leaves locking and unlocking to PAM and to dialogs: at its start the password comes on stdin.
        control = self.runtime / "keyring-control"
        control.mkdir(mode=0o700, exist_ok=True)
        argv = [
            required("gnome-keyring-daemon"),
            "--foreground",
            "--components=secrets",
            f"--control-directory={control}",
        ]
        return Process(
            argv + (["--unlock"] if unlocked else []),
            log=self.log,
            env=self.env,
            stdin=PASSWORD.encode() if unlocked else b"",
        )

    def opened(self):
        """Does what it needs, once started, to be open, and waits for that."""
        until("an unlocked keyring", lambda: self.locked() is False, 15)

    def look(self):
        """Whatever another program must do before it can look at an open keyring's items."""

    def locked(self):
        """Whether the collection is locked; None while there is none."""
        try:
            return self.connection.get(SECRETS, self.collection, COLLECTION, "Locked")
        except BusError:
            return None

    def lock(self):
        self._service("Lock", "ao", [self.collection])
        until("a locked keyring", lambda: self.locked() is True)

    def unlock(self):
        """Unlocks without a dialog, as gnome-keyring's PAM module does after a login."""
        self.connection.call(
            SECRETS,
            SERVICE,
            "org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface",
            "UnlockWithMasterPassword",
            "o(oayays)",
            self.collection,
            (self.plain_session(), b"", PASSWORD.encode(), "text/plain"),
        )
        until("an unlocked keyring", lambda: self.locked() is False)

    def kill(self):
        """The daemon dies, as it does in a crash."""
        self.process.signal(signal.SIGKILL)
        self.process.wait()
        self.process = None
        until("the keyring's name to be free", lambda: not self.connection.owner(SECRETS))

    def end(self):
        """It ends in order, as in an update or at a logout."""
        self.process.stop()
        self.process = None
        until("the keyring's name to be free", lambda: not self.connection.owner(SECRETS))

    def stop(self):
        if self.process:
            self.process.stop()
            self.process = None
        self.connection.close()

    # --- a look inside

    def items(self):
        """All items: a list of (attributes, secret); secrets of a locked keyring are None."""
        found = []
        session = self.plain_session()
        for item in self.paths():
            try:
                attributes = self.connection.get(SECRETS, item, ITEM, "Attributes")
            except BusError:
                continue  # it was removed meanwhile
            try:
                secret = bytes(self.connection.call(SECRETS, item, ITEM, "GetSecret", "o", session)[0][2])
            except BusError:
                secret = None
            found.append((attributes, secret))
        return found

    def paths(self):
        return self.connection.get(SECRETS, self.collection, COLLECTION, "Items")

    def schemas(self):
        """The kinds of all items; one that goes while we look is not counted."""
        kinds = []
        for item in self.paths():
            try:
                attributes = self.connection.get(SECRETS, item, ITEM, "Attributes")
            except BusError:
                continue
            kinds.append(attributes["xdg:schema"])
        return kinds

    def plain_session(self):
        return self._service("OpenSession", "sv", "plain", ("s", ""))[1]

    def create(self, label, attributes, secret):
        """Another program saves something; returns its path once it is there."""
        properties = {f"{ITEM}.Label": ("s", label), f"{ITEM}.Attributes": ("a{ss}", attributes)}
        before = set(self.paths())
        _, prompt = self.connection.call(
            SECRETS,
            self.collection,
            COLLECTION,
            "CreateItem",
            "a{sv}(oayays)b",
            properties,
            (self.plain_session(), b"", secret, "text/plain"),
            False,
        )
        if prompt != "/":
            self.connection.call(SECRETS, prompt, "org.freedesktop.Secret.Prompt", "Prompt", "s", "")
        (path,) = until("the new item", lambda: set(self.paths()) - before)
        return path

    def _service(self, member, signature, *body):
        return self.connection.call(SECRETS, SERVICE, "org.freedesktop.Secret.Service", member, signature, *body)
