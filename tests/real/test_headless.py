"""The recipes of docs/headless.md, each as it is printed there, in a machine that boots again and nobody logs in to."""

import re

import pytest

import booted
from conftest import PROJECT
from installed import UNIT
from processes import until

DOCUMENT = PROJECT / "docs" / "headless.md"
TOKEN = "canary-kept"


@pytest.fixture
def machine(prepared, binaries, tmp_path):
    """A booted Debian with the unit and an account, whose keyring nothing opens."""
    machine = booted.Booted(prepared["BEARERD_ROOT_TAR"], tmp_path)
    try:
        for program in ("bearerd", "bearerctl"):
            machine.install(binaries / program, f"/usr/bin/{program}", 0o755)
        machine.install(PROJECT / "systemd" / UNIT, f"/usr/lib/systemd/user/{UNIT}")
        activation = "org.bearerd.Broker1.service"
        machine.install(PROJECT / "dbus" / activation, f"/usr/share/dbus-1/services/{activation}")
        machine.write_home(".config/bearerd/config.toml", "[accounts.dev]\nsource = 'personal'\n")
        pam = machine.root / "etc/pam.d/login"
        pam.write_text(re.sub(r".*pam_gnome_keyring.*\n", "", pam.read_text()))
        machine.boot()
        machine.run("systemctl", "--user", "enable", UNIT, check=True)
        yield machine
        print(machine.run("journalctl", "--no-pager", "-n", "60", "-o", "cat", root=True).stdout)
    finally:
        machine.stop()


def follow(machine, heading):
    """Runs what the document has below a heading: its blocks say as whom."""
    text = DOCUMENT.read_text()
    _, found, rest = text.partition(f"\n## {heading}\n")
    blocks = re.findall(r"^```sh (root|user)\n(.*?)^```$", rest.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    assert found and blocks, heading
    for who, commands in blocks:
        machine.shell(f"set -e\n{commands}", root=who == "root", timeout=60, check=True)


def reboot(machine):
    machine.power_off()
    machine.boot()
    until("bearerd, started at boot", lambda: machine.show(UNIT, "ActiveState") == "active", 20)


def save(machine):
    def saved():
        return machine.run("bearerctl", "set-token", "dev", stdin=TOKEN).returncode == 0

    until("a saved token", saved, 20)


def token(machine):
    return machine.run("bearerctl", "token", "dev")


def a_login_with_a_password_opens_the_keyring(machine):
    """Locked after a boot, open from the first login on; and not without the recipe."""
    assert machine.log_in_with_password().returncode == 0
    assert not list((machine.root / "home/carol/.local/share/keyrings").glob("login*")), "not by the recipe"
    follow(machine, "Opened by a login with a password")
    machine.make_keyring_by_login()
    save(machine)

    reboot(machine)

    refused = token(machine)
    assert "StoreLocked" in refused.stderr, refused
    assert machine.log_in_with_password().returncode == 0
    assert until("the token", lambda: token(machine).stdout.strip(), 20) == TOKEN


@pytest.mark.parametrize("heading", ["Opened by an encrypted credential", "Opened by a credential"])
def a_credential_opens_the_keyring_at_boot(machine, heading):
    """R17: carol lingers, and has not logged in."""
    follow(machine, heading)
    if "encrypted" in heading:  # it says so
        reboot(machine)
    save(machine)

    reboot(machine)

    assert machine.run("loginctl", "--no-legend", "list-sessions", root=True).stdout.strip() in ("", "No sessions.")
    assert until("the token", lambda: token(machine).stdout.strip(), 20) == TOKEN
    assert not machine.keyring_is_locked


def a_client_secret_comes_from_a_credential_where_there_is_no_keyring(machine):
    """R17."""
    follow(machine, "No keyring")

    refused = machine.run("bearerctl", "token", "work")

    assert refused.returncode == 3 and "LoginRequired" in refused.stderr, refused
