"""The same cases on each Secret Service that there is; what happened is the table in docs/keyrings.md."""

import json

import pytest

import keyrings
import leaks
import realm
from bus import Monitor
from matrix import Grid
from processes import until
from session import Session, closing

OURS = ("org.bearerd.Session", "org.bearerd.ClientSecret")
# What KeePassXC and oo7 add to every item of theirs.
ADDED = {"Notes", "Path", "Title", "URL", "UserName", "Uuid", "xdg:content-type"}
FOREIGN = [{"app": "mail"}, {"app": "mail", "account": "work"}]

_table = Grid("keyrings.md", "keyrings")


def fact(number, case, keyring, what):
    _table.cell(number, case, keyring.name, what)


@pytest.fixture(params=keyrings.ALL, ids=lambda kind: kind.name)
def on(request, tmp_path_factory, binaries, keycloak, relay):
    """A session with one of the keyrings, which the test starts."""
    yield from closing(Session(tmp_path_factory.mktemp("s"), binaries, keycloak, relay, request.param))


def a_login_is_saved_renewed_in_place_and_found_again(on, keycloak):
    """P1, P3, P4, D5, P10."""
    keyring = on.keyring
    keyring.start()
    keyring.look()
    for number, attributes in enumerate(FOREIGN):
        keyring.create(f"mail {number}", attributes, f"foreign {number}".encode())
    with Monitor(on.bus.address) as monitor:
        user = on.ready_account("work")
    prompted = ", through a prompt that shows nothing" if monitor.calls("Prompt") else ""
    keyring.look()
    assert sorted(kind for kind in _kinds(keyring) if kind in OURS) == sorted(OURS)
    for attributes, secret in keyring.items():
        if attributes.get("xdg:schema") in OURS:
            assert set(attributes) - ADDED == {"xdg:schema", "account", "version"}
            record = json.loads(secret)
            hidden = {value for key, value in record.items() if key in ("refresh_token", "secret")}
            leaks.assert_none_in(repr(attributes).encode(), hidden | {realm.SECRET}, "an attribute")
    fact(1, "login", keyring, f"saved{prompted}")

    paths, before = set(keyring.paths()), _records(keyring)
    with Monitor(on.bus.address) as monitor:
        on.token("work", force_refresh=True)
        on.until_state("work", "ready")
    assert monitor.calls("Prompt", "CreateItem", "Unlock") == []
    assert set(keyring.paths()) == paths
    assert len(before) == len(_records(keyring)) == 1 and before != _records(keyring)
    fact(2, "rotation", keyring, "saved in place, nobody is asked")

    on.restart_daemon(kill=True)
    assert keycloak.introspect("app", on.token("work").access_token)["active"]
    assert len(keycloak.events("app", user, "LOGIN")) == 1
    fact(3, "`kill -9` of bearerd, restart", keyring, "token")

    on.call("Logout", "s", "work")
    assert "org.bearerd.Session" not in _kinds(keyring)
    fact(4, "logout", keyring, "session removed")
    foreign = [secret for attributes, secret in keyring.items() if attributes.get("app") == "mail"]
    assert sorted(foreign) == [b"foreign 0", b"foreign 1"]
    fact(5, "other programs' items", keyring, "untouched")


def a_locked_one_is_said_and_waited_for(on, keycloak):
    """P5, P6, D6, N19: no dialog by itself, and no act of the user's but the unlock."""
    on.keyring.start()
    user = on.ready_account("work")
    on.keyring.lock()
    with Monitor(on.bus.address) as monitor:
        rotated = on.token("work", force_refresh=True).access_token
        on.until_state("work", "unsaved")
    assert monitor.calls("Unlock", "Prompt") == []
    assert keycloak.introspect("app", rotated)["active"]
    on.keyring.unlock()
    on.until_state("work", "ready")
    fact(6, "locked at a rotation", on.keyring, "token, `unsaved`; saved after the unlock")

    on.keyring.lock()
    with Monitor(on.bus.address) as monitor:
        on.restart_daemon(kill=True)
        assert on.refused_token("work").word == "StoreLocked"
    assert monitor.calls("Unlock", "Prompt") == []
    on.keyring.unlock()
    on.until_state("work", "ready")
    assert keycloak.introspect("app", on.token("work").access_token)["active"]
    assert len(keycloak.events("app", user, "LOGIN")) == 1
    fact(7, "locked at bearerd's start", on.keyring, "`StoreLocked`; token after the unlock")


def one_that_ends_or_comes_late_is_used_as_soon_as_it_is_there(on, keycloak):
    """P5, P8."""
    on.keyring.start()
    user = on.ready_account("work")
    on.keyring.end()
    on.token("work", force_refresh=True)
    on.until_state("work", "unsaved")
    on.keyring.start()
    on.until_state("work", "ready", 60)  # oo7 lets those wait in vain who ask while it starts
    fact(8, "ended, started again", on.keyring, "token, `unsaved`; saved after the start")

    on.stop_daemon()
    on.keyring.end()
    on.start_daemon()
    assert on.refused_token("work").word == "StoreUnavailable"
    on.keyring.start()
    if on.keyring.forgets_changes:
        until("the end of the session", lambda: on.refused_token("work").word == "LoginRequired", 60)
        fact(9, "started after bearerd", on.keyring, "`StoreUnavailable`; then `LoginRequired`: it has lost the rotation")
        return
    on.until_state("work", "ready")
    assert keycloak.introspect("app", on.token("work").access_token)["active"]
    assert len(keycloak.events("app", user, "LOGIN")) == 1
    fact(9, "started after bearerd", on.keyring, "`StoreUnavailable`; token after the start")


def what_one_forgets_when_it_is_killed_is_saved_again(on, keycloak):
    """P5, D5: some write to their file a moment after they have acknowledged a save."""
    if on.keyring.forgets_changes:
        fact(11, "killed right after a save", on.keyring, "—")
        return
    on.keyring.start()
    user = on.ready_account("work", client=realm.PUBLIC_CLIENT)  # a client secret would be another item to be lost
    on.token("work", force_refresh=True)
    on.until_state("work", "ready")
    on.keyring.look()
    saved = _refresh_tokens(on.keyring)

    on.keyring.kill()
    on.keyring.start()

    on.keyring.look()
    until("the session in the keyring", lambda: _refresh_tokens(on.keyring) == saved, 20)
    on.restart_daemon(kill=True)
    assert keycloak.introspect("app", on.token("work").access_token)["active"]
    assert len(keycloak.events("app", user, "LOGIN")) == 1
    fact(11, "killed right after a save", on.keyring, "session in it again")


def an_unlock_dialog_that_nobody_answers_keeps_no_caller_waiting(on):
    """P5, P6: its own windows may hang as long as they like."""
    on.keyring.start()
    on.ready_account("work")
    on.keyring.lock()

    on.call("UnlockStore")

    on.token("work", force_refresh=True)
    on.until_state("work", "unsaved")
    on.keyring.kill()  # the only way to close it here
    on.keyring.start()
    on.until_state("work", "ready")
    fact(10, "its dialog stays unanswered", on.keyring, "token, `unsaved`; saved after a restart of the keyring")


def the_table_in_the_docs_is_what_happened(whole):
    """docs/keyrings.md; UPDATE_EXPECT=1 writes it."""
    _table.check({kind.name: f"{kind.name} {keyrings.version(kind)}" for kind in keyrings.ALL}, whole)


def _kinds(keyring):
    return [attributes.get("xdg:schema") for attributes, _ in keyring.items()]


def _records(keyring):
    return [secret for attributes, secret in keyring.items() if attributes.get("xdg:schema") == "org.bearerd.Session"]


def _refresh_tokens(keyring):
    """KWallet remembers an item whose secret it had no time to write: that one is empty."""
    return [json.loads(record)["refresh_token"] for record in _records(keyring) if record]
