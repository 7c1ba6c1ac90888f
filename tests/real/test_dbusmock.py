"""The template for python-dbusmock, with dbusmock itself and a caller of the documentation."""

import re

import pytest

from bus import PrivateBus
from conftest import PROJECT
from processes import Process, required, run

TEMPLATE = PROJECT / "docs" / "dbusmock" / "bearerd.py"
NAME = "org.bearerd.Broker1"
ROOT = "/org/bearerd/Broker1"


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
    control = ["call", NAME, ROOT, "org.freedesktop.DBus.Mock"]
    mock("call", NAME, ROOT, NAME, "RejectToken", "ss", "work", "mock-token-1", check=True)
    assert "mock-token-2" in _get(mock, "work").stdout
    mock(*control, "FailNext", "ss", "work", "Timeout", check=True)
    assert "Timeout: " in _get(mock, "work").stderr
    assert "mock-token-2" in _get(mock, "work").stdout
    mock(*control, "SetAccountState", "ss", "my-home", "ready", check=True)
    assert "mock-token-1" in _get(mock, "my-home").stdout
    account = mock("get-property", NAME, f"{ROOT}/account/my_2dhome", f"{NAME}.Account", "State", check=True)
    assert account.stdout.strip() == 's "ready"'
    assert "the state must be one of" in mock(*control, "SetAccountState", "ss", "work", "sleepy").stderr


def the_mock_has_the_contracts_signatures(mock):
    """What a caller is tested with is what it will meet."""
    xml = (PROJECT / "dbus" / "org.bearerd.Broker1.xml").read_text()
    served = mock("introspect", "--xml-interface", NAME, ROOT, check=True).stdout
    mocked = ["GetToken", "GetTokenWithOptions", "RejectToken", "ListAccounts", "Logout"]
    for method in mocked:
        assert _signature(served, method) == _signature(xml, method), method


def _signature(xml, method):
    body = re.search(rf'<method name="{method}">(.*?)</method>', xml, re.S)[1]
    arguments = [re.findall(r'(type|direction)="([^"]*)"', tag) for tag in re.findall(r"<arg [^>]*>", body)]
    return [tuple(sorted(argument)) for argument in arguments]
