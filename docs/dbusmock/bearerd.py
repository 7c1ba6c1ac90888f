"""bearerd for the tests of its callers: a python-dbusmock template.

    python3 -m dbusmock --session --template bearerd.py \\
        --parameters '{"Accounts": {"work": "ready", "home": "logged-out"}}'

or `self.spawn_server_template("…/bearerd.py", {"Accounts": {"work": "ready"}})` in a DBusTestCase. The first account is
the default one. A ready account hands out `mock-token-1`; RejectToken makes that `mock-token-2`, and so on. The other
states answer with the error that bearerd has for them, under its name and with a message like its own. A login opens no
browser and stays pending until the test ends it; UnlockStore opens the keyring at once.

To change things while a test runs, over the interface org.freedesktop.DBus.Mock on /org/bearerd/Broker1:
SetAccountState(account, state), FailNext(account, error word), ExpireToken(account), EndLogin(account, how it ends).

Not there: GetTokenFd, CreateDpopProof, SetPersonalToken, SetClientSecret, Reload, the interface Access and the object
manager. An account's times stay 0, and Refresh does nothing.

For a real daemon in place of a mock, with a provider that can fail, see bearerd-sandbox.
"""

import time
import urllib.parse

import dbus
from dbusmock import MOCK_IFACE, get_object
from gi.repository import GLib

BUS_NAME = "org.bearerd.Broker1"
MAIN_OBJ = "/org/bearerd/Broker1"
MAIN_IFACE = BUS_NAME
SYSTEM_BUS = False
IS_OBJECT_MANAGER = False

ACCOUNT_IFACE = BUS_NAME + ".Account"
LOGIN_IFACE = BUS_NAME + ".Login"
LIFETIME = 300
LOGIN_TIMEOUT = 600
PROVIDER = "https://provider.example"

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
# Of each state: StateReason, StateMessage, NeedsAttention.
STATES = {
    "ready": ("", "", False),
    "unsaved": ("store-locked", "the session is in memory only: the keyring is locked; run: bearerctl unlock", True),
    "logged-out": ("no-session", "not logged in to {0!r}; run: bearerctl login {0}", False),
    "expired": ("ended-by-provider", "the provider ended it; run: bearerctl login {0}", True),
    "not-configured": ("no-client-secret", ERRORS["not-configured"][1], True),
    "refused": ("client-refused", ERRORS["refused"][1], True),
    "store-locked": ("locked", "the keyring is locked; run: bearerctl unlock", True),
    "store-unavailable": ("absent", "no keyring answers", False),
    "offline": ("unreachable", ERRORS["offline"][1], False),
}
# How a login ends: Error, ErrorMessage.
ENDS = {
    "succeeded": ("", ""),
    "cancelled": ("cancelled", "the login was cancelled; run: bearerctl login {0}"),
    "denied": ("access_denied", "the login was denied at the provider; run: bearerctl login {0}"),
    "failed": ("provider-error", "the provider refused the login; run: bearerctl login {0}"),
    "expired": ("timeout", "no answer came within 10 min; run: bearerctl login {0}"),
}


def load(mock, parameters):
    mock.accounts = {}
    mock.logins = 0
    # Those of the attempts' objects; dbusmock puts a template's methods on the main one.
    mock.login_methods = mock.methods.pop(LOGIN_IFACE)
    mock.AddProperties(
        MAIN_IFACE,
        dbus.Dictionary({"Version": dbus.UInt32(1), "DefaultAccount": ""}, signature="sv"),
    )
    for name, state in parameters.get("Accounts", {"work": "ready"}).items():
        _check(state, STATES)
        mock.accounts[str(name)] = {"serial": 1, "state": str(state), "fail": None, "attempt": None}
        properties = {
            "Name": name,
            "Provider": "",
            "Issuer": PROVIDER,
            "Source": "oauth",
            "Subject": "robin",
            "Scope": "openid profile",
            **_state(str(name), str(state)),
            "LoginAttempt": dbus.ObjectPath("/"),
            "Store": "memory",
            "ApiOrigins": dbus.Array([], signature="s"),
        }
        times = dict.fromkeys(["AccessExpires", "SessionExpires", "NextRefresh", "LastRefresh"], dbus.UInt64(0))
        mock.AddObject(_path(str(name)), ACCOUNT_IFACE, {**properties, **times}, [("Refresh", "", "", "")])
    if mock.accounts:
        mock.props[MAIN_IFACE]["DefaultAccount"] = next(iter(mock.accounts))


def _check(state, states):
    if state not in states:
        raise dbus.exceptions.DBusException(f"the state must be one of: {', '.join(states)}", name=MOCK_IFACE)


def _state(account, state):
    reason, message, attention = STATES[state]
    return {
        "State": state,
        "StateReason": reason,
        "StateMessage": message.format(account),
        "NeedsAttention": attention,
    }


def _change(path, interface, properties):
    """UpdateProperties, which takes neither object paths nor booleans from within."""
    changed = dbus.Dictionary(properties, signature="sv")
    get_object(path).props[interface].update(properties)
    none = dbus.Array([], signature="s")
    get_object(path).EmitSignal(dbus.PROPERTIES_IFACE, "PropertiesChanged", "sa{sv}as", [interface, changed, none])


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


def _known(options, known):
    unknown = [key for key in options if key not in known]
    if unknown:
        raise _error("InvalidOption", f"unknown option {unknown[0]!r}; known: {', '.join(known)}")


def _log_in(mock, account, options):
    name, entry = _find(mock, account)
    _known(options, ("open_browser", "flow", "prompt", "activation_token"))
    flow, prompt = str(options.get("flow", "code")), str(options.get("prompt", ""))
    if flow not in ("code", "device", "paste"):
        raise _error("InvalidOption", '`flow` must be "code", "device" or "paste"')
    if pending := entry["attempt"]:
        if pending.wish != (flow, prompt):
            text = f"a login to {name!r} with other options is pending; to go on with that one run: bearerctl login {name}"
            raise _error("InvalidOption", text)
        return pending.path, pending.props[LOGIN_IFACE]["Url"]
    if entry["state"] == "not-configured":
        raise _error("NotConfigured", ERRORS["not-configured"][1].format(name))
    mock.logins += 1
    number = mock.logins
    path = dbus.ObjectPath(f"{MAIN_OBJ}/login/{number:032x}")
    device = {"UserCode": "", "VerificationUri": "", "VerificationUriComplete": ""}
    url = f"{PROVIDER}/authorize?client_id=mock&state=mock-state-{number}"
    if flow == "device":
        code, url = f"MOCK-{number:04}", f"{PROVIDER}/device?user_code=MOCK-{number:04}"
        device = {"UserCode": code, "VerificationUri": f"{PROVIDER}/device", "VerificationUriComplete": url}
    properties = {
        "Account": name,
        "Flow": flow,
        "State": "pending",
        "Url": url,
        "Error": "",
        "ErrorMessage": "",
        "Expires": dbus.UInt64(int(time.time()) + LOGIN_TIMEOUT),
        **device,
    }
    mock.AddObject(path, LOGIN_IFACE, properties, [])
    attempt = entry["attempt"] = get_object(path)
    attempt.methods[LOGIN_IFACE].update(mock.login_methods)
    attempt.wish, attempt.number, attempt.waiting = (flow, prompt), number, []
    _change(_path(name), ACCOUNT_IFACE, {"LoginAttempt": path})
    return path, url


def _end(attempt, state):
    """Ends a pending attempt; one that has ended stays as it is."""
    mock, name = get_object(MAIN_OBJ), str(attempt.props[LOGIN_IFACE]["Account"])
    entry = mock.accounts[name]
    if entry["attempt"] is not attempt:
        return
    entry["attempt"] = None
    if state == "succeeded":
        entry["serial"] += 1
        mock.SetAccountState(name, "ready")
    error, message = ENDS[state]
    over = dict.fromkeys(("Url", "UserCode", "VerificationUri", "VerificationUriComplete"), "")
    over |= {"State": state, "Error": error, "ErrorMessage": message.format(name)}
    _change(attempt.path, LOGIN_IFACE, over)
    _change(_path(name), ACCOUNT_IFACE, {"LoginAttempt": dbus.ObjectPath("/")})
    waiting, attempt.waiting = attempt.waiting, []
    for answer in waiting:
        answer(state)


@dbus.service.method(MAIN_IFACE, in_signature="s", out_signature="sta{sv}")
def GetToken(self, account):
    return _token(self, account)


@dbus.service.method(MAIN_IFACE, in_signature="sa{sv}", out_signature="sta{sv}")
def GetTokenWithOptions(self, account, options):
    _known(options, ("min_validity", "force_refresh", "scope", "audience", "resource"))
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


@dbus.service.method(MAIN_IFACE, in_signature="s", out_signature="os")
def Login(self, account):
    return _log_in(self, account, {})


@dbus.service.method(MAIN_IFACE, in_signature="sa{sv}", out_signature="os")
def LoginWithOptions(self, account, options):
    return _log_in(self, account, options)


@dbus.service.method(MAIN_IFACE, in_signature="", out_signature="")
def UnlockStore(self):
    for name, entry in self.accounts.items():
        if entry["state"] in ("store-locked", "unsaved"):
            self.SetAccountState(name, "ready")


@dbus.service.method(LOGIN_IFACE, in_signature="u", out_signature="s", async_callbacks=("answer", "_fail"))
def Wait(self, timeout_ms, answer, _fail):
    def over():
        if answer in self.waiting:
            self.waiting.remove(answer)
            answer("pending")

    if self.props[LOGIN_IFACE]["State"] != "pending" or timeout_ms == 0:
        answer(self.props[LOGIN_IFACE]["State"])
        return
    self.waiting.append(answer)
    GLib.timeout_add(min(int(timeout_ms), 20_000), over)


@dbus.service.method(LOGIN_IFACE, in_signature="s", out_signature="")
def Complete(self, redirect_url):
    """Takes an address with the `state` of Url, and `code` or `error`."""
    answer = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(redirect_url).query))
    ours = answer.get("state") == f"mock-state-{self.number}" and self.wish[0] != "device"
    if self.props[LOGIN_IFACE]["State"] != "pending" or not ours or not {"code", "error"} & set(answer):
        name = self.props[LOGIN_IFACE]["Account"]
        text = f"that is not this login's; give the whole address that the browser shows after the login to {name}"
        raise _error("InvalidArgument", text)
    _end(self, "succeeded" if "code" in answer else "denied" if answer["error"] == "access_denied" else "failed")


@dbus.service.method(LOGIN_IFACE, in_signature="", out_signature="")
def Cancel(self):
    _end(self, "cancelled")


@dbus.service.method(MAIN_IFACE, in_signature="s", out_signature="b")
def Logout(self, account):
    name, _ = _find(self, account)
    self.SetAccountState(name, "logged-out")
    return True


@dbus.service.method(MOCK_IFACE, in_signature="ss", out_signature="")
def SetAccountState(self, account, state):
    """Puts an account into a state, with the reason, the message and the signal that bearerd has for it."""
    _check(state, STATES)
    name, entry = _find(self, account)
    entry["state"] = str(state)
    _change(_path(name), ACCOUNT_IFACE, _state(name, str(state)))


@dbus.service.method(MOCK_IFACE, in_signature="ss", out_signature="")
def FailNext(self, account, word):
    """Answers the next GetToken with this error, such as Timeout."""
    _find(self, account)[1]["fail"] = str(word)


@dbus.service.method(MOCK_IFACE, in_signature="s", out_signature="")
def ExpireToken(self, account):
    """Hands out another token from now on."""
    _find(self, account)[1]["serial"] += 1


@dbus.service.method(MOCK_IFACE, in_signature="ss", out_signature="")
def EndLogin(self, account, state):
    """Ends the account's pending login, as succeeded, cancelled, denied, failed or expired."""
    _check(state, ENDS)
    name, entry = _find(self, account)
    if not entry["attempt"]:
        raise dbus.exceptions.DBusException(f"no login to {name!r} is pending", name=MOCK_IFACE)
    _end(entry["attempt"], str(state))
