"""The other Secret Services, without a screen: oo7, KeePassXC and KWallet."""

import os
import re

import keyring
from keyring import PASSWORD, Keyring
from processes import Process, required, run, until

_KEEPASSXC_INI = """[General]
ConfigVersion=2
UpdateCheckMessageShown=true
[FdoSecrets]
Enabled=true
ShowNotification=false
ConfirmAccessItem=false
ConfirmDeleteItem=false
[GUI]
CheckForUpdates=false
[Security]
LockDatabaseIdle=false
LockDatabaseScreenLock=false
"""
# What is exposed is named by its identifier, here the root's.
_KEEPASSXC_SEED = """<KeePassFile><Meta><DatabaseName>test</DatabaseName><CustomData><Item>
<Key>FDO_SECRETS_EXPOSED_GROUP</Key><Value>{01020304-0506-0708-090a-0b0c0d0e0f10}</Value></Item></CustomData></Meta>
<Root><Group><UUID>AQIDBAUGBwgJCgsMDQ4PEA==</UUID><Name>Root</Name></Group></Root></KeePassFile>
"""
_KWALLETRC = """[Wallet]
Enabled=true
First Use=false
Use One Wallet=true
Default Wallet=kdewallet
Prompt on Open=false
Close When Idle=false
Launch Manager=false
[org.freedesktop.secrets]
apiEnabled=true
"""


class Oo7(Keyring):
    """It has gnome-keyring's collection and private interface, and takes the password in the same way."""

    name = "oo7"
    says_version = (os.environ.get("BEARERD_OO7", "oo7-daemon"), "--version")
    forgets_changes = True  # a new secret of an old item is never written to its file

    def launch(self, unlocked):
        # Otherwise its socket for PAM would be the machine's.
        env = self.env | {"OO7_PAM_SOCKET": str(self.runtime / "oo7-pam")}
        argv = [required(self.says_version[0]), *(["--login"] if unlocked else [])]
        return Process(argv, log=self.log, env=env, stdin=PASSWORD.encode() if unlocked else b"")


class _Qt(Keyring):
    """A desktop program whose windows nobody sees."""

    def __init__(self, bus, env, runtime):
        # Its lock files would go to /tmp, and be the same ones for all sessions.
        super().__init__(bus, env | {"QT_QPA_PLATFORM": "offscreen", "TMPDIR": str(runtime)}, runtime)
        self.home = self.runtime.parent / "home"

    def _config(self, name, text):
        path = self.home / ".config" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def stop(self):
        if self.process:
            # With a dialog open it ignores every request to end.
            self.process.kill()
            self.process = None
        super().stop()


class KeePassXC(_Qt):
    name = "KeePassXC"
    says_version = ("keepassxc-cli", "--version")
    collection = "/org/freedesktop/secrets/collection/t"

    def launch(self, unlocked):
        # It writes Enabled=false there when it finds the name taken.
        self._config("keepassxc/keepassxc.ini", _KEEPASSXC_INI)
        self._database = self.home / "t.kdbx"
        if not self._database.exists():
            seed = self.runtime / "seed.xml"
            seed.write_text(_KEEPASSXC_SEED)
            make = ["keepassxc-cli", "import", "-p", "-t", "100", seed, self._database]
            run(make, env=self.env, stdin=f"{PASSWORD}\n{PASSWORD}\n", check=True)
        argv = [required("keepassxc"), *(["--pw-stdin"] if unlocked else []), self._database]
        stdin = f"{PASSWORD}\n".encode() if unlocked else b""
        return Process(argv, log=self.log, env=self.env, stdin=stdin)

    def lock(self):
        self._window("lockAllDatabases")
        until("a locked database", lambda: self.locked() is True)

    def unlock(self):
        self._window("openDatabase", "ss", str(self._database), PASSWORD)
        until("an open database", lambda: self.locked() is False)

    def _window(self, member, signature="", *body):
        name = "org.keepassxc.KeePassXC.MainWindow"
        self.connection.call(name, "/keepassxc", name, member, signature, *body)


class KWallet(_Qt):
    name = "KWallet"
    says_version = ("dpkg-query", "-W", "-f=${Version}", "libkf5wallet-bin")  # itself it wants a bus for that
    collection = "/org/freedesktop/secrets/collection/kdewallet"

    def launch(self, unlocked):
        self._config("kwalletrc", _KWALLETRC)
        return Process([required("kwalletd5")], log=self.log, env=self.env)

    def opened(self):
        self._pam_open()
        if self.locked() is None:
            # A wallet that is new becomes a collection at the next start.
            until("the new wallet", self._is_open)
            self.process.stop()
            self.process = self.launch(unlocked=True)
            self.process.ready("the keyring on the bus", lambda: self.connection.owner(keyring.SECRETS), 15)
            self._pam_open()
        until("an open wallet with its collection", lambda: self._is_open() and self.locked() is not None)

    def lock(self):
        self._wallet("close", "sb", "kdewallet", True)
        until("a closed wallet", lambda: self.locked() is True)

    def unlock(self):
        self._pam_open()
        until("an open wallet", self._is_open)

    def end(self):
        self._wallet("close", "sb", "kdewallet", True)  # SIGTERM alone loses what it has not written yet
        super().end()

    def _is_open(self):
        return self._wallet("isOpen", "s", "kdewallet") == (True,)

    def look(self):
        """For a program that has not asked an open wallet is locked; nobody sees that asking."""
        if self.locked() is False:
            return
        _, prompt = self._service("Unlock", "ao", [self.collection])
        if prompt != "/":
            self.connection.call(keyring.SECRETS, prompt, "org.freedesktop.Secret.Prompt", "Prompt", "s", "")
        until("an open collection", lambda: self.locked() is False)

    def _pam_open(self):
        """As its PAM module does: with a hash of the password, for which any 56 bytes will do."""
        self._wallet("pamOpen", "sayi", "kdewallet", bytes(range(1, 57)), 0)

    def _wallet(self, member, signature="", *body):
        path = "/modules/kwalletd5"
        return self.connection.call("org.kde.kwalletd5", path, "org.kde.KWallet", member, signature, *body)


ALL = (Keyring, Oo7, KeePassXC, KWallet)


def version(kind):
    """What its program says, without the packager's part."""
    said = run(kind.says_version, check=True).stdout
    return re.search(r"\d+(\.\d+)+(-[a-z]+)?", said)[0]
