"""The packages in a booted Debian, from installation to removal, on both message buses."""

import pytest

import booted
import leaks
import realm
from installed import CALL, UNIT, Installed, install
from matrix import Grid
from processes import run, until

LINK = "/etc/systemd/user/default.target.wants/bearerd.service"
PLACES = (
    "/usr/bin/bearer* /usr/lib/systemd/user/bearerd.service /usr/lib/systemd/catalog "
    "/usr/share/dbus-1/services/org.bearerd* /etc/systemd/user"
)


BUSES = {"dbus-daemon": "dbus.service", "dbus-broker": "dbus-broker.service"}

_table = Grid("keyrings.md", "buses")


def fact(number, case, product, what):
    _table.cell(number, case, product.bus, what)


@pytest.fixture(params=BUSES)
def plain(request, prepared, keycloak, relay, tmp_path):
    """A booted machine, nothing of bearerd in it but carol's configuration."""
    machine = booted.Booted(prepared["BEARERD_ROOT_TAR"], tmp_path)
    try:
        product = Installed(machine, keycloak, relay, f"packaged-{tmp_path.name}".lower()[:60])
        product.configure()
        trace = "[Service]\nEnvironment=BEARERD_LOG=trace\n"
        machine.write_home(".config/systemd/user/bearerd.service.d/trace.conf", trace)
        machine.lingers(booted.DAVE)
        if request.param == "dbus-broker":
            machine.use_dbus_broker()
        machine.boot()
        product.bus = request.param
        assert machine.show("dbus.service", "Id") == BUSES[product.bus]
        yield product
        journal = machine.run("journalctl", "--no-pager", "-o", "export", "--all", root=True, timeout=60).stdout
        print("\n".join(line for line in journal.splitlines() if line.startswith("MESSAGE="))[-6000:])
        leaks.assert_none_in(journal.encode(), relay.secrets() | {realm.SECRET, "pw-carol"}, "the journal")
    finally:
        machine.stop()


@pytest.fixture
def in_use(plain, package):
    """The same with the package installed, and carol logged in."""
    machine = plain.machine
    machine.make_keyring_by_login()
    install(machine, package)
    plain.log_in()
    return plain


def newer(package, folder):
    """The same programs as a later version, whose unit has changed."""
    tree = folder / "newer"
    run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 9"))
    unit = tree / "usr/lib/systemd/user/bearerd.service"
    unit.write_text(unit.read_text().replace("TimeoutStartSec=30", "TimeoutStartSec=31"))
    run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, folder / "newer.deb"], timeout=60, check=True)
    return folder / "newer.deb"


def replaced(machine, pid):
    until("another main process", lambda: machine.main_pid(UNIT) not in (0, pid), 30)
    until("its readiness", lambda: machine.show(UNIT, "ActiveState") == "active", 30)


def _drop_in(machine, text):
    """Replaces the drop-in of this test; an empty one takes it away."""
    folder = "~/.config/systemd/user/bearerd.service.d"
    machine.shell(f"mkdir -p {folder}; cat > {folder}/test.conf", stdin=f"[Service]\n{text}\n", check=True)
    machine.run("systemctl", "--user", "daemon-reload", check=True)


def _in_journal(machine, text, match=("-u", UNIT)):
    """journald writes down what it was told a moment later."""
    until(f"{text!r} in the journal", lambda: any(text in entry["MESSAGE"] for entry in machine.journal(*match)))


def alive(product):
    """A token that the provider takes, of a session for which carol has logged in once."""
    assert product.keycloak.introspect("app", product.token())["active"]
    assert len(product.keycloak.events("app", product.user_id, "LOGIN")) == 1


def a_user_installs_logs_in_and_finds_the_session_after_a_reboot(plain, package):
    """Q8, R16: nothing is reloaded by hand; the keyring is opened by the password login, and nobody logs in again."""
    machine = plain.machine
    machine.make_keyring_by_login()
    missing = plain.call("GetToken", "s", "work")
    assert missing.returncode != 0 and machine.show(UNIT, "LoadState") == "not-found", missing

    install(machine, package)

    verified = machine.run("systemd-analyze", "--user", "--man=no", "verify", f"/usr/lib/systemd/user/{UNIT}")
    assert (verified.returncode, verified.stderr) == (0, ""), verified
    refused = plain.call("GetToken", "s", "work")
    assert "NotConfigured" in refused.stderr, refused
    assert machine.show(UNIT, "ActiveState") == "active"
    plain.log_in()
    alive(plain)
    pid = machine.main_pid(UNIT)
    machine.run("systemctl", "--user", "reload", UNIT, check=True)
    assert machine.main_pid(UNIT) == pid
    machine.run("systemctl", "--user", "restart", UNIT, check=True)
    assert machine.main_pid(UNIT) != pid
    alive(plain)
    fact(1, "login, then `systemctl --user restart`", plain, "token")
    _daves_view_is_empty(plain)
    entries = [entry for entry in machine.journal("-u", UNIT) if entry.get("F_ACCOUNT") == "work"]
    assert entries and all(entry["MESSAGE"] and entry["PRIORITY"] for entry in entries)
    explained = machine.run("journalctl", "--user", "-u", UNIT, "--catalog", "--no-pager", "BEARERD_EVENT=login-end").stdout
    assert "A login has ended" in explained and "bearerctl status work" in explained, explained

    machine.power_off()
    machine.boot()

    until("bearerd, started with the session", lambda: machine.show(UNIT, "ActiveState") == "active", 20)
    assert machine.keyring_is_locked
    refused = plain.call("GetToken", "s", "work")
    assert "StoreLocked" in refused.stderr and "bearerctl unlock" in refused.stderr, refused
    fact(2, "reboot, nobody has typed the login password yet", plain, "`StoreLocked`")
    assert machine.log_in_with_password("wrong").returncode != 0
    assert machine.keyring_is_locked
    assert machine.log_in_with_password().returncode == 0
    until("a token", lambda: isinstance(plain.call("GetToken", "s", "work"), list), 20)
    alive(plain)
    fact(3, "login with the password", plain, "token")


def _daves_view_is_empty(product):
    """Another user of the machine: own daemon, own keyring, nothing of carol's."""
    machine = product.machine
    carol, dave = booted.CAROL, {"uid": booted.DAVE}
    pid = machine.main_pid(UNIT)
    own = machine.run("busctl", "--user", "call", *CALL, "GetToken", "s", "work", **dave)
    assert "NoSuchAccount" in own.stderr, own
    for command in (
        f"busctl --address=unix:path=/run/user/{carol}/bus call {' '.join(CALL)} GetToken s work",
        f"ls /run/user/{carol}/bearerd",
        "ls /home/carol/.local/state/bearerd",
        f"cat /proc/{pid}/environ",
        f"ls /proc/{pid}/fd",
        f"kill -0 {pid}",
    ):
        done = machine.shell(command, **dave)
        assert done.returncode != 0 and ("denied" in done.stderr or "not permitted" in done.stderr), (command, done)
    assert machine.shell(f"tr '\\0' ' ' < /proc/{pid}/cmdline", check=True, **dave).stdout.split() == ["/usr/bin/bearerd"]
    # Warns that other users' messages are not shown.
    journal = machine.run("journalctl", "--no-pager", "-o", "cat", f"_UID={carol}", **dave)
    assert journal.stdout.strip() in ("", "-- No entries --"), journal


def an_upgrade_replaces_the_running_daemon_and_removal_leaves_nothing_running(in_use, package, tmp_path):
    """D7: sessions outlive the upgrade, and even the package."""
    machine = in_use.machine
    pid = machine.main_pid(UNIT)

    machine.install(newer(package, tmp_path), "/root/newer.deb")
    machine.run("dpkg", "--install", "/root/newer.deb", root=True, check=True)

    replaced(machine, pid)
    assert machine.show(UNIT, "NeedDaemonReload") == "no"
    assert machine.show(UNIT, "TimeoutStartUSec") == "31s"
    alive(in_use)

    machine.run("systemctl", "--global", "disable", UNIT, root=True, check=True)
    install(machine, package)  # a step back is an upgrade too
    assert machine.shell(f"ls {LINK}", root=True).returncode != 0, "an administrator's choice was undone"
    machine.run("systemctl", "--global", "enable", UNIT, root=True, check=True)
    alive(in_use)
    pid = machine.main_pid(UNIT)

    machine.run("dpkg", "--remove", "bearerd", root=True, check=True)

    assert not (machine.root / f"proc/{pid}").exists()
    assert (machine.show(UNIT, "LoadState"), machine.show(UNIT, "ActiveState")) == ("not-found", "inactive")
    left = machine.shell(f"find {PLACES} -name '*bearer*' 2>/dev/null", root=True).stdout
    assert left == "", left
    assert "bearerd" not in machine.run("journalctl", "--list-catalog", check=True).stdout
    gone = in_use.call("GetToken", "s", "work")
    assert "not provided by any" in gone.stderr or "not activatable" in gone.stderr, gone

    machine.run("dpkg", "--purge", "bearerd", root=True, check=True)
    left = machine.shell("find /etc/systemd /var/lib/systemd -name '*bearerd*'", root=True).stdout
    assert left == "", left
    install(machine, package)
    assert machine.shell(f"readlink {LINK}", root=True, check=True).stdout.strip() == f"/usr/lib/systemd/user/{UNIT}"
    alive(in_use)  # documented: sessions stay in the keyring
    fact(4, "upgrade; removal and installation", in_use, "token")


def a_daemon_that_hangs_dies_or_starves_is_back_with_its_session(in_use):
    """The watchdog, `kill -9`, and limits on files and memory that are too tight."""
    machine = in_use.machine
    _drop_in(machine, "WatchdogSec=1")
    machine.run("systemctl", "--user", "restart", UNIT, check=True)
    pid = machine.main_pid(UNIT)

    machine.run("kill", "-STOP", str(pid), check=True)

    replaced(machine, pid)
    _in_journal(machine, "Watchdog timeout")
    alive(in_use)

    pid = machine.main_pid(UNIT)
    machine.run("kill", "-KILL", str(pid), check=True)
    replaced(machine, pid)
    alive(in_use)
    fact(5, "watchdog; `kill -9`", in_use, "token")

    _drop_in(machine, "LimitNOFILE=24\nRestart=no")
    refused = machine.run("systemctl", "--user", "restart", UNIT)
    assert refused.returncode != 0 and "journalctl" in refused.stderr, refused
    # journald does not learn the unit of a process that ended at once.
    _in_journal(machine, "24 open files", ("-t", "bearerd"))
    _drop_in(machine, "LimitDATA=1M\nRestart=no")
    assert machine.run("systemctl", "--user", "restart", UNIT).returncode != 0
    _drop_in(machine, "LimitNOFILE=64\nLimitDATA=64M")
    machine.run("systemctl", "--user", "restart", UNIT, check=True)
    alive(in_use)


@pytest.mark.parametrize("plain", ["dbus-daemon"], indirect=True)
def setup_says_which_unit_counts_when_a_package_has_one_too(plain, package, binaries):
    """A bearerd below home wins over the package's, until its setup is undone."""
    machine = plain.machine
    install(machine, package)
    for program in ("bearerd", "bearerctl"):
        machine.install(binaries / program, f"/home/carol/.local/bin/{program}", 0o755)
    machine.run("chown", "--recursive", "carol:", "/home/carol/.local", root=True, check=True)
    packaged, own = f"/usr/lib/systemd/user/{UNIT}", f"/home/carol/.config/systemd/user/{UNIT}"

    said = machine.shell("~/.local/bin/bearerctl setup", check=True).stderr

    assert f"for you {own} wins over it" in said, said
    assert machine.show(UNIT, "FragmentPath") == own
    assert machine.shell(f"readlink /proc/{machine.main_pid(UNIT)}/exe", root=True).stdout.startswith("/home/carol")
    said = machine.shell("~/.local/bin/bearerctl setup --remove", check=True).stderr
    assert f"{packaged} of a package counts now" in said, said
    assert plain.call("ListAccounts")[0][0][0] == "work"
    assert machine.show(UNIT, "FragmentPath") == packaged

    machine.shell("~/.local/bin/bearerctl setup", check=True)
    said = machine.run("bearerctl", "setup", check=True).stderr  # the package's own puts itself in force
    assert f"removed {own}" in said and f"came with its unit, {packaged}" in said, said
    assert machine.show(UNIT, "FragmentPath") == packaged
    assert machine.shell(f"readlink /proc/{machine.main_pid(UNIT)}/exe", root=True).stdout.strip() == "/usr/bin/bearerd"


def the_table_in_the_docs_is_what_happened(whole):
    """docs/keyrings.md; UPDATE_EXPECT=1 writes it."""
    _table.check({bus: bus for bus in BUSES}, whole)
