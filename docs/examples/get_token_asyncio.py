#!/usr/bin/env python3
"""Calls an API with a token from bearerd, and once more with a newer one if it is refused.

usage: get_token_asyncio.py URL [ACCOUNT]      needs jeepney, which is pure Python
"""

import asyncio
import sys
import urllib.error
import urllib.request

from jeepney import DBusAddress, DBusErrorResponse, new_method_call
from jeepney.io.asyncio import open_dbus_router

NAME = "org.bearerd.Broker1"
BROKER = DBusAddress("/org/bearerd/Broker1", bus_name=NAME, interface=NAME)


def call(url, token):
    """The status of the answer."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


async def ask(router, method, signature, *arguments):
    reply = await router.send_and_get_reply(new_method_call(BROKER, method, signature, arguments))
    if reply.header.message_type.name == "error":
        raise DBusErrorResponse(reply)
    return reply.body


async def main(url, account=""):
    async with open_dbus_router() as router:
        try:
            token, expires_at, details = await ask(router, "GetToken", "s", account)
            status = await asyncio.to_thread(call, url, token)
            if status == 401 and (await ask(router, "RejectToken", "ss", account, details["token_id"][1]))[0]:
                token, expires_at, details = await ask(router, "GetToken", "s", account)
                status = await asyncio.to_thread(call, url, token)
        except DBusErrorResponse as error:
            # The name is for programs, the message for people: it ends with what to do.
            sys.exit(error.data[0])
    print(status)
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
