"""The same cases at each provider: what it offers must work, and what it lacks is said to be lacking."""

import base64
import functools
import json
import time
import urllib.parse

import pytest
import requests

import table
from bus import BusError


class NotOffered(Exception):
    """The provider has nothing of the kind."""


class NoErrorCode(Exception):
    """The provider refuses with 400 and an empty body, which could come from anything in between: it is tried again."""


class EndpointAudience(Exception):
    """The provider wants its endpoint as the audience: not sent on the word of metadata, which may name another's."""


def feature(name):
    """A case whose end is a cell of the table."""

    def decorate(case):
        @functools.wraps(case)
        def recorded(desk):
            word = "**fail**"
            try:
                case(desk)
                word = "pass"
            except NotOffered:
                word = "not offered"
            except EndpointAudience:
                word = "with its endpoints configured, without `issuer`"
            except NoErrorCode:
                word = "unclear: it sends no error code"
            finally:
                table.note(name, desk.server.name, word)

        return recorded

    return decorate


@feature("discovery, code with PKCE, ID token, userinfo; `client_secret_basic`")
def a_login_by_the_issuer_alone(desk):
    """G1, G2, A2, C2, C3, H1-H8."""
    desk.configure()

    page = desk.log_in()

    assert page.status_code == 200 and "?" not in page.url
    assert desk.user in page.text
    assert desk.account_property("work", "Subject") == desk.user
    token = desk.token("work")
    assert desk.accepted(token.access_token)
    assert token.expires_at == pytest.approx(time.time() + 300, abs=10)


@feature("`client_secret_post`")
def a_secret_in_the_form(desk):
    """C2."""
    desk.configure("post")
    desk.log_in()
    assert desk.accepted(desk.token("work").access_token)


@feature("public client, PKCE alone")
def a_public_client(desk):
    """A2, C2."""
    desk.configure("none")
    desk.log_in()
    assert desk.accepted(desk.token("work").access_token)


@feature("`private_key_jwt`")
def a_client_that_signs(desk):
    """C4: at every endpoint; the audience is the issuer."""
    if desk.audience_is_endpoint:
        known = {key: desk.metadata()[key] for key in ("authorization_endpoint", "token_endpoint")}
        desk.configure("private_key_jwt", issuer=None, scopes=["profile"], **known)
        desk.log_in()
        renewed = desk.token("work", force_refresh=True).access_token
        assert renewed and desk.token("work").access_token == renewed
        raise EndpointAudience
    desk.configure("private_key_jwt")
    desk.log_in()
    access, refresh = desk.token("work").access_token, desk.refresh_token()
    renewed = desk.token("work", force_refresh=True).access_token
    assert renewed != access and desk.accepted(renewed)
    assert desk.refresh_token() != refresh
    done = desk.ctl("logout", "work")
    assert done.returncode == 0 and "the provider ended the session too" in done.stderr, done.stderr


@feature("tokens bound to a key (DPoP), with a nonce where the provider wants one")
def a_bound_session(desk):
    """J5: the provider's own API takes the token with our proof, and no other way."""
    desk.configure(client="bound", dpop=True)
    if "dpop_signing_alg_values_supported" not in desk.metadata():
        raise NotOffered
    desk.log_in()
    first = desk.token("work").access_token
    assert desk.accepted_with_proof() and not desk.accepted(first)
    assert desk.token("work", force_refresh=True).access_token != first
    assert desk.accepted_with_proof()
    desk.restart_daemon(kill=True)
    assert desk.accepted_with_proof(), "the key was lost"


@feature("pushed authorization request")
def a_request_that_is_pushed(desk):
    """G10, A14: the browser carries a reference alone."""
    desk.configure()
    if "pushed_authorization_request_endpoint" not in desk.metadata():
        raise NotOffered
    attempt, url = desk.start_login("work")
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
    assert sorted(query) == ["client_id", "request_uri"], url

    requests.get(desk.server.callback_of(url, desk.user), timeout=20)

    assert desk.wait_login(attempt) == "succeeded"
    assert desk.accepted(desk.token("work").access_token)


@feature("login by a code on another device")
def a_device_login(desk):
    """I1-I4: and its session is renewed like any other."""
    desk.configure(client="device")
    if "device_authorization_endpoint" not in desk.metadata():
        raise NotOffered
    attempt, url = desk.start_login("work", flow="device")

    desk.server.answer_device(url, desk.user)

    assert desk.wait_login(attempt) == "succeeded"
    assert desk.account_property("work", "Subject") == desk.user
    first = desk.token("work").access_token
    assert desk.accepted(desk.token("work", force_refresh=True).access_token)
    assert desk.token("work").access_token != first


@feature("refresh and rotation")
def a_refresh_brings_new_tokens(desk):
    """D1: each refresh token is used once, and the newest one is stored."""
    desk.configure()
    desk.log_in()
    access, refresh = desk.token("work").access_token, desk.refresh_token()

    for _ in range(3):
        renewed = desk.token("work", force_refresh=True).access_token
        assert renewed != access and desk.accepted(renewed)
        access = renewed

    assert desk.refresh_token() != refresh
    desk.restart_daemon(kill=True)
    assert desk.accepted(desk.token("work").access_token)


@feature("a token for one resource (RFC 8707)")
def a_token_for_a_resource(desk):
    """J1-J3: a token for that API alone, beside the session's own."""
    resource = getattr(desk.server, "resource", None)
    if not resource:
        raise NotOffered
    desk.configure(**{"extra_params.resource": resource})
    desk.log_in()
    own = desk.token("work").access_token

    token = desk.token("work", resource=resource).access_token

    padded = token.split(".")[1] + "=="
    assert json.loads(base64.urlsafe_b64decode(padded))["aud"] == resource
    assert not desk.accepted(token) and desk.accepted(own)
    assert desk.token("work").access_token == own and desk.token("work", resource=resource).access_token == token
    desk.restart_daemon(kill=True)
    assert desk.accepted(desk.token("work").access_token)


@feature("a replayed refresh token is refused")
def a_stolen_refresh_token_is_no_use_later(desk):
    """R22, K10: and when the provider ends the session for it, that is what the user hears."""
    desk.configure("post")
    desk.log_in()
    stolen = desk.refresh_token()
    desk.token("work", force_refresh=True)

    replayed = desk.token_request(grant_type="refresh_token", refresh_token=stolen)

    assert replayed.status_code == 400, replayed.text
    if not replayed.content:
        raise NoErrorCode
    assert replayed.json()["error"] == "invalid_grant", replayed.text
    desk.restart_daemon(kill=True)
    try:
        assert desk.accepted(desk.token("work").access_token)
    except BusError as error:
        assert error.word == "LoginRequired" and desk.account_state("work") == "expired", error


@feature("logout ends the session at the provider")
def a_logout_kills_the_refresh_token(desk):
    """F1, F2, F4."""
    desk.configure("post")
    desk.log_in()
    refresh = desk.refresh_token()

    done = desk.ctl("logout", "work")

    assert done.returncode == 0 and "the provider ended the session too" in done.stderr, done.stderr
    spent = desk.token_request(grant_type="refresh_token", refresh_token=refresh)
    assert spent.status_code == 400, spent.text


@feature("a wrong client secret is told from a lost session")
def a_wrong_secret_is_refused(desk):
    """K14, O."""
    desk.configure()
    desk.log_in()
    desk.set_secret("work", "not-the-secret")
    desk.restart_daemon(kill=True)

    word = desk.refused_token("work").word
    if desk.empty_refusals:
        assert word == "ProviderUnreachable"  # and the session is kept
        raise NoErrorCode  # the refused request has spent the refresh token there, so no secret brings it back
    assert word == "ProviderRefused"

    desk.set_secret("work", desk.server.secret)
    desk.until_state("work", "ready", 30)


@feature("a no at the consent page is a denied login")
def a_denied_login(desk):
    """K4."""
    if "consent" not in desk.server.clients:
        raise NotOffered
    desk.configure(client="consent")
    attempt, callback = desk.callback(consent=False)
    requests.get(callback, timeout=20)
    assert desk.wait_login(attempt) == "denied"


@feature("`iss` in the response")
def a_response_names_its_issuer(desk):
    """G7, G8, R12: and one that names another, or none, is refused."""
    desk.configure()
    if not desk.metadata().get("authorization_response_iss_parameter_supported"):
        raise NotOffered
    for forged in ("https://evil.test", None):
        attempt, callback = desk.callback()
        address = urllib.parse.urlsplit(callback)
        query = dict(urllib.parse.parse_qsl(address.query))
        assert query.pop("iss") == desk.server.issuer
        query |= {"iss": forged} if forged else {}
        requests.get(address._replace(query=urllib.parse.urlencode(query)).geturl(), timeout=20)
        assert desk.wait_login(attempt) == "failed"
    desk.log_in()


@feature("a code that was used already is refused")
def a_code_is_good_once(desk):
    """B15, R14."""
    desk.configure("post")
    attempt, callback = desk.callback()
    requests.get(callback, timeout=20)
    assert desk.wait_login(attempt) == "succeeded"
    address = urllib.parse.urlsplit(callback)
    code = dict(urllib.parse.parse_qsl(address.query))["code"]

    replayed = desk.token_request(
        grant_type="authorization_code",
        code=code,
        redirect_uri=address._replace(query="").geturl(),
        code_verifier="x" * 43,
    )

    assert replayed.status_code in (400, 403), replayed.text


def the_table_in_the_docs_is_what_happened():
    """docs/providers.md; UPDATE_EXPECT=1 writes it."""
    table.check()
