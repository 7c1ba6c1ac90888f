#!/usr/bin/python3
"""Calls an API with a token from bearerd, and once more with a newer one if it is refused.

usage: get_token_gio.py URL [ACCOUNT]      needs PyGObject (Debian: python3-gi), which GNOME programs have
"""

import sys
import urllib.error
import urllib.request

from gi.repository import Gio, GLib

NAME = "org.bearerd.Broker1"
ERROR = NAME + ".Error."


def call(url, token):
    """The status of the answer."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def main(url, account=""):
    flags = Gio.DBusProxyFlags.DO_NOT_LOAD_PROPERTIES | Gio.DBusProxyFlags.DO_NOT_CONNECT_SIGNALS
    broker = Gio.DBusProxy.new_for_bus_sync(Gio.BusType.SESSION, flags, None, NAME, "/org/bearerd/Broker1", NAME, None)
    try:
        token, expires_at, details = broker.GetToken("(s)", account)
        status = call(url, token)
        if status == 401 and broker.RejectToken("(ss)", account, details["token_id"]):
            token, expires_at, details = broker.GetToken("(s)", account)
            status = call(url, token)
    except GLib.Error as error:
        # The name is for programs, the message for people: it ends with what to do.
        name = Gio.DBusError.get_remote_error(error)
        Gio.DBusError.strip_remote_error(error)
        if name == ERROR + "LoginRequired":
            sys.exit(f"please log in first: {error.message}")
        sys.exit(error.message)
    print(status)
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
