"""A small Debian, booted: systemd, journald, and the lingering user carol with a manager and bus of her own; also dave."""

import contextlib
import base64
import json
import os
import pathlib
import signal
import subprocess

from processes import Process, required, run, until

CAROL = 1000
DAVE = 1001
_NAMES = {CAROL: "carol", DAVE: "dave"}


def _environment(uid):
    return {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": f"/home/{_NAMES[uid]}",
        "USER": _NAMES[uid],
        "LANG": "C.UTF-8",
        "XDG_RUNTIME_DIR": f"/run/user/{uid}",
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path=/run/user/{uid}/bus",
    }


class Booted:
    """A copy of the prepared root. `install` files into it, then `boot`; its network is the host's."""

    def __init__(self, tarball, folder):
        self.folder = pathlib.Path(folder)
        self.root = self.folder / "root"
        self.root.mkdir()
        self._console = self.folder / "console.log"
        self._nspawn = None
        self._leader = None
        subprocess.run(["tar", "-C", self.root, "-xf", tarball, "--numeric-owner"], check=True, timeout=120)

    # --- before it boots

    def install(self, source, target, mode=0o644):
        """Copies a file of this project to where the package puts it."""
        path = self.root / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pathlib.Path(source).read_bytes())
        path.chmod(mode)

    def write_home(self, name, text):
        """Writes a file in carol's home, as hers."""
        path = self.root / "home/carol" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        run(["chown", "-R", f"{CAROL}:{CAROL}", self.root / "home/carol"], check=True)

    def keyring_unlocked_by_a_script(self, password="pw-keyring"):
        """Her keyring daemon gets its password from its unit: no PAM, no dialog."""
        self.write_home(
            ".config/systemd/user/gnome-keyring-daemon.service.d/unlock.conf",
            "[Service]\n"
            "ExecStart=\n"
            "ExecStart=/usr/bin/gnome-keyring-daemon --foreground --unlock --components=secrets "
            "--control-directory=%t/keyring\n"
            f"StandardInput=data\nStandardInputData={base64.b64encode(password.encode()).decode()}\n",
        )

    def lingers(self, uid):
        """This user has a manager from the next boot on."""
        (self.root / "var/lib/systemd/linger" / _NAMES[uid]).touch()

    def use_dbus_broker(self):
        """The users' buses are dbus-broker's from the next boot on."""
        run(["systemctl", f"--root={self.root}", "--global", "enable", "dbus-broker.service"], check=True)

    def boot(self, seconds=60):
        """Boots it and waits for carol's bus."""
        # nspawn's own filter would forbid these: the keyring wants mlock(), and tests try the kernel's keyring.
        argv = [required("systemd-nspawn"), "-D", self.root, "--boot", "--register=no", "--keep-unit"]
        argv += ["--system-call-filter=@memlock @keyring", "--console=pipe"]
        self._nspawn = Process(argv, log=self._console)
        self._leader = self._nspawn.ready("the container's init", self._find_leader, seconds)
        bus = pathlib.Path(f"/proc/{self._leader}/root/run/user/{CAROL}/bus")
        self._nspawn.ready("carol's bus", bus.exists, seconds)

    def _find_leader(self):
        """systemd-nspawn's only child is the container's process 1."""
        # setpriv has become nspawn by now: same pid.
        children = pathlib.Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        for child in children:
            # nspawn's own helpers come and go meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if pathlib.Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
        return None

    # --- inside

    def within(self, root=False, uid=CAROL, env=None):
        """What to put before a program so that it runs inside, as carol or another user in their session."""
        enter = [required("nsenter"), "-t", str(self._leader), "-m", "-u", "-i", "-p", "-n", "-C", "--"]
        if not root:
            enter += ["/usr/bin/setpriv", "--reuid", str(uid), "--regid", str(uid), "--init-groups"]
        return [*enter, "/usr/bin/env", "-i", *(f"{key}={value}" for key, value in (_environment(uid) | (env or {})).items())]

    def run(self, *argv, stdin=None, timeout=40, root=False, uid=CAROL, check=False, env=None):
        """Runs a program inside, as carol or another user in their session; `root=True` as root in none."""
        return run([*self.within(root, uid, env), *argv], stdin=stdin, timeout=timeout, check=check)

    def shell(self, line, **options):
        return self.run("/bin/sh", "-c", line, **options)

    def start_keyring(self):
        """Starts her keyring daemon and waits until it is unlocked."""
        self.run("systemctl", "--user", "restart", "gnome-keyring-daemon.service", check=True)
        until("her unlocked keyring", lambda: "b false" in self._login_collection_locked(), 15)

    def log_in_with_password(self, password="pw-carol"):
        """carol's login at a console, as PAM sees it: her keyring is unlocked by it, or made."""
        acts = ("authenticate", "open_session", "close_session")
        return self.run("pamtester", "login", "carol", *acts, stdin=f"{password}\n", root=True)

    def make_keyring_by_login(self):
        """Her first login makes the keyring; the daemon shows it from its next start on."""
        assert self.log_in_with_password().returncode == 0
        self.run("systemctl", "--user", "restart", "gnome-keyring-daemon.service", check=True)
        assert self.log_in_with_password().returncode == 0
        until("her unlocked keyring", lambda: "b false" in self._login_collection_locked(), 15)

    @property
    def keyring_is_locked(self):
        return "b true" in self._login_collection_locked()

    def _login_collection_locked(self):
        path = "/org/freedesktop/secrets/collection/login"
        command = [
            "busctl",
            "--user",
            "get-property",
            "org.freedesktop.secrets",
            path,
            "org.freedesktop.Secret.Collection",
            "Locked",
        ]
        return self.run(*command).stdout

    def main_pid(self, unit):
        """The main process of one of carol's units as the container numbers it; 0 when it isn't running."""
        return int(self.show(unit, "MainPID"))

    def show(self, unit, name):
        return self.run("systemctl", "--user", "show", "--value", "-p", name, unit, check=True).stdout.strip()

    def journal(self, *match):
        """Her journal's entries as dictionaries."""
        done = self.run("journalctl", "--user", "--no-pager", "-o", "json", "--all", *match, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def get_callback_as_carol(self, url):
        """Opens the loopback callback with carol's uid, as her browser would; her daemon takes no other."""
        marker = "\n%{http_code} %{url_effective}"
        done = self.run(
            "curl", "--silent", "--show-error", "--location", "--max-time", "40", "--write-out", marker, url, timeout=60
        )
        assert done.returncode == 0, f"curl: {done.returncode} {done.stderr}"
        text, _, tail = done.stdout.rpartition("\n")
        status, _, effective = tail.partition(" ")
        return int(status), effective, text

    # --- the end

    def power_off(self, seconds=20):
        """Its disk stays, to be booted again."""
        self.run("systemctl", "--no-block", "poweroff", root=True)
        self._nspawn.wait(seconds)

    def stop(self, orderly=True, seconds=20):
        """Powers it off, or ends it by its process id; nothing of it stays."""
        try:
            if self._leader and orderly and self._nspawn.running:
                self.run("systemctl", "--no-block", "poweroff", root=True)
                self._nspawn.wait(seconds)
        except subprocess.TimeoutExpired:
            pass  # of either: then by force
        finally:
            if self._leader and self._nspawn.running:
                os.kill(self._leader, signal.SIGKILL)  # process 1 takes everything inside with it
            if self._nspawn:
                self._nspawn.kill()
            subprocess.run(["rm", "-rf", "--one-file-system", self.root], check=True, timeout=120)
