"""Who asks, with the real things: Flatpak's own sandbox and proxy, and what only looks like them."""

import json
import pathlib
import subprocess
import sys
import threading

import pytest

from bus import MOCK
from processes import Process, required, run, until

BROKER = ("org.bearerd.Broker1", "/org/bearerd/Broker1")
ACCESS = "org.bearerd.Broker1.Access"
SEND = ["dbus-send", "--session", "--print-reply", f"--dest={BROKER[0]}", BROKER[1]]
GET_TOKEN = [*SEND, f"{BROKER[0]}.GetToken", "string:work"]
STORE = ("org.freedesktop.impl.portal.PermissionStore", "/org/freedesktop/impl/portal/PermissionStore")
NOTIFICATIONS = ("org.freedesktop.Notifications", "/org/freedesktop/Notifications")


class Flatpak:
    """An application as `flatpak run` starts it: its proxy and itself in bubblewrap, with the instance's file."""

    def __init__(self, session, application):
        self._session = session
        self._folder = session.folder / f"flatpak-{application}"
        self._folder.mkdir()
        info = self._folder / "info"
        info.write_text(f"[Application]\nname={application}\n\n[Instance]\ninstance-id=1\n")
        self._proxy_socket = self._folder / "bus"
        self._box = [required("bwrap"), "--die-with-parent", "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"]
        for link in ("bin", "lib", "lib64"):
            self._box += ["--symlink", f"usr/{link}", f"/{link}"]
        self._box += ["--proc", "/proc", "--dev", "/dev", "--ro-bind", str(info), "/.flatpak-info"]
        here = ["--bind", str(session.folder), str(session.folder)]
        proxy = ["xdg-dbus-proxy", session.bus.address, str(self._proxy_socket), "--filter", f"--talk={BROKER[0]}"]
        self._proxy = Process([*self._box, *here, *proxy], log=self._folder / "proxy.log", env=session.env)
        self._proxy.ready("the proxy's socket", self._proxy_socket.exists, 10)

    def run(self, *argv):
        inside = ["--dir", "/run/bus.d", "--bind", str(self._proxy_socket), "/run/bus.d/bus"]
        env = self._session.env | {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/bus.d/bus"}
        return run([*self._box, *inside, *argv], env=env)

    def close(self):
        self._proxy.kill()


@pytest.fixture
def flatpak(desktop):
    apps = []

    def start(application):
        apps.append(Flatpak(desktop, application))
        return apps[-1]

    yield start
    for app in apps:
        app.close()


def log(session):
    """The log's entries as plain dictionaries."""
    _, entries = session.connection.call(*BROKER, ACCESS, "ReadLog", "tu", 0, 0)
    return [{name: value for name, (_, value) in entry.items()} for entry in entries]


def a_sandboxed_program_has_no_say_about_the_daemon_itself(desktop, flatpak):
    """Q6, R6: neither the configuration, the keyring's dialog nor the log is its business."""
    desktop.ready_account("work")
    mail = flatpak("org.example.Mail")
    level = [*SEND[:-1], "/org/freedesktop/LogControl1", "org.freedesktop.DBus.Properties.Set"]
    level += ["string:org.freedesktop.LogControl1", "string:LogLevel", "variant:string:debug"]

    for call in ([*SEND, f"{BROKER[0]}.Reload"], [*SEND, f"{BROKER[0]}.UnlockStore"], level):
        refused = mail.run(*call)
        assert "AccessDenied" in refused.stderr, (call, refused)
        assert "flatpak:org.example.Mail is sandboxed" in refused.stderr, (call, refused)
    assert "Error" not in mail.run(*SEND, f"{BROKER[0]}.ListAccounts").stderr


def a_flatpak_is_known_through_its_proxy_and_asked_about(desktop, flatpak):
    """Q6, R6: by the instance's file; nobody is there to ask, so the answer is no. A rule lets it in."""
    desktop.ready_account("work")
    mail = flatpak("org.example.Mail")

    refused = mail.run(*GET_TOKEN)

    assert "Error.AccessDenied" in refused.stderr, refused
    assert "flatpak:org.example.Mail may use" in refused.stderr, refused
    entry = next(entry for entry in log(desktop) if entry["outcome"] == "AccessDenied")
    assert entry["caller"] == "flatpak:org.example.Mail" and "xdg-dbus-proxy" in entry["chain"], entry

    # Neither may it lift its own limits.
    control = [*SEND, f"{ACCESS}.ListPermissions"]
    assert "is sandboxed" in mail.run(*control).stderr

    allowed = '[[accounts.work.rules]]\ncaller = "flatpak:org.example.*"\naccess = "allow"\n'
    config = desktop.config / "bearerd" / "config.toml"
    config.write_text(config.read_text() + "\n" + allowed)
    assert desktop.ctl("reload").returncode == 0
    given = mail.run(*GET_TOKEN)
    assert given.returncode == 0 and "expires_in" in given.stdout, given.stderr
    other = flatpak("org.other.App").run(*GET_TOKEN)
    assert "flatpak:org.other.App may use" in other.stderr, other


def a_program_that_pretends_with_a_file_of_its_own_is_no_flatpak(desktop):
    """R6: only what is in the root of a mount namespace of its own counts; a file that lies about does not."""
    desktop.ready_account("work")
    (desktop.home / ".flatpak-info").write_text("[Application]\nname=org.example.Mail\n")

    assert run(GET_TOKEN, env=desktop.env).returncode == 0

    caller = next(entry["caller"] for entry in log(desktop) if entry["chain"].startswith("dbus-send"))
    assert caller.startswith("exe:/") and caller.endswith("/dbus-send"), caller


def a_flatpak_that_is_allowed_for_good_is_in_the_desktops_permission_store(desktop, flatpak, served):
    """Q6: with xdg-desktop-portal's own store, and Flatpak's own tool to show and change what is in it."""
    served(STORE[0], "/usr/libexec/xdg-permission-store")
    server = ["/usr/bin/python3", "-m", "dbusmock", "--session", "--template", "notification_daemon"]
    served(NOTIFICATIONS[0], *server, "--parameters", '{"capabilities": "body actions"}')
    desktop.ready_account("work")
    mail = flatpak("org.example.Mail")

    def asked():
        return desktop.connection.call(*NOTIFICATIONS, MOCK, "GetMethodCalls", "s", "Notify")[0]

    def permissions():
        return run(["flatpak", "permissions", "bearerd"], env=desktop.env, check=True).stdout

    asking = threading.Thread(target=lambda: first.append(mail.run(*GET_TOKEN)))
    first = []
    asking.start()
    until("the question", asked, 10)
    action = [("u", 1), ("s", "always")]
    signal = ("ActionInvoked", "us", action)
    desktop.connection.call(*NOTIFICATIONS, MOCK, "EmitSignal", "sssav", NOTIFICATIONS[0], *signal)
    asking.join(20)
    assert first[0].returncode == 0, first

    # Flatpak's columns: table, object, app, permissions, data.
    assert permissions().split()[:4] == ["bearerd", "work", "org.example.Mail", "yes"]
    assert desktop.ctl("permissions").stdout == "work  flatpak:org.example.Mail\n"
    assert not (desktop.state / "bearerd" / "access" / "permissions.json").exists()
    desktop.restart_daemon(kill=True)
    assert mail.run(*GET_TOKEN).returncode == 0 and len(asked()) == 1

    run(["flatpak", "permission-set", "bearerd", "work", "org.example.Mail", "no"], env=desktop.env, check=True)
    denied = mail.run(*GET_TOKEN)
    assert "the user has denied flatpak:org.example.Mail the use of" in denied.stderr, denied
    assert desktop.ctl("permissions").stdout == ""
    run(["flatpak", "permission-set", "bearerd", "work", "org.example.Mail", "yes"], env=desktop.env, check=True)
    assert mail.run(*GET_TOKEN).returncode == 0

    forgotten = desktop.ctl("permissions", "--forget", "flatpak:org.example.Mail", "work")
    assert forgotten.returncode == 0, forgotten
    assert "org.example.Mail" not in permissions()
    assert len(asked()) == 1


# Connects twice, asks through the first connection, leaves both to a child, and ends. The child asks for each line.
LEAVES_ITS_CONNECTIONS = """
import os, sys
from bus import BusError, Connection
known, unknown = Connection(sys.argv[1]), Connection(sys.argv[1])
ask = ("org.bearerd.Broker1", "/org/bearerd/Broker1", "org.bearerd.Broker1", "GetToken", "s", "work")
known.call(*ask)
if os.fork():
    os._exit(0)
for line in sys.stdin:
    try:
        {"known": known, "unknown": unknown}[line.strip()].call(*ask)
        print("granted", flush=True)
    except BusError as error:
        print(error, flush=True)
"""


def _with_number(pid, argv):
    """Starts a program that gets the process number of one that has ended."""
    for _ in range(500):
        pathlib.Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        process = subprocess.Popen(argv)
        if process.pid == pid:
            return process
        process.kill()
        process.wait(10)
    raise AssertionError(f"the number {pid} was not to be had again")


def a_process_that_takes_the_number_of_a_caller_is_not_taken_for_it(desktop):
    """R6: a connection outlives the program that opened it, whose number is somebody else's then."""
    desktop.ready_account("work")
    here = {"PYTHONPATH": str(pathlib.Path(__file__).parent), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-c", LEAVES_ITS_CONNECTIONS, desktop.bus.address]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, env=desktop.env | here, **pipes) as caller:

        def ask(connection):
            caller.stdin.write(f"{connection}\n")
            caller.stdin.flush()
            return caller.stdout.readline()

        assert caller.wait(30) == 0
        gone = ask("unknown")
        assert "AccessDenied: the bus cannot tell whose process you are" in gone, gone
        other = _with_number(caller.pid, [required("sleep"), "60"])
        try:
            assert ask("known") == "granted\n"
        finally:
            other.kill()
            other.wait(10)
        caller.stdin.close()

    lines = desktop.ctl("log", "--json").stdout.splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry["pid"] == caller.pid]
    assert [(entry["event"], entry["outcome"], entry["count"]) for entry in entries] == [("token", "granted", 2)]
    assert "python" in entries[0]["caller"], entries
