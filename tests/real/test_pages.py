"""The pages on which a browser ends, as a real browser shows them. BEARERD_PICTURES names a folder to keep them in."""

import os
import re
import subprocess
import urllib.parse

import pytest

import realm
from browser import Chromium
from processes import required
from sandboxed import Sandbox

PHONE, DESK = 390, 900


@pytest.fixture
def sandbox(binaries, tmp_path):
    sandbox = Sandbox(binaries, tmp_path)
    yield sandbox
    sandbox.close()


@pytest.fixture
def browser(tmp_path):
    with Chromium(os.environ.get("BEARERD_PICTURES", tmp_path)) as browser:
        yield browser


def _address(sandbox):
    """A new login's address, and the bearerctl that waits for its end."""
    argv = [required("env"), "bearerctl", "login", "--force", "--no-browser"]
    child = subprocess.Popen(argv, env=sandbox.env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (found := re.search(r"http://\S+", child.stderr.readline())):
        pass
    return found[0], child


@pytest.mark.parametrize(
    "button, title, words, code",
    [("accept", "Logged in - bearerd", "as robin", 0), ("cancel", "Login denied - bearerd", "nothing was changed", 1)],
)
def a_page_is_readable_in_light_and_dark_on_a_desk_and_on_a_phone(sandbox, browser, button, title, words, code):
    """B11-B13: nothing is loaded, and the address bar keeps nothing of the response."""
    url, child = _address(sandbox)

    shown, address, text = browser.press(url, button, "/bearerd/done")

    assert shown == title
    assert words in text and "You can close this window." in text
    assert "?" not in address and "#" not in address
    # Every browser asks for that one by itself.
    loaded = browser.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.endswith("/favicon.ico")] == []
    backgrounds = set()
    for width in (PHONE, DESK):
        for dark in (False, True):
            browser.show(width, dark)
            backgrounds.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            assert browser.evaluate("parseFloat(getComputedStyle(document.querySelector('p')).fontSize)") >= 16
            kind = f"{'dark' if dark else 'light'}-{'phone' if width == PHONE else 'desk'}"
            browser.picture(f"{'done' if button == 'accept' else 'denied'}-{kind}")
    assert len(backgrounds) == 2, "light and dark look the same: is the style blocked?"
    child.stderr.read()
    assert child.wait(20) == code


def keycloaks_pages_lead_to_ours_which_keeps_the_code_to_itself(desktop, keycloak, browser):
    """A7, B5, B12, B13, R14: the whole way in a real browser, with its log of requests and its history."""
    desktop.add_account("work", user="robin", client=realm.CONSENT_CLIENT, scopes=["openid", "profile"])
    desktop.start_daemon()
    desktop.set_secret("work")
    attempt, url = desktop.start_login("work")
    ours = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)["redirect_uri"][0].removesuffix("/callback")

    title, address, text = browser.log_in(url, "robin", keycloak.password_of("robin"))

    assert desktop.wait_login(attempt) == "succeeded", (title, address, text)
    assert title == "Logged in - bearerd" and "logged in to work as robin" in text
    assert address == f"{ours}/bearerd/done"
    kept = [entry for entry in browser.history() if "code=" in entry]
    assert kept == [], "the history holds the code"
    # Keycloak's pages load what they like from Keycloak; ours load nothing.
    seen = [(where, headers) for where, headers in browser.requests() if where.startswith("http")]
    seen = [(where, headers) for where, headers in seen if not where.startswith(keycloak.base)]
    ways = [where.partition("?")[0] for where, _ in seen if not where.endswith("/favicon.ico")]
    assert ways == [f"{ours}/callback", address] and "code=" in seen[0][0], seen
    told = [headers for _, headers in seen if "code=" in headers.get("Referer", "")]
    assert told == [], "the code was passed on as a referrer"
    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]
    browser.show(DESK, dark=False)
    browser.picture("keycloak-done")
