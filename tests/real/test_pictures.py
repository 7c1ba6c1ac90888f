"""What a person sees, made from real runs, as the guide shows it. BEARERD_PICTURES names a folder to keep it in."""

import os
import pathlib
import re
import shlex
import xml.etree.ElementTree

import pytest

import booted
import realm
from bus import MOCK, Monitor
from drawing import svg
from installed import BROWSER, Installed, install
from processes import until
from screen import Screen
from terminal import Terminal

PORTAL = ("org.freedesktop.portal.Desktop", "/org/freedesktop/portal/desktop")
OPEN_URI = "org.freedesktop.portal.OpenURI"


@pytest.fixture
def product(prepared, package, keycloak, relay, tmp_path):
    """A booted machine with the package, a keyring that is open, and two accounts."""
    machine = booted.Booted(prepared["BEARERD_ROOT_TAR"], tmp_path)
    try:
        product = Installed(machine, keycloak, relay, "robin")
        accounts = {"work": realm.QUIET_CLIENT, "home": realm.CONSENT_CLIENT}
        machine.write_home(".config/bearerd/config.toml", "".join(
            f"[accounts.{name}]\nissuer = {keycloak.realm_url('app')!r}\nclient_id = {client!r}\n"
            "scopes = ['openid', 'profile']\n\n"
            for name, client in accounts.items()
        ))
        product.note_addresses()
        machine.boot()
        machine.make_keyring_by_login()
        install(machine, package)
        for account in accounts:
            machine.run("bearerctl", "set-secret", account, stdin=realm.SECRET, check=True)
        yield product
    finally:
        machine.stop()


@pytest.fixture
def terminal(product):
    """Opens terminals of carol's on the machine."""
    opened = []

    def start(rows):
        env = {"TERM": "xterm-256color", "BROWSER": BROWSER}
        within = product.machine.within(env=env)
        opened.append(Terminal(within=within, env=os.environ, columns=96, rows=rows))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


def _keep(name, frames, title):
    """Keeps the picture where it is wanted; returns the words in it."""
    picture = svg(frames, title)
    words = " ".join(xml.etree.ElementTree.fromstring(picture).itertext())
    if folder := os.environ.get("BEARERD_PICTURES"):
        pathlib.Path(folder, f"{name}.svg").write_text(picture)
    return words


def _left(text):
    """What a countdown shows."""
    return re.search(r"\d+ min.* left", text)[0]


def a_terminal_shows_a_login_the_accounts_and_who_took_tokens(product, terminal):
    """A3: the spinner turns and counts down while the browser is waited for, and is gone when it is done."""
    screen = terminal(rows=14)
    screen.type("bearerctl login work\n")
    screen.until_shows("waiting for the browser (Ctrl-C cancels), ")
    first = _left(screen.text)
    screen.until("the countdown", lambda: _left(screen.text) != first)
    assert product.approve().status == 200
    screen.until_prompt()
    assert 'logged in to "work" as robin' in screen.text and "waiting" not in screen.text
    words = _keep("login", screen.frames, "bearerctl login work")
    assert "log in to" in words and first in words and "as robin" in words

    screen = terminal(rows=10)
    said = screen.command("bearerctl status")
    assert re.search(r"^home +logged-out +- ", said, re.M) and re.search(r"^work +ready +robin +\d min", said, re.M), said
    assert said.endswith("home: not logged in to \"home\"; run: bearerctl login home"), said
    assert "ready" in _keep("status", screen.frames[-1:], "bearerctl status")

    screen = terminal(rows=8)
    screen.type("bearerctl status --watch\n")
    screen.until_shows("home: not logged in")
    other = terminal(rows=14)
    other.type("bearerctl login home\n")
    other.until_shows("waiting for the browser")
    assert product.approve().status == 200
    screen.until("both are ready", lambda: screen.text.count(" ready ") == 2)
    shown = screen.text
    screen.until("the times move", lambda: screen.text != shown)
    assert "not logged in" not in screen.text
    _keep("watch", screen.frames, "bearerctl status --watch")
    screen.interrupt()
    screen.until_prompt()

    screen = terminal(rows=14)
    script = "for page in 1 2 3; do bearerctl token work; done"
    product.machine.shell(f"sh -c {shlex.quote(script)}", check=True)
    said = screen.command("bearerctl log")
    assert re.search(r"work  token  granted  exe:/usr/bin/bearerctl \(.*\)  x3", said), said
    _keep("log", screen.frames[-1:], "bearerctl log")


@pytest.fixture
def display(desktop):
    """A display with a notification server in the session."""
    screen = Screen(desktop.folder, desktop.env)
    screen.start_notifications(desktop.connection)
    yield screen
    screen.close()


@pytest.fixture
def portal(desktop, served):
    """A portal that opens nothing, and how often it was asked to."""
    served(PORTAL[0], "/usr/bin/python3", "-m", "dbusmock", "--session", *PORTAL, OPEN_URI)
    answer = f"ret = dbus.ObjectPath('{PORTAL[1]}/request/1')"
    desktop.connection.call(*PORTAL, MOCK, "AddMethod", "sssss", OPEN_URI, "OpenURI", "ssa{sv}", "o", answer)
    return lambda: len(desktop.connection.call(*PORTAL, MOCK, "GetMethodCalls", "s", "OpenURI")[0])


def a_lost_session_is_shown_on_the_desktop_and_its_button_logs_in(desktop, keycloak, display, portal, tmp_path):
    """There is one button, a real click presses it, and the login that it starts takes the card away."""
    user = desktop.ready_account("work")
    keycloak.end_sessions("app", user)
    desktop.token("work", force_refresh=True)  # the old one lives on
    desktop.until_state("work", "expired")
    x, y, width, height = until("a card", display.card, 30)
    display.picture(pathlib.Path(os.environ.get("BEARERD_PICTURES", tmp_path), "notification.png"))

    with Monitor(desktop.bus.address) as monitor:
        display.click(x + width - 57, y + height - 31)
        (action,) = until("the click", lambda: monitor.signals("ActionInvoked"))

    assert action.body[1] == "login"
    until("a login", lambda: desktop.account_property("work", "LoginAttempt") != "/")
    until("a browser", portal)
    assert desktop.log_in("work")[0] == "succeeded"
    until("an empty screen", lambda: display.card() is None)
