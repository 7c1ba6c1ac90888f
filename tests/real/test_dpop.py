"""Tokens that are bound to a key (RFC 9449), from a real Keycloak."""

import subprocess

import pytest

import realm
from bus import BusError
from processes import required


def a_bound_session_lives_and_its_api_takes_our_proofs(desktop, keycloak):
    """J5: login, refresh, restart and logout; Keycloak's userinfo is called as a user would, with curl."""
    desktop.add_discovered_account("work", client=realm.BOUND_CLIENT, dpop=True)
    desktop.start_daemon()
    desktop.set_secret("work")
    state, page = desktop.log_in("work")
    assert state == "succeeded", page
    url = f"{keycloak.realm_url('app')}/protocol/openid-connect/userinfo"
    first = desktop.token("work").access_token

    assert keycloak.introspect("app", first)["cnf"]["jkt"]
    assert desktop.users["work"] in _userinfo(desktop, url)
    assert desktop.ctl("refresh", "work").returncode == 0
    second = desktop.token("work").access_token
    assert second != first
    desktop.restart_daemon(kill=True)
    assert desktop.users["work"] in _userinfo(desktop, url), "the key was lost"
    third = desktop.token("work").access_token
    bindings = {keycloak.introspect("app", token)["cnf"]["jkt"] for token in (first, second, third)}
    assert len(bindings) == 1, bindings

    done = desktop.ctl("logout", "work")
    assert "the provider ended the session too" in done.stderr, done.stderr


def a_token_without_its_proof_is_refused_by_the_api(desktop, keycloak):
    """J5: the token alone is worth nothing, nor is a proof for another address."""
    desktop.add_discovered_account("work", client=realm.BOUND_CLIENT, dpop=True)
    desktop.start_daemon()
    desktop.set_secret("work")
    assert desktop.log_in("work")[0] == "succeeded"
    url = f"{keycloak.realm_url('app')}/protocol/openid-connect/userinfo"
    token = desktop.token("work").access_token

    elsewhere = desktop.ctl("token", "work", "--format", "dpop", "GET", f"{url}/elsewhere")

    assert elsewhere.returncode == 0, elsewhere.stderr
    for headers in (f"Authorization: Bearer {token}", f"Authorization: DPoP {token}", elsewhere.stdout):
        assert _curl(url, headers).endswith("\n401"), "it was taken"


def an_account_without_a_key_gets_no_proofs(desktop):
    """J5: and its token is a bearer token as ever."""
    desktop.ready_account("plain")

    with pytest.raises(BusError) as refused:
        desktop.call("CreateDpopProof", "sssa{sv}", "plain", "GET", "https://api.example/", {})

    assert refused.value.word == "InvalidArgument"


def _userinfo(desktop, url):
    headers = desktop.ctl("token", "work", "--format", "dpop", "GET", url)
    assert headers.returncode == 0, headers.stderr
    answer = _curl(url, headers.stdout)
    assert answer.endswith("\n200"), answer
    return answer


def _curl(url, headers):
    command = [required("curl"), "--silent", "--header", "@-", "--write-out", "\n%{http_code}", url]
    return subprocess.run(command, input=headers, capture_output=True, text=True, timeout=40, check=True).stdout
