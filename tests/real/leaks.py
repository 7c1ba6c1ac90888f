"""Finding secrets where none may be, also encoded and in part."""

import base64
import urllib.parse


def assert_none_in(content, secrets, where):
    """Fails when any form of any secret is in these bytes; the message names the form, not the secret."""
    for secret in secrets:
        for form, needle in forms(secret):
            position = content.find(needle)
            assert position < 0, (
                f"{where} holds a secret ({form}): {content[max(0, position - 160) : position]!r}<here>"
            )


def forms(secret):
    """(name, bytes) of what a leaked secret may look like."""
    raw = secret.encode()
    yield "as it is", raw
    yield "percent-encoded", urllib.parse.quote(secret, safe="").encode()
    yield "form-encoded", urllib.parse.quote_plus(secret).encode()
    # A third of a token's bytes is as good as the token to whoever has the rest; its signature is the part that counts.
    if secret.count(".") == 2:
        yield "a token's signature", raw.rpartition(b".")[2]
    # Inside a longer base64 text a secret starts at one of three places, and neighbours change its ends.
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw)
        inner = encoded[4 if offset else 0 : len(encoded) // 4 * 4 - 4]
        if len(inner) >= 16:
            yield "base64", inner
            yield "base64url", inner.translate(bytes.maketrans(b"+/", b"-_"))
