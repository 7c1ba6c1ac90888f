"""`bearerctl add` as a person meets it: its questions on a terminal."""

import pytest

import pages
import realm
from terminal import Terminal

PROVIDER = "or an issuer's URL: "
CLIENT = "the client id that it was registered under: "
SCOPES = "scopes, separated by spaces [openid profile]: "
NOW = "log in now? [Y/n]: "
SECRET = 'client secret for "work" (not shown): '


@pytest.fixture
def adding(desktop):
    """`bearerctl add work` on a terminal, of a user who has nothing yet; the browser only notes the address."""
    browser = desktop.folder / "browser"
    browser.write_text(f'printf %s "$1" >{desktop.folder}/address.new; mv {desktop.folder}/address.new {desktop.folder}/address')
    desktop.write_config()
    desktop.start_daemon()
    env = desktop.env | {"TERM": "xterm", "BROWSER": f"sh {browser}"}
    terminal = Terminal([desktop.binaries / "bearerctl", "add", "work"], env=env, columns=200, rows=50)
    yield terminal
    terminal.close()


def _answer(terminal, question, answer, times=1):
    """Answers a question that is asked for the nth time."""
    terminal.until(question, lambda: terminal.text.count(question.rstrip()) == times)
    terminal.type(f"{answer}\n")


def questions_lead_from_nothing_to_a_session_and_wrong_answers_are_asked_again(desktop, keycloak, adding):
    user = f"add-{desktop.folder.name}"
    keycloak.create_user("app", user)

    _answer(adding, PROVIDER, "gogle")
    _answer(adding, PROVIDER, keycloak.realm_url("nothing"), 2)
    _answer(adding, PROVIDER, keycloak.realm_url("app"), 3)
    _answer(adding, CLIENT, "")
    _answer(adding, CLIENT, realm.QUIET_CLIENT, 2)
    _answer(adding, SCOPES, "")
    _answer(adding, NOW, "")
    adding.until_shows(SECRET.rstrip())
    adding.until("a terminal that hides", lambda: not adding.echoes)
    adding.type(f"{realm.SECRET}\n")
    adding.until_shows("waiting for the browser")
    said, url = adding.text, (desktop.folder / "address").read_text()
    page = pages.login_through_pages(url, user, keycloak.password_of(user))

    assert adding.wait() == 0, adding.text
    assert page.status == 200 and f'logged in to "work" as {user}' in adding.text
    assert 'did you mean "google"?' in said and "nothing was written" in said, said
    assert "register at the provider: http://127.0.0.1/callback" in said and realm.SECRET not in said
    assert keycloak.introspect("app", desktop.token("work").access_token)["active"]


@pytest.mark.parametrize("until", [PROVIDER, CLIENT, SCOPES, NOW, SECRET])
@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["ctrl-c", "ctrl-d"])
def an_answer_that_never_comes_leaves_nothing_half_done(desktop, keycloak, adding, until, key):
    """Up to the last question there is no file; after it there is a whole one, and what is next."""
    answers = {PROVIDER: keycloak.realm_url("app"), CLIENT: realm.QUIET_CLIENT, SCOPES: "", NOW: ""}
    for question, answer in answers.items():
        if question == until:
            break
        _answer(adding, question, answer)
    adding.until_shows(until.rstrip())
    if until == SECRET:
        adding.until("a terminal that hides", lambda: not adding.echoes)

    adding.type(key)

    # An empty line is an empty secret.
    assert adding.wait() == (2 if (until, key) == (SECRET, "\x04") else 130), adding.text
    assert adding.echoes
    written = until in (NOW, SECRET)
    assert (desktop.config / "bearerd/accounts.d").exists() == written
    assert ("next: bearerctl set-secret work, then bearerctl login work" in adding.text) == written, adding.text
    assert desktop.ctl("status").returncode == 0
