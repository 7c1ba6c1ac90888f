//! A token as other programs read it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};
use zeroize::Zeroizing;

use super::usable_as_bearer;
use crate::bus::proxy::{Properties, Token};
use crate::cli::broker::text;
use crate::cli::failure::Failure;
use crate::oidc::text::shell_word;

/// How a token is printed.
#[derive(Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Format {
    /// The token alone.
    #[default]
    Token,
    /// An object with the token, its expiry and its details.
    Json,
    /// An Authorization header.
    Header,
    /// BEARER_TOKEN=TOKEN, for eval or an environment file.
    Env,
    /// For curl --config -, so that the token is in no command line.
    Curl,
    /// The SASL response of XOAUTH2, for programs that log in to mail servers; see --user.
    Xoauth2,
    /// What kubectl's exec plugins answer.
    ExecCredential,
    /// Both headers of one request, METHOD URL, for an account with dpop = true; for curl --header @-.
    Dpop,
}

impl Format {
    /// The token in this format. `user` is whom a mail server knows; by default who is logged in.
    pub(in crate::cli) fn write(
        self,
        token: Token,
        user: Option<&str>,
        proof: Option<&str>,
    ) -> Result<Zeroizing<String>, Failure> {
        let (token, expires_at, details) = token;
        let token = Zeroizing::new(token);
        if !matches!(self, Self::Token | Self::Json | Self::Dpop) {
            usable_as_bearer(&details)?;
        }
        let scheme = text(&details, "token_type");
        Ok(Zeroizing::new(match self {
            Self::Token => return Ok(token),
            Self::Json => object(&token, expires_at, &details).to_string(),
            Self::Header => format!("Authorization: {scheme} {}", *token),
            Self::Env => format!("BEARER_TOKEN={}", shell_word(&token)),
            Self::Curl => format!("header = \"Authorization: {scheme} {}\"", curl_word(&token)),
            Self::Xoauth2 => {
                let user = user.unwrap_or_else(|| text(&details, "subject"));
                if user.is_empty() || user.contains(char::is_control) {
                    return Err(Failure::usage(
                        "xoauth2 needs to know the user of the mail server; add --user me@example.com",
                    ));
                }
                let response = format!("user={user}\x01auth=Bearer {}\x01\x01", *token);
                STANDARD.encode(Zeroizing::new(response).as_bytes())
            }
            Self::Dpop => match proof {
                Some(proof) => format!("Authorization: {scheme} {}\nDPoP: {proof}", *token),
                None => {
                    return Err(Failure::usage("--format dpop is for one request; add its METHOD and URL"));
                }
            },
            Self::ExecCredential => {
                exec_credential(&token, expires_at, std::env::var("KUBERNETES_EXEC_INFO").ok().as_deref())?
            }
        }))
    }
}

fn object(token: &str, expires_at: u64, details: &Properties) -> Json {
    json!({
        "access_token": token,
        "token_type": text(details, "token_type"),
        "expires_at": expires_at,
        "expires_in": details.get("expires_in").and_then(|value| value.downcast_ref::<u32>().ok()),
        "scope": text(details, "scope"),
        "account": text(details, "account"),
        "source": text(details, "source"),
        "subject": text(details, "subject"),
        "token_id": text(details, "token_id"),
    })
}

/// `client.authentication.k8s.io`, in the version that the caller speaks.
fn exec_credential(token: &str, expires_at: u64, asked: Option<&str>) -> Result<String, Failure> {
    const VERSIONS: [&str; 3] = [
        "client.authentication.k8s.io/v1",
        "client.authentication.k8s.io/v1beta1",
        "client.authentication.k8s.io/v1alpha1",
    ];
    let asked = asked.and_then(|text| serde_json::from_str::<Json>(text).ok());
    let version = match asked.as_ref().and_then(|asked| asked.get("apiVersion")?.as_str()) {
        None => VERSIONS[0],
        Some(asked) => VERSIONS.into_iter().find(|known| *known == asked).ok_or_else(|| {
            Failure::usage(format!(
                "kubectl asks for a version that is not known here; set apiVersion: {} in the exec section of its \
                 configuration",
                VERSIONS[0]
            ))
        })?,
    };
    let mut status = json!({ "token": token });
    let seconds = i64::try_from(expires_at).ok().filter(|seconds| *seconds > 0);
    if let Some(end) = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()) {
        status["expirationTimestamp"] = Json::from(end.to_string());
    }
    Ok(json!({ "apiVersion": version, "kind": "ExecCredential", "status": status }).to_string())
}

/// A token between the quotes of curl's configuration.
fn curl_word(token: &str) -> String {
    token.replace('\\', r"\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use zbus::zvariant::{OwnedValue, Value};

    use super::*;

    fn token(text: &str) -> Token {
        token_of_type("Bearer", text)
    }

    fn token_of_type(token_type: &str, text: &str) -> Token {
        let value = |text: &str| OwnedValue::try_from(Value::from(text)).unwrap();
        let details = Properties::from([
            ("token_type".to_owned(), value(token_type)),
            ("subject".to_owned(), value("robin")),
        ]);
        (text.to_owned(), 1_790_000_000, details)
    }

    fn written(format: Format, text: &str, user: Option<&str>) -> String {
        format.write(token(text), user, None).ok().unwrap().to_string()
    }

    #[test]
    fn tokens_are_quoted_where_they_must_be() {
        assert_eq!(written(Format::Env, "eyJh.b-c_d", None), "BEARER_TOKEN=eyJh.b-c_d");
        assert_eq!(written(Format::Env, "a$b'c", None), r"BEARER_TOKEN='a$b'\''c'");
        assert_eq!(written(Format::Curl, r#"a"b\c"#, None), r#"header = "Authorization: Bearer a\"b\\c""#);
    }

    #[test]
    fn a_mail_server_is_told_the_user_and_the_token() {
        let decoded = |text: String| String::from_utf8(STANDARD.decode(text).unwrap()).unwrap();

        let named = decoded(written(Format::Xoauth2, "abc", Some("me@example.com")));
        let by_default = decoded(written(Format::Xoauth2, "abc", None));

        assert_eq!(named, "user=me@example.com\x01auth=Bearer abc\x01\x01");
        assert_eq!(by_default, "user=robin\x01auth=Bearer abc\x01\x01");
        for bad in ["", "a\x01auth=Bearer other"] {
            assert!(Format::Xoauth2.write(token("abc"), Some(bad), None).is_err(), "{bad:?}");
        }
    }

    /// J5.
    #[test]
    fn a_token_that_is_bound_to_a_key_is_not_passed_off_as_one_of_its_bearer() {
        let write = |format: Format| format.write(token_of_type("DPoP", "abc"), Some("me"), Some("proof"));
        for format in [Format::Header, Format::Env, Format::Curl, Format::Xoauth2, Format::ExecCredential] {
            let failure = write(format).err().unwrap();
            assert!(failure.to_string().ends_with("--format dpop METHOD URL"), "{failure}");
            assert_eq!(failure.exit_code(), 2);
        }
        for format in [Format::Token, Format::Json, Format::Dpop] {
            assert!(write(format).is_ok());
        }
    }

    #[test]
    fn kubectl_gets_the_version_that_it_asks_for_and_the_expiry() {
        let answer = |asked| -> Json {
            serde_json::from_str(&exec_credential("abc", 1_790_000_000, asked).ok().unwrap()).unwrap()
        };

        let plain = answer(None);
        let old = answer(Some(r#"{"apiVersion":"client.authentication.k8s.io/v1beta1","spec":{}}"#));

        assert_eq!(plain["apiVersion"], "client.authentication.k8s.io/v1");
        assert_eq!(plain["status"]["expirationTimestamp"], "2026-09-21T14:13:20Z");
        assert_eq!(old["apiVersion"], "client.authentication.k8s.io/v1beta1");
        assert_eq!(old["status"]["token"], "abc");
        assert!(
            exec_credential("abc", 0, Some(r#"{"apiVersion":"client.authentication.k8s.io/v9"}"#)).is_err()
        );
        assert!(!exec_credential("abc", 0, None).ok().unwrap().contains("expirationTimestamp"));
    }
}
