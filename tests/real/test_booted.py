"""The installed product in a booted Debian: systemd's user manager, bus activation, journal."""

import json

import pytest

import booted
import leaks
import matrix
import pages
import realm
from conftest import PROJECT
from installed import CALL, UNIT, Installed
from processes import until


@pytest.fixture
def installed(prepared, binaries, keycloak, relay, tmp_path):
    machine = booted.Booted(prepared["BEARERD_ROOT_TAR"], tmp_path)
    try:
        machine.install(binaries / "bearerd", "/usr/bin/bearerd", 0o755)
        machine.install(binaries / "bearerctl", "/usr/bin/bearerctl", 0o755)
        machine.install(PROJECT / "systemd/bearerd.service", "/usr/lib/systemd/user/bearerd.service")
        machine.install(
            PROJECT / "dbus/org.bearerd.Broker1.service", "/usr/share/dbus-1/services/org.bearerd.Broker1.service"
        )
        # Everything that the daemon can say, for the search for leaks.
        trace = "[Service]\nEnvironment=BEARERD_LOG=trace\n"
        machine.write_home(".config/systemd/user/bearerd.service.d/trace.conf", trace)
        machine.keyring_unlocked_by_a_script()
        product = Installed(machine, keycloak, relay, f"booted-{tmp_path.name}".lower()[:60])
        product.configure()
        machine.boot()
        machine.start_keyring()
        yield product
        journal = machine.run("journalctl", "--no-pager", "-o", "export", "--all", root=True, timeout=60).stdout
        print("\n".join(line for line in journal.splitlines() if line.startswith("MESSAGE="))[-6000:])
        leaks.assert_none_in(journal.encode(), relay.secrets() | {realm.SECRET}, "the journal")
    finally:
        machine.stop()


def the_readmes_own_commands_install_it_below_home(prepared, binaries, tmp_path):
    """README, "Install": without root and without packages; everything but the build, as it is printed there."""
    text = (PROJECT / "README.md").read_text()
    block = text.partition("## Install")[2].partition("```sh\n")[2].partition("```")[0]
    commands = "\n".join(line for line in block.splitlines() if not line.startswith("cargo "))
    assert "bearerctl setup" in commands, block
    machine = booted.Booted(prepared["BEARERD_ROOT_TAR"], tmp_path)
    try:
        for program in ("bearerd", "bearerctl"):
            machine.install(binaries / program, f"/home/carol/.local/bin/{program}", 0o755)
        machine.write_home(".config/bearerd/config.toml", "[accounts.dev]\nsource = 'personal'\n")
        machine.boot()

        machine.shell(f"set -e\n{commands}", check=True)

        refused = machine.run("busctl", "--user", "call", *CALL, "GetToken", "s", "dev")
        assert "StoreUnavailable" in refused.stderr or "LoginRequired" in refused.stderr, refused
        assert machine.show(UNIT, "ActiveState") == "active"
        machine.run("systemctl", "--user", "reload", UNIT, check=True)
        doctor = machine.shell("PATH=~/.local/bin:$PATH bearerctl doctor").stdout
        for fine in ("ok    activation: ", "ok    unit: enabled", "ok    bearerd: it answers"):
            assert fine in doctor, doctor

        again = machine.shell("~/.local/bin/bearerctl setup", check=True).stderr
        assert again.count("is as it should be") == 2, again
        unit = "/home/carol/.config/systemd/user/bearerd.service"
        machine.shell(f"sed -i 's/Restart=always/Restart=no/' {unit}", check=True)
        assert f"wrote {unit}" in machine.shell("~/.local/bin/bearerctl setup", check=True).stderr
        machine.shell(f"echo '[Service]' > {unit}", check=True)
        refused = machine.shell("~/.local/bin/bearerctl setup")
        assert refused.returncode == 1 and "was not written by bearerctl setup" in refused.stderr, refused
        machine.shell(f"rm {unit} && ~/.local/bin/bearerctl setup", check=True)
        machine.shell("~/.local/bin/bearerctl setup --remove", check=True)
        assert machine.show(UNIT, "LoadState") == "not-found"
        left = machine.shell("find ~/.config/systemd ~/.local/share/dbus-1 -type f -o -type l").stdout
        assert left == "", left
    finally:
        machine.stop()


def the_first_call_starts_the_daemon(installed):
    """Q8: nothing runs, one call activates the unit, and the answer is the product's own."""
    machine = installed.machine
    assert machine.show(UNIT, "ActiveState") == "inactive"

    refused = installed.call("GetToken", "s", "work")

    assert "NotConfigured" in refused.stderr or "LoginRequired" in refused.stderr, refused
    assert machine.show(UNIT, "ActiveState") == "active"
    machine.run("bearerctl", "set-secret", "work", stdin=realm.SECRET, check=True)
    refused = installed.call("GetToken", "s", "work")
    assert refused.stderr.strip().endswith('LoginRequired: not logged in to "work"; run: bearerctl login work')


def a_login_survives_restart_crash_and_reload(installed):
    """P5, D7, N14, Q8 under the real service manager and keyring."""
    installed.log_in()
    machine, keycloak = installed.machine, installed.keycloak
    assert keycloak.introspect("app", installed.token())["username"] == installed.user

    machine.run("systemctl", "--user", "restart", UNIT, check=True)
    assert keycloak.introspect("app", installed.token())["active"]

    pid = machine.main_pid(UNIT)
    machine.run("systemctl", "--user", "kill", "--signal=KILL", "--kill-whom=main", UNIT, check=True)
    until("another main process", lambda: machine.main_pid(UNIT) not in (0, pid), 20)
    assert keycloak.introspect("app", installed.token())["active"]

    machine.run("systemctl", "--user", "stop", UNIT, check=True)
    assert keycloak.introspect("app", installed.token())["active"]  # activated by the call
    assert len(keycloak.events("app", installed.user_id, "LOGIN")) == 1


def a_session_that_no_keyring_has_yet_survives_kill_and_restart(installed):
    """D11: it is in the service manager's keeping, just as long as the keyring is closed."""
    installed.log_in()
    machine, keycloak = installed.machine, installed.keycloak
    login = "/org/freedesktop/secrets/collection/login"
    secrets = ("org.freedesktop.secrets", "/org/freedesktop/secrets", "org.freedesktop.Secret.Service")
    machine.run("busctl", "--user", "call", *secrets, "Lock", "ao", "1", login, check=True)
    installed.call("GetTokenWithOptions", "sa{sv}", "work", "1", "force_refresh", "b", "true")
    until("a kept descriptor", lambda: machine.show(UNIT, "NFileDescriptorStore") == "1", 10)

    pid = machine.main_pid(UNIT)
    machine.run("systemctl", "--user", "kill", "--signal=KILL", "--kill-whom=main", UNIT, check=True)
    until("another main process", lambda: machine.main_pid(UNIT) not in (0, pid), 20)
    status = machine.run("bearerctl", "status", "--json", check=True).stdout
    assert "unsaved" in status, status
    # A client secret in the locked keyring is all that keeps it from the next refresh.
    machine.run("systemctl", "--user", "restart", UNIT, check=True)
    machine.start_keyring()

    until("the save", lambda: machine.show(UNIT, "NFileDescriptorStore") == "0", 30)
    assert keycloak.introspect("app", installed.token())["active"]
    machine.run("systemctl", "--user", "restart", UNIT, check=True)
    assert keycloak.introspect("app", installed.token())["active"]
    assert len(keycloak.events("app", installed.user_id, "LOGIN")) == 1
    assert installed.relay.count("refresh_token") == installed.relay.count("refresh_token", 200)
    matrix.row(43, "keyring locked, rotation, `kill -9`, restart by systemd, unlocked", "token", 3, "lives")


def another_user_and_root_get_no_token_of_hers(installed):
    """R7: by her bus and by her direct socket."""
    installed.log_in()
    machine = installed.machine
    hers = {"XDG_RUNTIME_DIR": "/run/user/1000", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1000/bus"}
    direct = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1000/bearerd/bus"}
    asks = [["busctl", "--user", "call", *CALL, "GetToken", "s", "work"], ["bearerctl", "token", "work"]]
    for ask in asks:
        for way in (hers, hers | direct):
            assert machine.run(*ask, env=way).returncode == 0, "it is the way that she asks herself"
            for who in ({"root": True}, {"uid": booted.DAVE}):
                refused = machine.run(*ask, env=way, **who)
                assert refused.returncode != 0 and refused.stdout == "", refused
    assert installed.keycloak.introspect("app", installed.token())["active"]


def a_login_callback_of_another_user_is_dropped(installed):
    """B18, R8, R9: root here, but any uid that isn't carol's."""
    machine = installed.machine
    machine.run("bearerctl", "set-secret", "work", stdin=realm.SECRET, check=True)
    attempt, url = installed.call("LoginWithOptions", "sa{sv}", "work", "1", "open_browser", "b", "false")
    callback = pages.callback_of(url, installed.user, installed.keycloak.password_of(installed.user))

    stranger = machine.run("curl", "--silent", "--max-time", "20", "--write-out", "%{http_code}", callback, root=True)

    assert stranger.stdout in ("000", "400", "403"), stranger
    assert installed.relay.count("authorization_code") == 0
    machine.get_callback_as_carol(callback)  # the login went on, and hers is taken
    assert installed.call("Wait", "u", "20000", path=attempt, interface="org.bearerd.Broker1.Login") == ["succeeded"]


def a_reload_takes_a_new_account_and_refuses_a_broken_file_whole(installed):
    """Design section 5: ExecReload reports, and on error the old configuration stays."""
    machine = installed.machine
    installed.log_in()
    before = installed.token()
    installed.configure(second=realm.PUBLIC_CLIENT)

    machine.run("systemctl", "--user", "reload", UNIT, check=True)

    assert {account[0] for account in installed.call("ListAccounts")[0]} == {"work", "second"}
    assert installed.token() == before
    machine.write_home(".config/bearerd/config.toml", "[accounts.work]\nclient_idd = 'x'\n")
    assert machine.run("systemctl", "--user", "reload", UNIT).returncode != 0
    assert {account[0] for account in installed.call("ListAccounts")[0]} == {"work", "second"}
    assert installed.token() == before


def systemctl_and_the_journal_tell_what_the_daemon_does(installed):
    """R16, style section 9: a STATUS line, fields to search by, no secret (the fixture looks for those)."""
    machine = installed.machine
    installed.log_in()
    installed.token()

    assert machine.show(UNIT, "StatusText")
    assert "Status: " in machine.run("systemctl", "--user", "status", "--no-pager", UNIT).stdout
    installed.call("GetTokenWithOptions", "sa{sv}", "work", "1", "force_refresh", "b", "true")
    state = machine.shell("stat -c '%a %n' ~/.local/state/bearerd/*", check=True).stdout.split()
    assert state[0::2] == ["600", "600"] and state[1].endswith("/lock") and state[3].endswith("/work.json"), state
    entries = until(
        "journal entries of the account",
        lambda: [e for e in machine.journal("-u", UNIT) if e.get("F_ACCOUNT") == "work"],
    )
    assert all(entry["MESSAGE"] for entry in entries)
    assert {entry["_SYSTEMD_USER_UNIT"] for entry in entries} == {UNIT}
    # Nothing that the unit's sandbox forbids is missed: notes, lock, routes, logind.
    complaints = [entry["MESSAGE"] for entry in machine.journal("-u", UNIT) if int(entry["PRIORITY"]) <= 4]
    unseen = [entry["MESSAGE"] for entry in machine.journal("-u", UNIT) if "are not" in entry["MESSAGE"]]
    assert not complaints and not unseen, (complaints, unseen)


def the_unit_is_sound(installed):
    """Design section 6 (Unit); systemd's own checks, and the effects that can be seen from outside."""
    machine = installed.machine

    verified = machine.run("systemd-analyze", "--user", "--man=no", "verify", f"/usr/lib/systemd/user/{UNIT}")
    assert (verified.returncode, verified.stderr) == (0, ""), verified
    machine.run("systemctl", "--user", "start", UNIT, check=True)
    assert machine.show(UNIT, "Type") == "notify"
    assert machine.show(UNIT, "NoNewPrivileges") == "yes"
    assert machine.show(UNIT, "MemorySwapMax") == "0"
    pid = machine.main_pid(UNIT)
    limits = machine.shell(f"grep 'Max core file size' /proc/{pid}/limits", root=True).stdout.split()
    assert limits[4:6] == ["0", "0"], limits
    runtime = machine.shell("stat -c %a:%U /run/user/1000/bearerd", check=True).stdout.strip()
    assert runtime == "700:carol"
    machine.run("systemctl", "--user", "enable", UNIT, check=True)


def status_is_readable_by_programs(installed):
    """Design section 4."""
    installed.log_in()

    done = installed.machine.run("bearerctl", "status", "--json", check=True)

    assert "work" in done.stdout and "ready" in done.stdout
    json.loads(done.stdout)
    table = installed.machine.run("bearerctl", "status", check=True)
    assert "work" in table.stdout and "ready" in table.stdout
    token = installed.machine.run("bearerctl", "token", "work", check=True).stdout.strip()
    assert installed.keycloak.introspect("app", token)["active"]


def _asks_as_unit(installed, unit):
    """What a unit of hers is told that asks for a token."""
    ask = ["busctl", "--user", "--json=short", "call", *CALL, "GetToken", "s", "work"]
    return installed.machine.run("systemd-run", "--user", f"--unit={unit}", "--collect", "--pipe", "--wait", *ask)


def _log(installed):
    return installed.machine.run("bearerctl", "log", "--json", check=True).stdout


def a_unit_of_the_user_manager_is_known_by_its_name_and_a_snap_by_its_cgroup(installed):
    """Q5, R1, R6: rules hold for units; what each was given is in neither the log nor the journal."""
    installed.log_in()
    machine = installed.machine

    given = _asks_as_unit(installed, "nightly.service")
    token = json.loads(given.stdout)["data"][0]
    assert installed.keycloak.introspect("app", token)["active"]
    entries = [json.loads(line) for line in _log(installed).splitlines()]
    assert any(entry["unit"] == "nightly.service" and entry["outcome"] == "granted" for entry in entries), entries
    snap = _asks_as_unit(installed, "snap.hello.agent.service")
    assert "AccessDenied: snap:hello may use" in snap.stderr, snap

    rule = "\n[[accounts.work.rules]]\ncaller = 'unit:nightly.service'\naccess = 'deny'\n"
    machine.shell(f"cat >> ~/.config/bearerd/config.toml <<'END'{rule}END", check=True)
    machine.run("bearerctl", "reload", check=True)
    denied = _asks_as_unit(installed, "nightly.service")
    assert "its rule for" in denied.stderr and "unit:nightly.service" in denied.stderr, denied
    others = [installed.token(), machine.run("bearerctl", "token", "work", check=True).stdout.strip()]

    seen = _log(installed) + machine.run("journalctl", "--no-pager", "-o", "export", "--all", root=True).stdout
    assert "BEARERD_CALLER=snap:hello" in seen and "BEARERD_CALLER_UNIT=nightly.service" in seen
    leaked = [secret for secret in (token, *others) if secret in seen]
    assert not leaked, "a token is in the log or in the journal"


def another_user_and_root_are_refused_by_the_bus_and_where_that_lets_them_in_by_bearerd(installed):
    """R7: on her own bus as it comes, and on one that was opened to everybody."""
    installed.log_in()
    machine = installed.machine
    machine.run("chmod", "711", "/run/user/1000", root=True, check=True)
    before = _log(installed)

    def strangers():
        address = "--address=unix:path=/run/user/1000/bus"
        ask = ["busctl", address, "call", *CALL, "GetToken", "s", "work"]
        return {1001: machine.run(*ask, uid=booted.DAVE), 0: machine.run(*ask, root=True)}

    for uid, done in strangers().items():
        assert done.returncode != 0 and "bearerd" not in done.stderr, (uid, done)
    assert _log(installed) == before

    open_to_all = "<busconfig><policy context='mandatory'><allow user='*'/></policy></busconfig>"
    machine.shell(f'echo "{open_to_all}" > /etc/dbus-1/session-local.conf', root=True, check=True)
    bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
    machine.run("busctl", "--user", "call", *bus, "ReloadConfig", check=True)
    for uid, done in strangers().items():
        assert f"AccessDenied: you are uid {uid}, and this bearerd serves uid 1000 alone" in done.stderr, (uid, done)


def a_locked_session_of_the_real_logind_pauses_the_broker(installed):
    """`pause_on_lock`, with a session that PAM opened; the daemon runs in its unit's sandbox."""
    machine = installed.machine
    machine.shell("sed -i '1i pause_on_lock = true' ~/.config/bearerd/config.toml", check=True)
    installed.log_in()
    installed.token()
    # It lasts as long as its program: a prompt that nobody answers.
    session = ["systemd-run", "--collect", "-E", "XDG_SESSION_TYPE=wayland", "-E", "XDG_SESSION_CLASS=user"]
    prompt = "sleep 600 | pamtester login carol open_session authenticate"
    machine.run(*session, "/bin/sh", "-c", prompt, root=True, check=True)
    logind = ("org.freedesktop.login1", "/org/freedesktop/login1/user/_1000", "org.freedesktop.login1.User")
    display = ["busctl", "--json=short", "get-property", *logind, "Display"]
    path = until("her session", lambda: json.loads(machine.run(*display, root=True).stdout)["data"][1].strip("/"))

    def lock(on):
        lock = ["busctl", "call", logind[0], f"/{path}", "org.freedesktop.login1.Session", "SetLockedHint", "b", on]
        machine.run(*lock, check=True)

    lock("true")
    until("the pause", lambda: not isinstance(installed.call("GetToken", "s", "work"), list))
    assert "the screen is locked" in installed.call("GetToken", "s", "work").stderr
    machine.run("systemctl", "--user", "restart", UNIT, check=True)
    assert "the screen is locked" in installed.call("GetToken", "s", "work").stderr
    lock("false")
    until("the pause's end", lambda: isinstance(installed.call("GetToken", "s", "work"), list))
