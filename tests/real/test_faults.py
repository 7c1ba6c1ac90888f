"""Everything that can break, at each step of a rotation. What the callers saw and what became of the session is
docs/faults.md; so are the cases in which other brokers fail."""

import signal
import socket
import ssl
import subprocess
import time

import pytest

import matrix
import realm
from bus import BusError, Connection, PrivateBus
from logind import Logind
from processes import required, until
from relay import Relay
from session import NAME, ROOT

FORCE = {"force_refresh": ("b", True)}
BUDGET = 16  # seconds: 15, and one for this suite's own doings


class Caller:
    """One program that waits for a token."""

    def __init__(self, desktop, account="work", force=False):
        self.connection = Connection(desktop.bus.address)
        if force:
            arguments = ("GetTokenWithOptions", "sa{sv}", account, FORCE)
        else:
            arguments = ("GetToken", "s", account)
        self._call = self.connection.send(NAME, ROOT, NAME, *arguments)
        self._began = time.monotonic()

    def answer(self):
        """The access token, or the BusError; never later than the contract says."""
        answer = self.connection.reply(self._call, BUDGET + 5)
        assert time.monotonic() - self._began < BUDGET, answer
        self.connection.close()
        return answer if isinstance(answer, BusError) else answer[0]


@pytest.fixture
def held(desktop, relay):
    """A session whose refresh waits, unsent, at the relay."""
    return lambda **settings: _hold_a_refresh(desktop, relay, answers=False, **settings)


@pytest.fixture
def answered(desktop, relay):
    """A session whose refresh Keycloak has done; the answer waits at the relay."""
    return lambda **settings: _hold_a_refresh(desktop, relay, answers=True, **settings)


def _hold_a_refresh(desktop, relay, answers, **settings):
    user = desktop.ready_account("work", **settings)
    relay.hold("refresh_token", answers=answers)
    caller = Caller(desktop, force=True)
    relay.wait_held()
    return user, caller


def _refreshes(keycloak, user, realm_name="app"):
    return len(keycloak.events(realm_name, user, "REFRESH_TOKEN"))


def _lives(desktop, keycloak, user, realm_name="app"):
    """The session goes on without a login: a token that Keycloak accepts."""
    token = desktop.token("work").access_token
    assert keycloak.introspect(realm_name, token)["active"]
    assert len(keycloak.events(realm_name, user, "LOGIN")) == 1
    return True


def _run_out(desktop, account="work"):
    """Waits until the account's access token has expired."""
    expires = desktop.account_property(account, "AccessExpires")
    until("the access token's end", lambda: time.time() > expires, 15, every=0.1)


# --- kill -9 at each step of a rotation


def a_kill_before_the_request_arrives_costs_nothing(desktop, keycloak, relay, held):
    """D7, D8."""
    user, _ = held()
    desktop.kill_daemon()
    relay.release(cut=True)

    desktop.start_daemon()

    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 1
    matrix.row(10, "`kill -9` with the request on its way", "token after the restart", 1, "lives")


def a_kill_before_the_answer_arrives_costs_a_login_where_the_provider_repeats_nothing(
    desktop, keycloak, relay, answered
):
    """D7, D15, K10: it is tried once, at once, and said as it is."""
    user, _ = answered()
    desktop.kill_daemon()
    relay.release(cut=True)
    before = relay.count("refresh_token")

    desktop.start_daemon()

    desktop.until_state("work", "expired")
    assert desktop.account_property("work", "StateReason") == "answer-lost"
    assert desktop.refused_token("work").word == "LoginRequired"
    assert relay.count("refresh_token") == before + 1
    assert _refreshes(keycloak, user) == 1
    assert desktop.log_in("work")[0] == "succeeded"
    what = "`kill -9` with the answer on its way, no grace"
    matrix.row(11, what, "`LoginRequired` (answer-lost)", 1, "lost: Keycloak takes a refresh token once")


def a_kill_before_the_answer_arrives_costs_nothing_where_the_provider_repeats_it(desktop, keycloak, relay, answered):
    """D7: the note of the refresh makes the next process try again at once."""
    user, _ = answered(realm_name="lenient")
    desktop.kill_daemon()
    relay.release(cut=True)

    desktop.start_daemon()

    until("the second try", lambda: relay.count("refresh_token", 200) == 2, 10)
    assert _lives(desktop, keycloak, user, "lenient")
    matrix.row(12, "`kill -9` with the answer on its way, with a grace", "token after the restart", 2, "lives")


def a_kill_after_the_answer_costs_nothing(desktop, keycloak):
    """D4: stored before it is handed out."""
    user = desktop.ready_account("work")
    desktop.token("work", force_refresh=True)
    desktop.restart_daemon(kill=True)

    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 2
    matrix.row(13, "`kill -9` right after the caller has its token", "token after the restart", 2, "lives")


# --- the network


def a_reset_before_the_request_arrives_is_tried_again(desktop, keycloak, relay):
    """D8."""
    user = desktop.ready_account("work", client=realm.BRIEF_CLIENT)
    _run_out(desktop)
    relay.drop("refresh_token", delivered=False)

    assert isinstance(Caller(desktop).answer(), str)

    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 1
    matrix.row(20, "connection reset before the request arrives", "token", 1, "lives")


def a_reset_after_the_request_arrived_is_asked_for_again(desktop, keycloak, relay):
    """D8: one prompt retry, in time for the provider's grace."""
    user = desktop.ready_account("work", realm_name="lenient")
    before = desktop.token("work").access_token
    relay.drop("refresh_token", delivered=True)

    Caller(desktop, force=True).answer()  # what it had: a refresh was tried and failed
    until("the prompt retry", lambda: _refreshes(keycloak, user, "lenient") == 2, 5)
    until("its token", lambda: desktop.token("work").access_token != before, 5)

    assert _lives(desktop, keycloak, user, "lenient")
    matrix.row(21, "connection reset after the request arrived, with a grace", "token", 2, "lives")


def a_provider_that_is_down_is_said_and_its_return_noticed(desktop, keycloak, relay):
    """Design section 10; O: within 15 s a true error, and a token soon after the return."""
    user = desktop.ready_account("work", client=realm.BRIEF_CLIENT)
    relay.go_away()
    _run_out(desktop)

    error = Caller(desktop).answer()
    assert error.word == "ProviderUnreachable", error
    assert desktop.account_state("work") == "offline"
    waiting = Caller(desktop)
    relay.go_away(False)
    came_back = time.monotonic()
    assert isinstance(waiting.answer(), str)
    assert time.monotonic() - came_back < 3

    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 1
    what = "provider down for longer than the access token lives"
    matrix.row(22, what, "`ProviderUnreachable` within 15 s; token within 2 s of its return", 1, "lives")


def a_provider_that_hangs_holds_up_nobody_else(desktop, keycloak, relay):
    """N18; section 10: other accounts are served, and the answer is taken when it comes."""
    user = desktop.ready_account("work", client=realm.BRIEF_CLIENT)
    other = desktop.ready_account("other", realm_name="short", client=realm.PUBLIC_CLIENT, through_relay=False)
    _run_out(desktop)
    relay.hold("refresh_token")
    stuck = Caller(desktop)
    relay.wait_held()

    before = _refreshes(keycloak, other, "short")  # its own renewals may have come by now
    began = time.monotonic()
    assert isinstance(Caller(desktop, "other", force=True).answer(), str)
    assert time.monotonic() - began < 3
    assert _refreshes(keycloak, other, "short") == before + 1
    assert stuck.answer().word == "Timeout"
    waiting = Caller(desktop)
    relay.release()
    assert isinstance(waiting.answer(), str)

    assert _lives(desktop, keycloak, user)
    # A lifetime counts from the request, so what came so late is over, and asked for anew.
    assert _refreshes(keycloak, user) == 2
    matrix.row(23, "provider hangs", "`Timeout` after 15 s; token as soon as it answers", 2, "lives")
    matrix.row(23.5, "the same, for other accounts", "token, at once", 1, "lives")


def a_broken_certificate_costs_nothing(desktop, keycloak, tmp_path):
    """C6, O: nothing is sent, so nothing is lost."""
    good, bad = _certificate(tmp_path, "good"), _certificate(tmp_path, "bad")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*good)
    context.num_tickets = 0  # a resumed session shows no certificate
    relay = Relay(keycloak, tls=context)
    desktop.relay = relay
    user = desktop.ready_account("work", client=realm.BRIEF_CLIENT, ca_file=str(good[0]))
    context.load_cert_chain(*bad)
    _run_out(desktop)

    error = Caller(desktop).answer()
    assert error.word == "ProviderUnreachable" and "certificate" in error.message.lower(), error
    context.load_cert_chain(*good)
    assert isinstance(Caller(desktop).answer(), str)

    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 1
    relay.close()
    matrix.row(24, "TLS broken (another certificate)", "`ProviderUnreachable` that names it, then token", 1, "lives")


def _certificate(folder, name):
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subject += ["-addext", "basicConstraints=critical,CA:FALSE"]
    command = [required("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run(
        [*command, "-nodes", "-days", "2", "-out", paths[0], "-keyout", paths[1], *subject],
        check=True,
        capture_output=True,
        timeout=20,
    )
    return paths


# --- time


def a_process_stopped_past_the_access_token_hands_out_no_dead_one(desktop, keycloak):
    """N9; promise 1."""
    user = desktop.ready_account("work", client=realm.BRIEF_CLIENT)
    desktop.daemon.signal(signal.SIGSTOP)
    run_out_at = time.time() + 7
    caller = Caller(desktop)
    until("the access token's end", lambda: time.time() > run_out_at, 15, every=0.1)
    desktop.daemon.signal(signal.SIGCONT)

    token = caller.answer()

    assert keycloak.introspect("app", token)["active"]
    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 1
    matrix.row(30, "`SIGSTOP` past the access token's life", "token", 1, "lives")


def a_process_stopped_past_the_session_asks_once_and_says_so(desktop, keycloak, relay):
    """N12."""
    user = desktop.ready_account("work", realm_name="short", client=realm.PUBLIC_CLIENT)
    desktop.daemon.signal(signal.SIGSTOP)
    ends = time.time() + 22
    until("the session's end", lambda: time.time() > ends, 40, every=0.2)
    before = relay.count("refresh_token")
    desktop.daemon.signal(signal.SIGCONT)

    assert desktop.refused_token("work").word == "LoginRequired"
    desktop.until_state("work", "expired")
    assert relay.count("refresh_token") == before + 1
    assert _refreshes(keycloak, user, "short") == 0
    matrix.row(31, "`SIGSTOP` past the session's life", "`LoginRequired`", 0, "ended by Keycloak")


def a_boot_clock_a_day_ahead_changes_nothing(desktop, keycloak):
    """N9, N14."""
    user = desktop.ready_account("work")
    desktop.stop_daemon()

    desktop.start_daemon(within=[required("unshare"), "-T", "--boottime", "86400", "--"])

    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 1
    matrix.row(32, "boot clock a day ahead after a restart", "token", 1, "lives")


def a_suspend_waits_for_the_refresh_and_none_is_sent_into_one(desktop, keycloak, relay, tmp_path):
    """D9, on a mock logind."""
    folder = tmp_path / "system"
    folder.mkdir()
    system = PrivateBus(folder, desktop.env)
    logind = Logind(system.address)
    user = desktop.ready_account("work", client=realm.BRIEF_CLIENT)
    desktop.stop_daemon()
    relay.hold("refresh_token")
    desktop.start_daemon(env={"DBUS_SYSTEM_BUS_ADDRESS": system.address})
    caller = Caller(desktop)
    relay.wait_held()
    until("a delay of the suspend", lambda: logind.granted > 0 and logind.delayed(), 10)
    logind.prepare_for_sleep(True)
    relay.release()
    assert isinstance(caller.answer(), str)
    assert _refreshes(keycloak, user) == 1
    until("the suspend's release", lambda: not logind.delayed(), 10)

    sent = relay.count("refresh_token")
    _run_out(desktop)
    caller = Caller(desktop)
    time.sleep(1)  # nothing happens: there is no event to wait for
    assert relay.count("refresh_token") == sent
    logind.prepare_for_sleep(False)
    assert isinstance(caller.answer(), str)

    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 2
    logind.close()
    system.stop()
    matrix.row(33, "`PrepareForSleep` with a refresh on its way", "token; the suspend waits for it", 1, "lives")
    matrix.row(34, "a token is due after `PrepareForSleep`", "token, after the wake-up", 1, "lives")


def a_new_route_ends_the_wait_for_the_next_try(desktop, keycloak):
    """N11: in a network namespace of its own, without a way out."""
    user = desktop.ready_account("work")
    desktop.stop_daemon()
    desktop.start_daemon(within=[required("unshare"), "-n", "--"])
    assert desktop.refused_token("work").word == "ProviderUnreachable"
    # Some failures later the next try is far away.
    far = lambda: desktop.account_property("work", "NextRefresh") - time.time() > 8  # noqa: E731
    until("a long backoff", far, 120, every=0.2)

    for command in ("link set lo up", "route add default dev lo"):
        inside = [required("nsenter"), "-t", str(desktop.daemon.pid), "-n", required("ip"), *command.split()]
        subprocess.run(inside, check=True, capture_output=True, timeout=10)

    until("a try soon", lambda: not far(), 6)
    assert _refreshes(keycloak, user) == 0
    matrix.row(35, "a route to the network appears", "no wait for the backoff's end", 0, "lives")


# --- the keyring


def a_keyring_killed_with_the_answer_on_its_way_is_caught_up_with(desktop, keycloak, relay, answered):
    """D6, P5."""
    user, caller = answered()
    desktop.keyring.kill()
    relay.release()

    assert isinstance(caller.answer(), str)
    desktop.until_state("work", "unsaved")
    desktop.keyring.start()
    desktop.until_state("work", "ready")
    desktop.restart_daemon(kill=True)

    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 2
    matrix.row(40, "keyring killed in mid-rotation, started again, `kill -9`", "token each time", 2, "lives")


def a_keyring_locked_with_the_answer_on_its_way_is_caught_up_with(desktop, keycloak, relay, answered):
    """D6, P5."""
    user, caller = answered()
    desktop.keyring.lock()
    relay.release()

    assert isinstance(caller.answer(), str)
    desktop.until_state("work", "unsaved")
    desktop.keyring.unlock()
    desktop.until_state("work", "ready")
    desktop.restart_daemon(kill=True)

    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 2
    matrix.row(41, "keyring locked in mid-rotation, unlocked, `kill -9`", "token each time", 2, "lives")


def a_keyring_that_hangs_holds_a_caller_for_two_seconds(desktop, keycloak, relay, answered):
    """D4."""
    user, caller = answered()
    desktop.keyring.process.signal(signal.SIGSTOP)
    released = time.monotonic()
    relay.release()

    assert isinstance(caller.answer(), str)
    assert time.monotonic() - released < 5
    desktop.until_state("work", "unsaved")
    desktop.keyring.process.signal(signal.SIGCONT)
    desktop.until_state("work", "ready", 90)

    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 1
    matrix.row(42, "keyring hangs in mid-rotation", "token after 2 s", 1, "lives")


# --- the bus


def a_new_bus_finds_the_session_again(desktop, keycloak):
    """Q8."""
    user = desktop.ready_account("work")
    desktop.token("work", force_refresh=True)
    daemon = desktop.daemon
    desktop.replace_bus()

    assert daemon.wait() == 0, "the end of the bus is an orderly end"
    desktop.keyring.start()
    desktop.start_daemon()

    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 2
    matrix.row(50, "the bus dies and comes back", "token from the next bearerd", 2, "lives")


def a_flood_of_one_caller_is_refused_to_it_alone(desktop, keycloak, relay):
    """Q7: 1,024 calls may wait, one more is too many; everybody else is served."""
    desktop.ready_account("other", realm_name="short", client=realm.PUBLIC_CLIENT, through_relay=False)
    user = desktop.ready_account("work")
    desktop.restart_daemon()  # nothing is in memory now
    relay.hold("refresh_token")
    flooder = Connection(desktop.bus.address)

    calls = [flooder.send(NAME, ROOT, NAME, "GetToken", "s", "work") for _ in range(1500)]
    began = time.monotonic()
    assert isinstance(Caller(desktop, "other").answer(), str)
    assert time.monotonic() - began < 3
    relay.release()
    answers = [flooder.reply(call) for call in calls]
    flooder.close()

    refused = [answer for answer in answers if isinstance(answer, BusError)]
    assert {answer.word for answer in refused} == {"RateLimited"} and len(refused) == 1500 - 1024
    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 1
    matrix.row(52, "one caller sends 1,500 calls at once", "1,024 tokens, 476 `RateLimited`; others: token", 1, "lives")


def a_caller_that_vanishes_takes_nothing_along(desktop, keycloak, relay, held):
    """D3."""
    user, caller = held()
    caller.connection.close()
    relay.release()

    until("the refresh", lambda: _refreshes(keycloak, user) == 1, 10)
    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 1
    matrix.row(53, "the caller vanishes in mid-call", "the next one: token", 1, "lives")


# --- what other brokers fail at (the last table of the measurements)


def fifty_callers_on_an_expired_token_get_one(desktop, keycloak, relay):
    """D3."""
    user = desktop.ready_account("work", client=realm.BRIEF_CLIENT)
    _run_out(desktop)

    callers = [Caller(desktop) for _ in range(50)]
    answers = {caller.answer() for caller in callers}

    assert len(answers) == 1 and isinstance(answers.pop(), str)
    assert _refreshes(keycloak, user) == 1
    matrix.row(60, "50 callers on an expired token", "50 tokens", 1, "lives")


def short_tokens_are_not_refreshed_on_every_call(desktop, keycloak):
    """N5: 6 s tokens, a call each tenth of a second for 5 s; then 300 s tokens, five calls."""
    user = desktop.ready_account("work", client=realm.BRIEF_CLIENT)
    other = desktop.ready_account("long")
    began = time.monotonic()
    calls = 0
    while time.monotonic() - began < 5:
        desktop.token("work")
        calls += 1
        time.sleep(0.1)
    for _ in range(5):
        desktop.token("long")

    assert calls > 20
    assert _refreshes(keycloak, user) <= 1
    assert _refreshes(keycloak, other) == 0
    matrix.row(61, "6 s tokens, a call each 0.1 s for 5 s", "token each time", "at most 1", "lives")
    matrix.row(62, "300 s tokens, 5 calls", "5 tokens", 0, "lives")


def a_client_that_says_nothing_holds_up_nobody(desktop, keycloak):
    """Half a handshake and half a message on the bus."""
    user = desktop.ready_account("work")
    path = desktop.bus.address.removeprefix("unix:path=")
    silent, stuttering = (socket.socket(socket.AF_UNIX) for _ in range(2))
    silent.connect(path)
    stuttering.connect(path)
    stuttering.sendall(b"\0AUTH EXTERNAL 30\r\n")

    began = time.monotonic()
    assert isinstance(Caller(desktop).answer(), str)
    assert time.monotonic() - began < 1

    assert _refreshes(keycloak, user) == 0
    silent.close()
    stuttering.close()
    matrix.row(63, "a client connects and says nothing", "others: token, at once", 0, "lives")


def a_slow_refresh_of_one_account_delays_no_other(desktop, keycloak, relay, held):
    """Section 10."""
    user, caller = held()
    other = desktop.ready_account("other", realm_name="short", client=realm.PUBLIC_CLIENT, through_relay=False)

    assert isinstance(Caller(desktop, "other", force=True).answer(), str)
    assert _refreshes(keycloak, other, "short") == 1
    assert _refreshes(keycloak, user) == 0
    relay.release()
    assert isinstance(caller.answer(), str)
    matrix.row(64, "refresh of account 1 takes long", "account 2: token, at once", 1, "lives")


def nothing_is_left_in_a_core_dump(desktop, keycloak):
    """R3: there is none, and nobody but root may look; D7: the session is in the keyring."""
    user = desktop.ready_account("work")
    limits = open(f"/proc/{desktop.daemon.pid}/limits").read()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4] == "0", core
    desktop.daemon.signal(signal.SIGABRT)
    desktop.daemon.wait()
    desktop.daemon = None
    left = [path for path in desktop.folder.rglob("core*") if path.is_file()]
    assert not left, left

    desktop.start_daemon()

    assert _lives(desktop, keycloak, user)
    assert _refreshes(keycloak, user) == 1
    matrix.row(65, "abort", "no core dump, so no copy of a token; token after the restart", 1, "lives")


def the_table_in_the_docs_is_what_happened(whole):
    """docs/faults.md; UPDATE_EXPECT=1 writes it."""
    matrix.check(whole)
