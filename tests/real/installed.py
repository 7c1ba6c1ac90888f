"""The product in a booted machine, used as programs do: over its user's bus."""

import json

import pages
import realm
from processes import until

UNIT = "bearerd.service"
BROWSER = "sh /home/carol/browser"
CALL = ("org.bearerd.Broker1", "/org/bearerd/Broker1", "org.bearerd.Broker1")


class Installed:
    """A booted machine with the product in it, and an account at the Keycloak outside."""

    def __init__(self, machine, keycloak, relay, user):
        self.machine = machine
        self.keycloak = keycloak
        self.relay = relay
        self.user = user
        self.user_id = keycloak.create_user("app", user)

    def call(self, member, signature="", *arguments, path=CALL[1], interface=CALL[2]):
        """A method call with busctl; its answer's values, or the failed program."""
        argv = [
            "busctl",
            "--user",
            "--json=short",
            "call",
            CALL[0],
            path,
            interface,
            member,
            *([signature] if signature else []),
        ]
        done = self.machine.run(*argv, *arguments)
        return json.loads(done.stdout)["data"] if done.returncode == 0 else done

    def token(self):
        answer = self.call("GetToken", "s", "work")
        assert isinstance(answer, list), answer.stderr
        return answer[0]

    def log_in(self):
        self.machine.run("bearerctl", "set-secret", "work", stdin=realm.SECRET, check=True)
        attempt, url = self.call("LoginWithOptions", "sa{sv}", "work", "1", "open_browser", "b", "false")
        page = pages.login_through_pages(
            url, self.user, self.keycloak.password_of(self.user), get=self.machine.get_callback_as_carol
        )
        (state,) = self.call("Wait", "u", "20000", path=attempt, interface="org.bearerd.Broker1.Login")
        assert state == "succeeded", (state, page)

    def note_addresses(self):
        """carol's $BROWSER notes the address, for `approve`."""
        self.machine.write_home("browser", 'printf %s "$1" >~/address.new; mv ~/address.new ~/address\n')

    def approve(self):
        """What her browser was opened for: she logs in; returns the last page."""
        address = self.machine.root / "home/carol/address"
        url = until("an opened browser", lambda: address.exists() and address.read_text())
        address.unlink()
        password = self.keycloak.password_of(self.user)
        return pages.login_through_pages(url, self.user, password, get=self.machine.get_callback_as_carol)

    def configure(self, **more):
        accounts = {"work": realm.QUIET_CLIENT} | more
        text = "".join(
            f"[accounts.{name}]\nclient_id = {json.dumps(client)}\nclient_auth = 'post'\n"
            f"scopes = ['profile', 'locks']\niss = 'if-present'\n"
            f"authorization_endpoint = {json.dumps(self.keycloak.authorization_endpoint('app'))}\n"
            f"token_endpoint = {json.dumps(self.relay.token_endpoint('app'))}\n\n"
            for name, client in accounts.items()
        )
        self.machine.write_home(".config/bearerd/config.toml", text)


def install(machine, package):
    machine.install(package, "/root/bearerd.deb")
    return machine.run("dpkg", "--install", "/root/bearerd.deb", root=True, check=True)
