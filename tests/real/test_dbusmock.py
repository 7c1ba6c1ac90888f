"""The template for python-dbusmock, with dbusmock itself and a caller of the documentation."""

import concurrent.futures
import re
from xml.etree import ElementTree

import pytest

from bus import MOCK, PrivateBus
from conftest import PROJECT
from processes import Process, required, run, until

TEMPLATE = PROJECT / "docs" / "dbusmock" / "bearerd.py"
NAME = "org.bearerd.Broker1"
ROOT = "/org/bearerd/Broker1"
CONTROL = ("call", NAME, ROOT, MOCK)
WORK = ("get-property", NAME, f"{ROOT}/account/work", f"{NAME}.Account")
# What of the contract the mock does not have, by interface; `None` is all of it.
NOT_MOCKED = {
    NAME: {"GetTokenFd", "CreateDpopProof", "SetPersonalToken", "SetClientSecret", "Reload"},
    f"{NAME}.Access": None,
}


@pytest.fixture
def mock(tmp_path):
    """busctl on a bus with the template on it."""
    bus = PrivateBus(tmp_path, {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
    accounts = '{"Accounts": {"work": "ready", "my-home": "store-locked"}}'
    env = {"PATH": "/usr/bin:/bin", "DBUS_SESSION_BUS_ADDRESS": bus.address, "HOME": str(tmp_path)}
    argv = ["/usr/bin/python3", "-m", "dbusmock", "--session", "--template", TEMPLATE, "--parameters", accounts]
    process = Process(argv, log=tmp_path / "mock.log", env=env)

    def call(*arguments, **options):
        return run([required("busctl"), f"--address={bus.address}", *arguments], **options)

    try:
        ping = ["call", NAME, ROOT, "org.freedesktop.DBus.Peer", "Ping"]
        process.ready("the mock is on the bus", lambda: call(*ping).returncode == 0, 20)
        yield call
    finally:
        process.kill()
        bus.stop()


def _get(mock, account):
    return mock("call", NAME, ROOT, NAME, "GetToken", "s", account)


def the_mock_hands_out_tokens_and_names_its_errors_as_bearerd_does(mock):
    assert _get(mock, "").stdout.startswith('sta{sv} "mock-token-1" ')
    locked = _get(mock, "my-home")
    assert locked.returncode != 0
    assert re.search(r"StoreLocked: the keyring .* is locked; run: bearerctl unlock", locked.stderr), locked.stderr
    assert "NoSuchAccount: " in _get(mock, "nobody").stderr


def a_test_moves_the_mock_through_its_states(mock):
    mock("call", NAME, ROOT, NAME, "RejectToken", "ss", "work", "mock-token-1", check=True)
    assert "mock-token-2" in _get(mock, "work").stdout
    mock(*CONTROL, "FailNext", "ss", "work", "Timeout", check=True)
    assert "Timeout: " in _get(mock, "work").stderr
    assert "mock-token-2" in _get(mock, "work").stdout
    mock(*CONTROL, "SetAccountState", "ss", "my-home", "ready", check=True)
    assert "mock-token-1" in _get(mock, "my-home").stdout
    account = mock("get-property", NAME, f"{ROOT}/account/my_2dhome", f"{NAME}.Account", "State", check=True)
    assert account.stdout.strip() == 's "ready"'
    mock(*CONTROL, "SetAccountState", "ss", "work", "expired", check=True)
    state = mock(*WORK, "State", "StateReason", "StateMessage", "NeedsAttention", check=True).stdout.splitlines()
    message = "the provider ended it; run: bearerctl login work"
    assert state == ['s "expired"', 's "ended-by-provider"', f's "{message}"', "b true"]
    assert "the state must be one of" in mock(*CONTROL, "SetAccountState", "ss", "work", "sleepy").stderr


def an_unlock_makes_the_mocks_locked_account_ready(mock):
    mock("call", NAME, ROOT, NAME, "UnlockStore", check=True)

    assert "mock-token-1" in _get(mock, "my-home").stdout


def a_login_of_the_mock_is_waited_for_until_the_test_ends_it(mock):
    mock(*CONTROL, "SetAccountState", "ss", "work", "logged-out", check=True)
    attempt, url = _log_in(mock)
    assert url.startswith("https://provider.example/authorize?")
    assert _log_in(mock) == (attempt, url), "the pending one is joined"
    assert mock(*WORK, "LoginAttempt", check=True).stdout.strip() == f'o "{attempt}"'
    login = ("call", NAME, attempt, f"{NAME}.Login")
    assert mock(*login, "Wait", "u", "50", check=True).stdout.strip() == 's "pending"'

    with concurrent.futures.ThreadPoolExecutor() as threads:
        waiting = threads.submit(mock, *login, "Wait", "u", "20000", check=True)
        waits = (*CONTROL, "GetMethodCalls", "s", "Wait")
        until("the second Wait", lambda: mock(*waits, check=True).stdout.startswith("a(tav) 2 "))
        mock(*CONTROL, "EndLogin", "ss", "work", "succeeded", check=True)
        assert waiting.result().stdout.strip() == 's "succeeded"'

    assert "mock-token-2" in _get(mock, "work").stdout
    assert mock(*WORK, "LoginAttempt", check=True).stdout.strip() == 'o "/"'


def a_login_of_the_mock_ends_by_its_own_methods_too(mock):
    options = ("LoginWithOptions", "sa{sv}", "work", "1", "flow", "s", "paste")
    attempt, url = _log_in(mock, *options)
    login = ("call", NAME, attempt, f"{NAME}.Login")
    wrong = mock(*login, "Complete", "s", "http://127.0.0.1/callback?code=x&state=other")
    assert "InvalidArgument: " in wrong.stderr
    state = url.partition("state=")[2]
    mock(*login, "Complete", "s", f"http://127.0.0.1/callback?error=access_denied&state={state}", check=True)
    shown = mock("get-property", NAME, attempt, f"{NAME}.Login", "State", "Error", "Url", check=True)
    assert shown.stdout.splitlines() == ['s "denied"', 's "access_denied"', 's ""']

    again, _ = _log_in(mock, *options)
    assert again != attempt
    assert "with other options is pending" in mock("call", NAME, ROOT, NAME, "Login", "s", "work").stderr
    mock("call", NAME, again, f"{NAME}.Login", "Cancel", check=True)
    assert mock("call", NAME, again, f"{NAME}.Login", "Wait", "u", "0", check=True).stdout.strip() == 's "cancelled"'


def the_mock_has_the_contracts_members_but_for_those_it_names(mock):
    """What a caller is tested with is what it will meet."""
    attempt, _ = _log_in(mock)
    objects = {NAME: ROOT, f"{NAME}.Account": f"{ROOT}/account/work", f"{NAME}.Login": attempt}
    calling = (PROJECT / "docs" / "calling.md").read_text().replace("`", "")
    template = TEMPLATE.read_text()
    contract = ElementTree.parse(PROJECT / "dbus" / "org.bearerd.Broker1.xml")
    for interface in contract.iter("interface"):
        name = interface.get("name")
        absent = NOT_MOCKED.get(name, set())
        for word in [f"interface {name.rpartition('.')[2]}"] if absent is None else absent:
            assert word in calling and word in template, f"{word} is not mocked, and they don't say so"
        if absent is None:
            continue
        served = mock("introspect", "--xml-interface", NAME, objects[name], check=True).stdout
        mocked = ElementTree.fromstring(served).find(f"interface[@name='{name}']")
        assert _members(mocked) == {key: value for key, value in _members(interface).items() if key not in absent}


def _members(interface):
    """Each method's arguments and each property's type."""
    methods = {
        method.get("name"): [(argument.get("direction"), argument.get("type")) for argument in method.iter("arg")]
        for method in interface.iter("method")
    }
    return methods | {each.get("name"): each.get("type") for each in interface.iter("property")}


def _log_in(mock, *call):
    """The attempt's path and the address."""
    said = mock("call", NAME, ROOT, NAME, *(call or ("Login", "s", "work")), check=True).stdout
    return re.fullmatch(r'os "(.*)" "(.*)"\n', said).groups()
