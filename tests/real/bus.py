"""A private session bus, and calls on it that keep the error's name (busctl shows only the message)."""

import pathlib
import socket
import threading
import time

from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call
from jeepney.io.blocking import open_dbus_connection

from processes import Process, required

# The interface of python-dbusmock's own methods.
MOCK = "org.freedesktop.DBus.Mock"

_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>{listen}</listen>
  <auth>EXTERNAL</auth>
  {services}
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
  <limit name="max_connections_per_user">2048</limit>
  <limit name="max_replies_per_connection">50000</limit>
</busconfig>
"""


def configuration(listen, services=None):
    """What a dbus-daemon that listens there reads; without a service folder nothing is ever activated on it."""
    return _CONFIG.format(listen=listen, services=f"<servicedir>{services}</servicedir>" if services else "")


class BusError(Exception):
    """A D-Bus error reply."""

    def __init__(self, name, message):
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message

    @property
    def word(self):
        """The last part of the name: `LoginRequired`."""
        return self.name.rpartition(".")[2]


class PrivateBus:
    """A dbus-daemon of our own."""

    def __init__(self, runtime, env, services=None):
        path = pathlib.Path(runtime) / "bus"
        config = pathlib.Path(runtime) / "bus.conf"
        self.address = f"unix:path={path}"
        config.write_text(configuration(self.address, services))
        argv = [required("dbus-daemon"), f"--config-file={config}", "--nofork", "--nopidfile"]
        self.process = Process(argv, log=pathlib.Path(runtime) / "bus.log", env=env)
        self.process.ready("the bus", lambda: _listens(path), 10)

    def connect(self):
        return Connection(self.address)

    def stop(self):
        self.process.stop()


class Connection:
    """One client of the bus. Not for several threads: take one each."""

    def __init__(self, address):
        self._connection = open_dbus_connection(address, enable_fds=True)
        self._outcomes = {}  # by serial, until somebody asks for them

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._connection.close()

    def call(self, destination, path, interface, member, signature="", *body, timeout=30):
        """Calls a method and returns the reply's values as a tuple; an error reply is raised as BusError."""
        outcome = self.reply(self.send(destination, path, interface, member, signature, *body), timeout)
        if isinstance(outcome, BusError):
            raise outcome
        return outcome

    def send(self, destination, path, interface, member, signature="", *body):
        """Sends a call and doesn't wait; returns its serial for `reply`."""
        address = DBusAddress(path, bus_name=destination, interface=interface)
        serial = next(self._connection.outgoing_serial)
        self._connection.send(new_method_call(address, member, signature or None, body), serial=serial)
        return serial

    def reply(self, serial, timeout=30):
        """The reply to a sent call: a tuple of values or a BusError."""
        deadline = time.monotonic() + timeout
        while serial not in self._outcomes:
            message = self.receive(max(0.0, deadline - time.monotonic()))
            if message.header.message_type in (MessageType.method_return, MessageType.error):
                self._outcomes[message.header.fields[HeaderFields.reply_serial]] = _outcome(message)
        return self._outcomes.pop(serial)

    def receive(self, timeout):
        """The next message, whatever it is; TimeoutError when there is none."""
        return self._connection.receive(timeout=timeout)

    def get(self, destination, path, interface, name):
        """Reads one property."""
        return self.call(destination, path, "org.freedesktop.DBus.Properties", "Get", "ss", interface, name)[0][1]

    def owner(self, name):
        """The unique name behind a well-known one, or None."""
        bus = "org.freedesktop.DBus"
        try:
            return self.call(bus, "/org/freedesktop/DBus", bus, "GetNameOwner", "s", name)[0]
        except BusError:
            return None


class Monitor:
    """Sees every message of a bus, as any program of the same user may."""

    def __init__(self, address):
        self.messages = []
        self._connection = Connection(address)
        self._connection.call(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus.Monitoring",
            "BecomeMonitor",
            "asu",
            [],
            0,
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join(10)
        self._connection.close()

    def _listen(self):
        while not self._stopping.is_set():
            try:
                self.messages.append(self._connection.receive(0.1))
            except TimeoutError:
                pass

    def calls(self, *members):
        """The method calls with these names that were sent to anybody."""
        return self._heard(MessageType.method_call, members)

    def signals(self, *members):
        """The signals with these names, of anybody."""
        return self._heard(MessageType.signal, members)

    def _heard(self, kind, members):
        return [
            message
            for message in list(self.messages)
            if message.header.message_type == kind and message.header.fields.get(HeaderFields.member) in members
        ]


def _listens(path):
    """Whether the socket is there and somebody listens: it is bound a moment before."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _outcome(message):
    if message.header.message_type == MessageType.error:
        return BusError(message.header.fields[HeaderFields.error_name], message.body[0] if message.body else "")
    return message.body
