"""gnome-keyring locked, late, killed or missing."""

from jeepney import MessageType

import leaks
import realm
from bus import Monitor
from processes import until


def a_keyring_locked_at_start_is_said_and_waited_for(desktop, keycloak):
    """P5, P6, N19: StoreLocked, exit 4, and ready by itself once somebody has unlocked it."""
    user = desktop.ready_account("work")
    desktop.stop_daemon()
    desktop.keyring.kill()
    desktop.keyring.start(unlocked=False)

    desktop.start_daemon()

    assert desktop.refused_token("work").word == "StoreLocked"
    desktop.until_state("work", "store-locked")
    token = desktop.ctl("token", "work")
    assert (token.returncode, token.stdout) == (4, "") and "StoreLocked" in token.stderr

    desktop.keyring.unlock()

    desktop.until_state("work", "ready")
    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]
    assert len(keycloak.events("app", user, "LOGIN")) == 1


def a_rotation_with_the_keyring_locked_is_unsaved_and_saved_later(desktop, keycloak):
    """D4, D6: the token is served all the same, and after the unlock a crash loses nothing."""
    user = desktop.ready_account("work")
    desktop.keyring.lock()

    rotated = desktop.token("work", force_refresh=True).access_token

    assert keycloak.introspect("app", rotated)["active"]
    desktop.until_state("work", "unsaved")
    assert desktop.account_property("work", "NeedsAttention")
    assert desktop.token("work").access_token == rotated
    desktop.keyring.unlock()
    desktop.until_state("work", "ready")
    assert len(keycloak.events("app", user, "REFRESH_TOKEN")) == 1  # not refreshed again for the sake of saving
    desktop.restart_daemon(kill=True)
    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]
    assert len(keycloak.events("app", user, "LOGIN")) == 1


def a_killed_and_restarted_keyring_is_used_again(desktop, keycloak):
    """P5: the new daemon knows nothing of the old encrypted session, and must not be asked with it."""
    user = desktop.ready_account("work")
    desktop.keyring.kill()
    desktop.token("work", force_refresh=True)
    desktop.until_state("work", "unsaved")

    desktop.keyring.start()

    desktop.until_state("work", "ready")
    desktop.restart_daemon(kill=True)
    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]
    assert len(keycloak.events("app", user, "LOGIN")) == 1


def a_keyring_that_comes_back_locked_is_waited_for_too(desktop, keycloak):
    """P5: an update restarts the daemon, and only the next screen unlock gives it the password."""
    user = desktop.ready_account("work")
    desktop.keyring.kill()
    desktop.keyring.start(unlocked=False)
    desktop.token("work", force_refresh=True)
    desktop.until_state("work", "unsaved")

    desktop.keyring.unlock()

    desktop.until_state("work", "ready")
    desktop.restart_daemon(kill=True)
    desktop.token("work")
    assert len(keycloak.events("app", user, "LOGIN")) == 1


def a_session_without_any_keyring_is_store_unavailable(bare_desktop):
    """P5, P8: said with its own word and exit 4; nothing is written to a file instead."""
    bare_desktop.add_account("work")
    bare_desktop.start_daemon()

    assert bare_desktop.refused_token("work").word == "StoreUnavailable"
    bare_desktop.until_state("work", "store-unavailable")
    token = bare_desktop.ctl("token", "work")
    assert (token.returncode, token.stdout) == (4, "") and "StoreUnavailable" in token.stderr
    secret = bare_desktop.ctl("set-secret", "work", stdin=realm.SECRET)
    assert secret.returncode == 4 and "StoreUnavailable" in secret.stderr


def a_login_without_a_keyring_serves_and_is_saved_when_one_comes(bare_desktop, keycloak):
    """Design section 3: succeeded and `unsaved`, said on the page; D6."""
    bare_desktop.add_account("native", client=realm.PUBLIC_CLIENT)
    bare_desktop.start_daemon()

    state, page = bare_desktop.log_in("native")

    assert state == "succeeded"
    assert "not saved" in page.html
    bare_desktop.until_state("native", "unsaved")
    assert keycloak.introspect("app", bare_desktop.token("native").access_token)["active"]

    bare_desktop.keyring.start()

    bare_desktop.until_state("native", "ready")
    bare_desktop.restart_daemon(kill=True)
    assert keycloak.introspect("app", bare_desktop.token("native").access_token)["active"]


def a_keyring_that_starts_after_the_daemon_is_found(desktop):
    """P5: at login time the order of services is anybody's guess."""
    desktop.ready_account("work")
    desktop.stop_daemon()
    desktop.keyring.kill()
    desktop.start_daemon()
    assert desktop.refused_token("work").word == "StoreUnavailable"

    desktop.keyring.start()

    desktop.until_state("work", "ready")
    assert desktop.token("work").access_token


def a_locked_keyring_is_never_asked_to_unlock_by_a_timer_or_a_token_call(desktop):
    """P6: without a user's act no dialog can appear."""
    desktop.ready_account("work")
    desktop.keyring.lock()
    with Monitor(desktop.bus.address) as monitor:
        desktop.token("work", force_refresh=True)
        desktop.until_state("work", "unsaved")
        until("a try to save", lambda: monitor.calls("SetSecret", "CreateItem", "SearchItems"))
        desktop.restart_daemon(kill=True)
        assert desktop.refused_token("work").word == "StoreLocked"

    assert monitor.calls("Unlock", "Prompt") == []


def nothing_secret_crosses_the_bus(desktop, relay):
    """P1, Q4, R5: a monitor sees access tokens in GetToken's answers, and no other secret in any message."""
    with Monitor(desktop.bus.address) as monitor:
        desktop.ready_account("work")
        handed_out = {desktop.token("work", force_refresh=True).access_token}
        desktop.restart_daemon()
        handed_out.add(desktop.token("work").access_token)
        until("the last answer", lambda: _carries(monitor.messages, desktop.token("work").access_token))

    hidden = relay.secrets() - handed_out
    assert len(hidden) > 5
    for message in monitor.messages:
        leaks.assert_none_in(repr(message.body).encode(), hidden, f"a message {message.header}")
    for token in handed_out:
        kinds = {message.header.message_type for message in _carries(monitor.messages, token)}
        assert kinds == {MessageType.method_return}


def _carries(messages, text):
    return [message for message in list(messages) if text in repr(message.body)]
