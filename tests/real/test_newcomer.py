"""From nothing to a token, as somebody does it who has only the documents."""

import os
import time

import pytest

import booted
import realm
from conftest import PROJECT
from installed import BROWSER, Installed
from terminal import Terminal


@pytest.fixture
def desk(prepared, package, keycloak, relay, tmp_path):
    """A booted Debian with a desktop's keyring and browser, the package in root's home, and nothing of bearerd."""
    machine = booted.Booted(prepared["BEARERD_ROOT_TAR"], tmp_path)
    try:
        product = Installed(machine, keycloak, relay, f"newcomer-{tmp_path.name}".lower()[:60])
        product.note_addresses()
        machine.install(package, f"/root/{package.name}")
        machine.boot()
        machine.make_keyring_by_login()
        yield product
    finally:
        machine.stop()


def _commands(heading):
    """The lines of the first block under this heading of installing.md, without their comments."""
    text = (PROJECT / "docs/installing.md").read_text()
    block = text.partition(f"## {heading}\n")[2].partition("```sh\n")[2].partition("```")[0]
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


def the_documents_three_commands_lead_from_the_package_to_a_token(desk):
    """Everything typed is in the document or asked for by name; what the programs take is printed."""
    install, add, token = _commands("From nothing to a token")
    began = time.monotonic()

    installed = desk.machine.shell(f"cd /root && {install.removeprefix('sudo ')}", root=True, timeout=120)
    assert installed.returncode == 0, installed
    terminal = Terminal(within=desk.machine.within(env={"TERM": "xterm", "BROWSER": BROWSER}), env=os.environ, rows=50)
    try:
        terminal.type(f"{add}\n")
        for question, answer in (
            ("or an issuer's URL:", desk.keycloak.realm_url("app")),
            ("registered under:", realm.QUIET_CLIENT),
            ("[openid profile]:", ""),
            ("log in now? [Y/n]:", ""),
            ("(not shown):", realm.SECRET),
        ):
            # Long questions are broken at the terminal's edge.
            terminal.until(question, lambda: terminal.text.replace("\n", "").endswith(question))
            terminal.type(f"{answer}\n")
        desk.approve()
        terminal.until_shows(f'logged in to "work" as {desk.user}')
        terminal.until_prompt()
        given = terminal.command(token)
    finally:
        terminal.close()

    print(f"from the package to a token: {time.monotonic() - began:.1f} s")
    assert desk.keycloak.introspect("app", given.replace("\n", ""))["active"], given
