"""The realms of the test Keycloak, as its import files describe them."""

# What a Chaster application may ask for.
SCOPES = ("profile", "locks", "shared_locks", "keyholder", "messaging")

SECRET = "s3cret+with%odd:signs é"  # form-encoded in three places: an encoding slip shows
CONSENT_CLIENT = "desk-app"  # confidential, asks for consent: the seed's kind
QUIET_CLIENT = "quiet-app"  # confidential, no consent page
BRIEF_CLIENT = "brief-app"  # as quiet, with access tokens of 6 s in a session of the realm's length
PUBLIC_CLIENT = "native-app"  # no secret, PKCE required
PUSHING_CLIENT = "pushing-app"  # as quiet, and takes pushed authorization requests alone
DEVICE_CLIENT = "device-app"  # as quiet, with the device flow, which always asks for consent
BOUND_CLIENT = "bound-app"  # as quiet, with tokens that are bound to a key (DPoP)
EXCHANGING_CLIENT = "exchanging-app"  # as quiet, with the standard token exchange
INTROSPECTOR = "resource-server"  # an API that asks whether a token is good

# Registered without a port, so that any port is accepted (RFC 8252 section 7.3).
REDIRECT_URI = "http://127.0.0.1/*"


def app():
    """The seed's realm: 300 s, 1800 s, one use per refresh token."""
    return _realm("app", access_seconds=300, idle_seconds=1800)


def short():
    """The same with a life that a test can outlive."""
    return _realm("short", access_seconds=8, idle_seconds=20)


def ending():
    """A session with a hard end: every refresh brings a shorter life."""
    return _realm("ending", access_seconds=300, idle_seconds=1800, max_seconds=60)


def lenient():
    """A provider with a grace: each refresh token may come once more."""
    return _realm("lenient", access_seconds=300, idle_seconds=1800, max_reuse=1)


def _realm(name, access_seconds, idle_seconds, max_seconds=36000, max_reuse=0):
    return {
        "realm": name,
        "enabled": True,
        "sslRequired": "external",
        "accessTokenLifespan": access_seconds,
        "ssoSessionIdleTimeout": idle_seconds,
        "ssoSessionMaxLifespan": max_seconds,
        "accessCodeLifespan": 600,
        "revokeRefreshToken": True,
        "refreshTokenMaxReuse": max_reuse,
        "eventsEnabled": True,
        "eventsExpiration": 86400,
        "enabledEventTypes": [
            kind + suffix
            for kind in ("LOGIN", "CODE_TO_TOKEN", "REFRESH_TOKEN", "LOGOUT", "REVOKE_GRANT", "INTROSPECT_TOKEN")
            for suffix in ("", "_ERROR")
        ],
        "clientScopes": [_basic(), *map(_scope, SCOPES)],
        "defaultDefaultClientScopes": ["basic"],
        "clients": [
            _client(CONSENT_CLIENT, secret=SECRET, consentRequired=True),
            _client(QUIET_CLIENT, secret=SECRET),
            _client(BRIEF_CLIENT, secret=SECRET, attributes={"access.token.lifespan": "6"}),
            _client(PUBLIC_CLIENT, publicClient=True),
            _client(EXCHANGING_CLIENT, secret=SECRET, attributes={"standard.token.exchange.enabled": "true"}),
            _client(PUSHING_CLIENT, secret=SECRET, attributes={"require.pushed.authorization.requests": "true"}),
            _client(DEVICE_CLIENT, secret=SECRET, attributes={"oauth2.device.authorization.grant.enabled": "true"}),
            _client(BOUND_CLIENT, secret=SECRET, attributes={"dpop.bound.access.tokens": "true"}),
            _client(INTROSPECTOR, secret=SECRET, standardFlowEnabled=False),
        ],
    }


def _client(client_id, secret=None, attributes=None, **settings):
    client = {
        "clientId": client_id,
        "enabled": True,
        "protocol": "openid-connect",
        "redirectUris": [REDIRECT_URI],
        "standardFlowEnabled": True,
        "directAccessGrantsEnabled": False,
        "defaultClientScopes": ["basic"],
        "optionalClientScopes": list(SCOPES),
        "attributes": {"pkce.code.challenge.method": "S256"} | (attributes or {}),
    }
    return client | settings | ({"secret": secret} if secret else {})


def signing_client(client_id, attributes):
    """A client whose key Keycloak knows."""
    return _client(client_id, attributes=attributes, clientAuthenticatorType="client-jwt")


def _scope(name):
    username = _mapper(
        "username",
        "oidc-usermodel-attribute-mapper",
        {"user.attribute": "username", "claim.name": "preferred_username", "id.token.claim": "true"},
    )
    return {
        "name": name,
        "protocol": "openid-connect",
        "attributes": {
            "include.in.token.scope": "true",
            "display.on.consent.screen": "true",
            "consent.screen.text": f"Use your {name.replace('_', ' ')}",
        },
        "protocolMappers": [username] if name == "profile" else [],
    }


def _basic():
    """Keycloak's own default scope, which carries `sub`; a realm that lists scopes must bring it."""
    return {
        "name": "basic",
        "protocol": "openid-connect",
        "attributes": {"include.in.token.scope": "false", "display.on.consent.screen": "false"},
        "protocolMappers": [
            _mapper("sub", "oidc-sub-mapper", {}),
            # Introspection calls a token inactive that doesn't name the asking API as an audience.
            _mapper("audience", "oidc-audience-mapper", {"included.client.audience": INTROSPECTOR}),
        ],
    }


def _mapper(name, kind, config):
    return {
        "name": name,
        "protocol": "openid-connect",
        "protocolMapper": kind,
        "config": {"access.token.claim": "true", "introspection.token.claim": "true", "jsonType.label": "String"}
        | config,
    }
