//! What some providers' own words and numbers for an error mean for the user. Never more than a hint: what happens
//! next follows from the `error` code, for words change with the provider's version (K12, K13).

use serde_json::Value;

/// Keycloak's, by the part that its versions share.
const WORDS: &[(&str, &str)] = &[
    ("Token is not active", "it was not renewed in time"),
    ("Maximum allowed refresh token reuse exceeded", REUSED),
    ("Stale token", "it was used a second time, or all tokens before it were revoked"),
    ("Session doesn't have required client", ENDED),
    ("Client session not active", ENDED),
    ("Session not active", ENDED),
    ("Offline session not active", ENDED),
    ("Offline user session not found", ENDED),
    ("User session not found", ENDED),
    ("Invalid refresh token", "the provider does not know it; it may be of another server or realm"),
    ("Unmatching clients", "it was given to another client; look at client_id"),
    ("User disabled", "the user is disabled there"),
    ("Code not valid", "it had been used already, or was too old"),
];
const ENDED: &str = "the session was ended there, by a logout, an administrator or its longest time";
/// R22.
const REUSED: &str = "it was used a second time; if by nobody whom you know, it may have been stolen";

/// Microsoft's `error_codes`.
const NUMBERS: &[(u64, &str)] = &[
    (50_076, "a second factor is wanted"),
    (50_079, "a second factor is wanted"),
    (50_173, "the password was changed, or all tokens were revoked"),
    (65_001, "nobody has consented to what the client asks for"),
    (700_082, "it was not used for too long"),
];
/// Of these, what passes by itself.
const PASSING: &[u64] = &[90_033];

/// How rustls begins what it says of a certificate.
const CERTIFICATE: &str = "invalid peer certificate";

/// What the user may make of it.
pub(super) fn of(description: &str, numbers: Option<&Value>) -> Option<&'static str> {
    let by_number = NUMBERS.iter().find(|(known, _)| has(numbers, |number| number == *known));
    let by_words = || WORDS.iter().find(|(part, _)| description.contains(part)).map(|(_, hint)| *hint);
    by_number.map(|(_, hint)| *hint).or_else(by_words)
}

/// Whether the provider says that it is its own trouble, whatever the code is.
pub(super) fn passes(numbers: Option<&Value>) -> bool {
    has(numbers, |number| PASSING.contains(&number))
}

/// What an answer looks like that is no JSON object, but where only the provider can do something about it.
pub(super) fn of_no_json(status: u16, body: &[u8]) -> Option<&'static str> {
    let is_page = body.trim_ascii_start().first() == Some(&b'<');
    match status {
        511 => Some("this network wants a login of its own first"),
        408 | 425 | 429 | 500..=599 => None,
        300..=399 => Some(
            "it leads elsewhere, as where a network wants a login of its own first, or the address has changed",
        ),
        _ if is_page => Some(
            "a web page came instead, as where a network wants a login of its own first, or the address is wrong",
        ),
        200..=299 => Some("it was cut off or changed on its way, or the address is wrong"),
        // Some providers refuse a client without a word.
        _ => None,
    }
}

/// What stands behind a certificate that is not trusted.
pub(super) fn of_no_connection(why: &str) -> Option<&'static str> {
    why.starts_with(CERTIFICATE).then_some(
        "as where a network wants a login of its own first, this machine's clock is wrong, or `ca_file` is missing",
    )
}

/// As it stands behind a sentence; nothing without one.
pub(super) fn in_brackets(hint: Option<&str>) -> String {
    hint.map(|hint| format!(" ({hint})")).unwrap_or_default()
}

fn has(numbers: Option<&Value>, wanted: impl Fn(u64) -> bool) -> bool {
    numbers.and_then(Value::as_array).is_some_and(|all| all.iter().filter_map(Value::as_u64).any(wanted))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// K13, L4, R22.
    #[test]
    fn known_words_and_numbers_have_a_hint_and_others_none() {
        for (description, numbers, part) in [
            ("Token is not active", json!(null), Some("in time")),
            ("Session not active", json!(null), Some("ended there")),
            ("Offline user session not found", json!(null), Some("ended there")),
            ("Maximum allowed refresh token reuse exceeded", json!(null), Some("stolen")),
            ("Unmatching clients", json!(null), Some("client_id")),
            ("AADSTS65001: The user has not consented", json!([65_001]), Some("consented")),
            ("AADSTS50173: whatever", json!([1, 50_173]), Some("password")),
            ("token is not active", json!(null), None),
            ("something else", json!([7, -1, "65001", 1e30]), None),
            ("", json!({"65001": 65_001}), None),
        ] {
            let hint = of(description, Some(&numbers));
            assert_eq!(hint.is_some(), part.is_some(), "{description}: {hint:?}");
            assert!(hint.unwrap_or_default().contains(part.unwrap_or_default()), "{description}: {hint:?}");
        }
        assert!(passes(Some(&json!([90_033]))) && !passes(Some(&json!([65_001]))) && !passes(None));
    }

    /// M1, O: what a person could do something about is said, and a busy gateway needs nobody.
    #[test]
    fn answers_that_are_no_json_and_connections_that_are_none_have_a_hint() {
        for (status, body, part) in [
            (200, "<!DOCTYPE html><title>Welcome</title>", Some("web page")),
            (200, "\n <html>", Some("login of its own")),
            (403, "<html>blocked</html>", Some("web page")),
            (404, "<html>", Some("address is wrong")),
            (511, "<html>", Some("this network")),
            (302, "", Some("leads elsewhere")),
            (200, "", Some("cut off")),
            (200, r#"{"access_token":"canary"#, Some("cut off")),
            (403, "", None),
            (502, "<html>", None),
            (503, "busy", None),
            (429, "", None),
        ] {
            let hint = of_no_json(status, body.as_bytes());
            assert_eq!(hint.is_some(), part.is_some(), "{status} {body}: {hint:?}");
            assert!(hint.unwrap_or_default().contains(part.unwrap_or_default()), "{status} {body}: {hint:?}");
        }
        for (why, hinted) in [
            ("invalid peer certificate: UnknownIssuer", true),
            ("invalid peer certificate: certificate expired: verification time 4 (UNIX), but …", true),
            ("Connection refused (os error 111)", false),
            ("received fatal alert: HandshakeFailure", false),
            ("", false),
        ] {
            assert_eq!(of_no_connection(why).is_some(), hinted, "{why}");
        }
        assert!(
            of_no_connection("invalid peer certificate: Expired").is_some_and(|hint| hint.contains("clock"))
        );
    }
}
