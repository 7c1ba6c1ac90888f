"""A logind that announces suspends and grants delays, on a bus of a test's own."""

import os
import select
import threading

from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call, new_method_return, new_signal
from jeepney.io.blocking import open_dbus_connection

NAME = "org.freedesktop.login1"
PATH = "/org/freedesktop/login1"
MANAGER = "org.freedesktop.login1.Manager"


class Logind:
    """Serves `Inhibit` and sends `PrepareForSleep`."""

    def __init__(self, address):
        self._connection = open_dbus_connection(address, enable_fds=True)
        self._call("RequestName", "su", (NAME, 4))
        self._delays = []  # our ends of the pipes that were handed out
        self.granted = 0
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self):
        self._stopping.set()
        self._thread.join(10)
        self._connection.close()

    def prepare_for_sleep(self, start):
        signal = new_signal(DBusAddress(PATH, interface=MANAGER), "PrepareForSleep", "b", (start,))
        with self._lock:
            self._connection.send(signal)

    def delayed(self):
        """Whether somebody still holds a suspend back."""
        for ours in list(self._delays):
            poll = select.poll()
            poll.register(ours, 0)
            if poll.poll(0):  # the other end is closed
                os.close(ours)
                self._delays.remove(ours)
        return bool(self._delays)

    def _call(self, member, signature, body):
        bus = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
        return self._connection.send_and_get_reply(new_method_call(bus, member, signature, body))

    def _serve(self):
        while not self._stopping.is_set():
            try:
                message = self._connection.receive(timeout=0.05)
            except TimeoutError:
                continue
            header = message.header
            if header.message_type != MessageType.method_call:
                continue
            if header.fields.get(HeaderFields.member) == "Inhibit":
                assert message.body[0] == "sleep" and message.body[3] == "delay", message.body
                ours, theirs = os.pipe()
                self._delays.append(ours)
                self.granted += 1
                reply = new_method_return(message, "h", (theirs,))
                with self._lock:
                    self._connection.send(reply)
                os.close(theirs)
