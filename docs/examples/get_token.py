#!/usr/bin/python3
"""Calls an API with a token from bearerd, and once more with a newer one if it is refused.

usage: get_token.py URL [ACCOUNT]      needs dbus-python (Debian: python3-dbus)
"""

import sys
import urllib.error
import urllib.request

import dbus

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
    broker = dbus.Interface(dbus.SessionBus().get_object(NAME, "/org/bearerd/Broker1"), NAME)
    try:
        # 15 seconds are the most that bearerd takes; dbus-python waits for 25.
        token, expires_at, details = broker.GetToken(account)
        status = call(url, token)
        if status == 401 and broker.RejectToken(account, details["token_id"]):
            token, expires_at, details = broker.GetToken(account)
            status = call(url, token)
    except dbus.DBusException as error:
        # The name is for programs, the message for people: it ends with what to do.
        if error.get_dbus_name() == ERROR + "LoginRequired":
            sys.exit(f"please log in first: {error.get_dbus_message()}")
        sys.exit(error.get_dbus_message())
    print(status)
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
