"""bearerd for the tests of its callers: a python-dbusmock template.

    python3 -m dbusmock --session --template bearerd.py \\
        --parameters '{"Accounts": {"work": "ready", "home": "logged-out"}}'

or `self.spawn_server_template("…/bearerd.py", {"Accounts": {"work": "ready"}})` in a DBusTestCase. The first account is
the default one. A ready account hands out `mock-token-1`; RejectToken makes that `mock-token-2`, and so on. The other
states answer with the error that bearerd has for them, under its name and with a message like its own.

To change things while a test runs, over the interface org.freedesktop.DBus.Mock on /org/bearerd/Broker1:
SetAccountState(account, state), FailNext(account, error word), ExpireToken(account).

For a real daemon in place of a mock, with a provider that can fail, see bearerd-sandbox.
"""

import time

import dbus
from dbusmock import MOCK_IFACE, get_object

BUS_NAME = "org.bearerd.Broker1"
MAIN_OBJ = "/org/bearerd/Broker1"
MAIN_IFACE = BUS_NAME
SYSTEM_BUS = False
IS_OBJECT_MANAGER = False

ACCOUNT_IFACE = BUS_NAME + ".Account"
LIFETIME = 300

# What GetToken answers in each state that has no token.
ERRORS = {
    "logged-out": ("LoginRequired", "not logged in to {0!r}; run: bearerctl login {0}"),
    "expired": ("LoginRequired", "the provider has ended the session of {0!r}; run: bearerctl login {0}"),
    "not-configured": ("NotConfigured", "no client secret for {0!r}; run: bearerctl set-secret {0}"),
    "refused": ("ProviderRefused", "the provider refuses the client of {0!r}; run: bearerctl doctor"),
    "store-locked": ("StoreLocked", "the keyring with the session of {0!r} is locked; run: bearerctl unlock"),
    "store-unavailable": ("StoreUnavailable", "no keyring answers for {0!r}; run: bearerctl doctor"),
    "offline": ("ProviderUnreachable", "the provider of {0!r} cannot be reached; see: bearerctl status"),
}
STATES = ("ready", "unsaved", *ERRORS)


def load(mock, parameters):
    mock.accounts = {}
    mock.AddProperties(
        MAIN_IFACE,
        dbus.Dictionary({"Version": dbus.UInt32(1), "DefaultAccount": ""}, signature="sv"),
    )
    for name, state in parameters.get("Accounts", {"work": "ready"}).items():
        _check(state)
        mock.accounts[str(name)] = {"serial": 1, "state": str(state), "fail": None}
        properties = {
            "Name": name,
            "Provider": "",
            "Issuer": "https://provider.example",
            "Source": "oauth",
            "Subject": "robin",
            "Scope": "openid profile",
            "State": state,
            "StateReason": "",
            "StateMessage": "",
            "NeedsAttention": False,
            "LoginAttempt": dbus.ObjectPath("/"),
            "Store": "memory",
        }
        times = dict.fromkeys(["AccessExpires", "SessionExpires", "NextRefresh", "LastRefresh"], dbus.UInt64(0))
        mock.AddObject(_path(str(name)), ACCOUNT_IFACE, {**properties, **times}, [("Refresh", "", "", "")])
    if mock.accounts:
        mock.props[MAIN_IFACE]["DefaultAccount"] = next(iter(mock.accounts))


def _check(state):
    if state not in STATES:
        raise dbus.exceptions.DBusException(f"the state must be one of: {', '.join(STATES)}", name=MOCK_IFACE)


def _path(account):
    """As sd_bus_path_encode makes it."""
    plain = [c.isascii() and c.isalpha() or (c.isdigit() and at > 0) for at, c in enumerate(account)]
    element = "".join(c if fits else f"_{ord(c):02x}" for c, fits in zip(account, plain))
    return f"{MAIN_OBJ}/account/{element}"


def _error(word, text):
    return dbus.exceptions.DBusException(f"{word}: {text}", name=f"{BUS_NAME}.Error.{word}")


def _find(mock, account):
    name = str(account) or str(mock.props[MAIN_IFACE]["DefaultAccount"])
    if name not in mock.accounts:
        raise _error("NoSuchAccount", f"no account {name!r}; see: bearerctl status")
    return name, mock.accounts[name]


def _token(mock, account):
    name, entry = _find(mock, account)
    if entry["fail"]:
        word, entry["fail"] = entry["fail"], None
        raise _error(word, f"asked for by the test, for {name!r}")
    if entry["state"] in ERRORS:
        word, text = ERRORS[entry["state"]]
        raise _error(word, text.format(name))
    details = {
        "token_type": "Bearer",
        "expires_in": dbus.UInt32(LIFETIME),
        "scope": "openid profile",
        "account": name,
        "source": "oauth",
        "subject": "robin",
        "token_id": f"mock-id-{entry['serial']}",
    }
    return f"mock-token-{entry['serial']}", dbus.UInt64(int(time.time()) + LIFETIME), details


@dbus.service.method(MAIN_IFACE, in_signature="s", out_signature="sta{sv}")
def GetToken(self, account):
    return _token(self, account)


@dbus.service.method(MAIN_IFACE, in_signature="sa{sv}", out_signature="sta{sv}")
def GetTokenWithOptions(self, account, options):
    known = ("min_validity", "force_refresh", "scope", "audience", "resource")
    unknown = [key for key in options if key not in known]
    if unknown:
        raise _error("InvalidOption", f"unknown option {unknown[0]!r}; known: {', '.join(known)}")
    if options.get("force_refresh"):
        _find(self, account)[1]["serial"] += 1
    return _token(self, account)


@dbus.service.method(MAIN_IFACE, in_signature="ss", out_signature="b")
def RejectToken(self, account, token_or_id):
    _, entry = _find(self, account)
    if token_or_id in (f"mock-token-{entry['serial']}", f"mock-id-{entry['serial']}"):
        entry["serial"] += 1
    return True


@dbus.service.method(MAIN_IFACE, in_signature="", out_signature="a(sos)")
def ListAccounts(self):
    rows = [(name, dbus.ObjectPath(_path(name)), entry["state"]) for name, entry in self.accounts.items()]
    return dbus.Array(rows, signature="(sos)")


@dbus.service.method(MAIN_IFACE, in_signature="s", out_signature="b")
def Logout(self, account):
    name, _ = _find(self, account)
    self.SetAccountState(name, "logged-out")
    return True


@dbus.service.method(MOCK_IFACE, in_signature="ss", out_signature="")
def SetAccountState(self, account, state):
    """Puts an account into a state, with the signal that bearerd sends."""
    _check(state)
    name, entry = _find(self, account)
    entry["state"] = str(state)
    changed = dbus.Dictionary({"State": state}, signature="sv")
    get_object(_path(name)).UpdateProperties(ACCOUNT_IFACE, changed)


@dbus.service.method(MOCK_IFACE, in_signature="ss", out_signature="")
def FailNext(self, account, word):
    """Answers the next GetToken with this error, such as Timeout."""
    _find(self, account)[1]["fail"] = str(word)


@dbus.service.method(MOCK_IFACE, in_signature="s", out_signature="")
def ExpireToken(self, account):
    """Hands out another token from now on."""
    _find(self, account)[1]["serial"] += 1
