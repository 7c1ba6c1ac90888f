//! Good files, and the exact complaint about each bad one.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use proptest::prelude::*;

use super::*;

struct Files(tempfile::TempDir);

impl Files {
    fn with(text: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("config.toml", text, 0o600);
        files
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn dirs(&self) -> ConfigDirs {
        ConfigDirs {
            state: "/nonexistent".into(),
            runtime: None,
            user: self.0.path().to_owned(),
            vendor: self.0.path().join("vendor"),
            credentials: Some("/run/credentials/bearerd".into()),
            home: Some("/home/ayu".into()),
        }
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.dirs())
    }

    /// The complaint, with the folder's name taken out.
    fn complaint(&self) -> String {
        let error = self.load().err().map(|error| error.to_string()).unwrap_or_default();
        error.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn oauth(config: &Config, name: &str) -> OAuthConfig {
    match &config.accounts[name].source {
        Source::OAuth(oauth) => oauth.as_ref().clone(),
        Source::Personal => panic!("{name} is personal"),
    }
}

fn explicit(oauth: &OAuthConfig) -> ExplicitEndpoints {
    match &oauth.endpoints {
        Endpoints::Explicit(explicit) => explicit.as_ref().clone(),
        Endpoints::Discovered(_) => panic!("they are discovered"),
    }
}

const CHASTER: &str = r#"
default_account = "chaster"

[accounts.chaster]
provider = "chaster"
client_id = "my-app"
scopes = ["profile", "locks"]
redirect_uri = "http://127.0.0.1:8765/callback"

[accounts.chaster-dev]
provider = "chaster"
source = "personal"
"#;

#[test]
fn the_first_provider_is_three_lines() {
    let config = Files::with(CHASTER).load().unwrap();
    assert_eq!(config.default_account.as_ref().map(AccountName::as_str), Some("chaster"));

    let chaster = oauth(&config, "chaster");
    let realm = "https://sso.chaster.app/auth/realms/app";
    assert_eq!(explicit(&chaster).authorization.as_str(), format!("{realm}/protocol/openid-connect/auth"));
    assert_eq!(explicit(&chaster).token.as_str(), format!("{realm}/protocol/openid-connect/token"));
    let logout = Url::parse(&format!("{realm}/protocol/openid-connect/logout")).unwrap();
    assert_eq!(explicit(&chaster).logout, LogoutEndpoint::Keycloak(logout));
    assert_eq!(chaster.client_auth, Some(ClientAuth::Post));
    assert_eq!(chaster.issuer.as_deref(), Some(realm));
    assert_eq!(chaster.profile.as_ref().map(|profile| profile.name.as_str()), Some("/username"));
    assert!(matches!(&chaster.redirect, RedirectUri::Loopback(loopback) if loopback.port == Some(8765)));
    assert!(chaster.pkce && chaster.client_secret == SecretSource::Store);
    assert_eq!(config.accounts["chaster"].issuer, realm);
    assert!(matches!(config.accounts["chaster-dev"].source, Source::Personal));
}

/// Keycloak names itself as browsers see it (`hostname-backchannel-dynamic`).
#[test]
fn keycloaks_issuer_follows_from_where_the_browser_goes() {
    let files = Files::with(
        r#"
        [accounts.x]
        client_id = "a"
        client_auth = "none"
        authorization_endpoint = "https://id.example/realms/r/protocol/openid-connect/auth"
        token_endpoint = "https://inner.example/realms/r/protocol/openid-connect/token"
        "#,
    );
    let config = files.load().unwrap();
    assert_eq!(config.accounts["x"].issuer, "https://id.example/realms/r");
    let logout = Url::parse("https://inner.example/realms/r/protocol/openid-connect/logout").unwrap();
    assert_eq!(explicit(&oauth(&config, "x")).logout, LogoutEndpoint::Keycloak(logout));
}

/// E5: as git names a server, whatever was typed.
#[test]
fn api_origins_are_origins_and_a_personal_account_has_them_too() {
    let files = Files::with(
        "[accounts.x]\nsource = \"personal\"\napi_origins = [\"https://Git.example:443/\", \"http://127.0.0.1:8080\"]\n\
         [accounts.y]\nprovider = \"chaster\"\nclient_id = \"a\"\n",
    );
    let config = files.load().unwrap();
    assert_eq!(config.accounts["x"].api_origins, ["https://git.example", "http://127.0.0.1:8080"]);
    assert_eq!(config.accounts["y"].api_origins, ["https://api.chaster.app"]);
}

#[test]
fn explicit_endpoints_need_no_discovery() {
    let files = Files::with(
        r#"
        [accounts.x]
        client_id = "a"
        authorization_endpoint = "http://127.0.0.1:8080/authorize?tenant=1"
        token_endpoint = "http://127.0.0.1:8080/token"
        end_session_endpoint = "http://127.0.0.1:8080/end"
        client_auth = "none"
        extra_params = { prompt = "consent" }
        keep_alive = "when-used"
        min_validity = 1_0
        pkce = false
        store = "memory"
        "#,
    );
    let x = oauth(&files.load().unwrap(), "x");
    assert_eq!(x.redirect, RedirectUri::default());
    assert_eq!((x.keep_alive, x.store, x.pkce), (KeepAlive::WhenUsed, StoreKind::Memory, false));
    assert_eq!(x.min_validity, Some(Duration::from_secs(10)));
    assert!(matches!(explicit(&x).logout, LogoutEndpoint::Keycloak(url) if url.path() == "/end"));
    assert_eq!(x.issuer, None);
    files.write(
        "config.toml",
        r#"
        [accounts.x]
        client_id = "a"
        authorization_endpoint = "http://127.0.0.1:8080/authorize"
        token_endpoint = "http://127.0.0.1:8080/token"
        end_session_endpoint = "http://127.0.0.1:8080/end"
        revocation_endpoint = "http://127.0.0.1:8080/revoke"
        "#,
        0o600,
    );
    let x = oauth(&files.load().unwrap(), "x");
    assert!(matches!(explicit(&x).logout, LogoutEndpoint::Revocation(_)));
}

#[test]
fn each_complaint_names_file_line_key_and_remedy() {
    let account = |line: &str| format!("[accounts.a]\nprovider = \"chaster\"\nclient_id = \"x\"\n{line}\n");
    for (text, complaint) in [
        (
            "default_acount = \"a\"".to_owned(),
            "config.toml:1: unknown key `default_acount`; did you mean `default_account`?",
        ),
        ("pause_on_lock = 1".to_owned(), "config.toml:1: `pause_on_lock` must be true or false"),
        ("[accounts.a".to_owned(), "config.toml:1: "),
        ("\n\n[accounts.\"a b\"]".to_owned(), "config.toml:3: bad account name: an account name is 1 to 64"),
        (
            "default_account = \"b\"".to_owned(),
            "config.toml:1: `default_account` names no configured account",
        ),
        (account("clientid = \"y\""), "config.toml:4: unknown key `clientid`; did you mean `client_id`?"),
        (account("rules = 5"), "config.toml:4: `rules` must be a list of tables"),
        (account("rules = [{ caller = \"host\" }]"), "config.toml:4: `rules` needs `access`"),
        (
            account("[[accounts.a.rules]]\ncaller = \"flatpack:x\"\naccess = \"deny\""),
            "config.toml:5: `caller` is no kind of caller; did you mean `flatpak:`?",
        ),
        (
            account("[[accounts.a.rules]]\ncaller = \"exe:curl\"\naccess = \"deny\""),
            "config.toml:5: `caller` needs the program's whole path",
        ),
        (
            account("[[accounts.a.rules]]\ncaller = \"host\"\naccess = \"denied\""),
            "config.toml:6: `access` must be \"allow\" or \"ask\" or \"deny\"",
        ),
        (
            account("rules = [{ caller = \"host\", access = \"deny\", scope = \"read\" }]"),
            "config.toml:4: `scope` has no use where access is denied",
        ),
        (
            account("rules = [{ caller = \"host\", access = \"allow\", audience = \"x\" }]"),
            "config.toml:4: `audience` needs the account's `audience_by`, or use `resource`",
        ),
        (
            account("rules = [{ caller = \"host\", access = \"allow\", scope = \"\" }]"),
            "config.toml:4: `rules` holds what cannot be asked for: `scope` must be one or more scopes",
        ),
        (
            "[accounts.a]\nsource = \"personal\"\nrules = [{ caller = \"*\", access = \"ask\", scope = \"x\" }]"
                .to_owned(),
            "config.toml:3: `scope` has no use: a personal token cannot be narrowed",
        ),
        (
            account("rules = [{ callr = \"host\", access = \"deny\" }]"),
            "config.toml:4: unknown key `callr`; did you mean `caller`?",
        ),
        (account("dpop = 1"), "config.toml:4: `dpop` must be true or false"),
        (account("scopes = \"profile\""), "config.toml:4: `scopes` must be a list of strings"),
        (
            account("scopes = [\"a b\"]"),
            "config.toml:4: `scopes` must hold one scope per string, without spaces or quotes",
        ),
        (
            account("iss = \"maybe\""),
            "config.toml:4: `iss` must be \"required\" or \"if-present\" or \"ignore\"",
        ),
        (
            account("api_origins = [\"https://api.example/v1\"]"),
            "config.toml:4: `api_origins` must hold addresses without a path",
        ),
        (
            account("api_origins = [\"http://api.example\"]"),
            "config.toml:4: `api_origins` must hold addresses without a path",
        ),
        (
            account("on_change = [\"notify-send\"]"),
            "config.toml:4: `on_change` must be a program's absolute path",
        ),
        (account("pkce = 1"), "config.toml:4: `pkce` must be true or false"),
        (
            account("min_validity = -1"),
            "config.toml:4: `min_validity` must be a whole number from 0 to 86400",
        ),
        (
            account("token_endpoint = \"http://id.example/token\""),
            "config.toml:4: `token_endpoint` must start with https:// (http:// only for 127.0.0.1 or [::1])",
        ),
        (
            account("token_endpoint = \"http://localhost/token\""),
            "config.toml:4: `token_endpoint` must start with https://",
        ),
        (
            account("token_endpoint = \"https://u:p@id.example/\""),
            "config.toml:4: `token_endpoint` must have no user, password or #fragment",
        ),
        (
            account("profile_url = \"nowhere\""),
            "config.toml:4: `profile_url` is no URL: relative URL without a base",
        ),
        (
            account("redirect_uri = \"http://example.org/cb\""),
            "config.toml:4: `redirect_uri` must be on this machine",
        ),
        (
            account("redirect_uri = \"http://[::1]:9000/cb\""),
            "config.toml:4: `redirect_uri` must be on 127.0.0.1: providers accept any port there",
        ),
        (
            account("redirect_uri = \"http://127.0.0.1:99/cb\""),
            "config.toml:4: `redirect_uri` must have a port from 1024 to 65535, or none",
        ),
        (
            account("redirect_uri = \"https://127.0.0.1:9000/cb\""),
            "config.toml:4: `redirect_uri` must start with http://",
        ),
        (
            account("extra_params = { state = \"x\" }"),
            "config.toml:4: `state` is a parameter that bearerd sets itself; remove it",
        ),
        (
            account("client_secret_file = \"secret\""),
            "config.toml:4: `client_secret_file` must be an absolute path",
        ),
        (
            account("client_auth = \"private_key_jwt\""),
            "config.toml:1: `a` needs `client_key_file`, the key to sign with",
        ),
        (
            account("client_key_file = \"/k.pem\""),
            "config.toml:4: `client_key_file` needs client_auth = \"private_key_jwt\"",
        ),
        (
            account("client_key_id = \"k1\""),
            "config.toml:4: `client_key_id` needs client_auth = \"private_key_jwt\"",
        ),
        (
            account("client_auth = \"private_key_jwt\"\nclient_key_file = \"/nonexistent/k.pem\""),
            "config.toml:5: `client_key_file` /nonexistent/k.pem cannot be read: No such file",
        ),
        (
            account("client_auth = \"private_key_jwt\"\nclient_key_file = \"/dev/null\""),
            "config.toml:5: `client_key_file` /dev/null can be read by others; run: chmod 600 /dev/null",
        ),
        (
            account("client_auth = \"private_key_jwt\"\nclient_secret_file = \"/s\""),
            "config.toml:5: `client_secret_file` has no use with client_auth = \"private_key_jwt\"",
        ),
        (account("ca_file = \"/nonexistent/ca.pem\""), "config.toml:4: `ca_file` cannot be read"),
        (
            account("profile_name = \"username\""),
            "config.toml:4: `profile_name` must be a JSON pointer such as \"/username\"",
        ),
        (
            "[accounts.a]\nprovider = \"chastr\"".to_owned(),
            "config.toml:2: `provider` names no preset; known: auth0, chaster, discord, github, github-app, gitlab, google, keycloak, microsoft, okta, spotify; did you mean \"chaster\"?",
        ),
        (
            "[accounts.a]\nprovider = \"chaster\"".to_owned(),
            "config.toml:1: `a` needs `client_id`, as registered at the provider",
        ),
        (
            "[accounts.a]\nclient_id = \"x\"".to_owned(),
            "config.toml:1: `a` needs `issuer`, or `authorization_endpoint` and `token_endpoint`, or a `provider`",
        ),
        (
            "[accounts.a]\nprovider = \"chaster\"\nsource = \"personal\"\nscopes = []".to_owned(),
            "config.toml:4: `scopes` has no meaning with source = \"personal\"; remove it",
        ),
    ] {
        let files = Files::with(&text);
        let got = files.complaint();
        assert!(got.starts_with(complaint), "{text}\n got: {got}\nwant: {complaint}");
    }
}

/// R17: a secret in a file that others can read is refused, and never repeated.
#[test]
fn an_inline_secret_is_accepted_with_a_warning_in_a_private_file_only() {
    let text = "[accounts.a]\nprovider = \"chaster\"\nclient_id = \"x\"\nclient_secret = \"canary-inline\"\n";
    let files = Files::with(text);
    let config = files.load().unwrap();
    assert!(matches!(oauth(&config, "a").client_secret, SecretSource::Inline(_)));
    assert!(
        config.warnings[0].contains("config.toml:4: `client_secret` is in plain text"),
        "{:?}",
        config.warnings
    );

    files.write("config.toml", text, 0o644);
    let complaint = files.complaint();
    assert!(complaint.contains("chmod 600") && complaint.contains("bearerctl set-secret"), "{complaint}");
    assert!(!complaint.contains("canary"));
}

#[test]
fn secret_files_may_be_credentials_or_below_home() {
    for (given, expected) in [
        ("$CREDENTIALS_DIRECTORY/chaster", "/run/credentials/bearerd/chaster"),
        ("~/secret", "/home/ayu/secret"),
        ("/etc/secret", "/etc/secret"),
    ] {
        let files = Files::with(&format!(
            "[accounts.a]\nprovider = \"chaster\"\nclient_id = \"x\"\nclient_secret_file = \"{given}\"\n"
        ));
        let config = files.load().unwrap();
        assert!(
            matches!(oauth(&config, "a").client_secret, SecretSource::File(path) if path == Path::new(expected))
        );
    }
}

/// L: each built-in preset is read with no more than an issuer, and says where it is from and whether it was tried.
#[test]
fn every_preset_is_complete_and_names_its_source() {
    for (name, text) in load::PRESETS {
        let issuer = if text.contains("_endpoint = ") || text.contains("\nissuer = ") {
            ""
        } else {
            let complaint =
                Files::with(&format!("[accounts.a]\nprovider = \"{name}\"\nclient_id = \"x\"\n")).complaint();
            assert!(complaint.contains("needs `issuer`, the address of your server"), "{name}: {complaint}");
            "issuer = \"https://id.example.org/\"\n"
        };
        let files = Files::with(&format!("[accounts.a]\nprovider = \"{name}\"\nclient_id = \"x\"\n{issuer}"));
        let config = files.load().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(config.accounts["a"].provider, *name);
        let comment = text.replace("\n# ", " ");
        assert!(comment.contains(" Source: ") && comment.contains("tried against"), "{name}");
    }
}

/// A13, L1: an account adds parameters to its preset's, and wins where both have one.
#[test]
fn an_accounts_extra_parameters_are_added_to_its_presets() {
    let files = Files::with(
        "[accounts.a]\nprovider = \"google\"\nclient_id = \"x\"\n\
         extra_params = { hd = \"example.org\", prompt = \"select_account consent\" }\n",
    );
    let parameters = oauth(&files.load().unwrap(), "a").extra_params;
    let parameters: Vec<(&str, &str)> = parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        parameters,
        [("access_type", "offline"), ("hd", "example.org"), ("prompt", "select_account consent")]
    );
}

#[test]
fn a_user_preset_replaces_the_vendors_which_replaces_the_built_in_one() {
    let files = Files::with("[accounts.a]\nprovider = \"chaster\"\nclient_id = \"x\"\n");
    let preset = |host: &str| {
        format!("authorization_endpoint = \"https://{host}/a\"\ntoken_endpoint = \"https://{host}/t\"\n")
    };
    let host =
        |files: &Files| explicit(&oauth(&files.load().unwrap(), "a")).token.host_str().map(str::to_owned);
    assert_eq!(host(&files).as_deref(), Some("sso.chaster.app"));
    files.write("vendor/providers.d/chaster.toml", &preset("vendor.example"), 0o644);
    assert_eq!(host(&files).as_deref(), Some("vendor.example"));
    files.write("providers.d/chaster.toml", &preset("user.example"), 0o644);
    assert_eq!(host(&files).as_deref(), Some("user.example"));

    files.write("providers.d/chaster.toml", "client_secret = \"x\"", 0o644);
    assert!(files.complaint().starts_with("providers.d/chaster.toml:1: unknown key `client_secret`"));
}

#[test]
fn accounts_come_from_their_folder_too_and_only_once() {
    let files = Files::with("[accounts.a]\nprovider = \"chaster\"\nclient_id = \"x\"\n");
    files.write("accounts.d/b.toml", "[accounts.b]\nprovider = \"chaster\"\nclient_id = \"y\"\n", 0o644);
    assert_eq!(files.load().unwrap().accounts.len(), 2);

    files.write("accounts.d/c.toml", "\n[accounts.a]\nprovider = \"chaster\"\nclient_id = \"z\"\n", 0o644);
    let complaint = files.complaint();
    assert!(
        complaint.starts_with("accounts.d/c.toml:2: account \"a\" is defined already at config.toml:1"),
        "{complaint}"
    );
}

#[test]
fn the_empty_name_is_the_default_or_the_only_account() {
    let name = |config: &Config, name: &str| match config.account(name) {
        Ok(account) => account.name.to_string(),
        Err(error) => error.to_string(),
    };
    let both = Files::with(CHASTER).load().unwrap();
    assert_eq!(name(&both, ""), "chaster");
    assert_eq!(name(&both, "chaster-dev"), "chaster-dev");
    assert_eq!(
        name(&both, "chastr"),
        "no account \"chastr\"; did you mean \"chaster\"?; run: bearerctl status"
    );

    let undecided = Files::with(&CHASTER.replace("default_account = \"chaster\"", "")).load().unwrap();
    assert!(name(&undecided, "").starts_with("no account was named, and there are several"));
    let none = Files::with("").load().unwrap();
    assert!(name(&none, "").starts_with("no account is configured; write one into "));
}

#[test]
fn without_a_file_there_is_a_warning_and_no_error() {
    let files = Files(tempfile::tempdir().unwrap());
    let config = files.load().unwrap();
    assert!(config.accounts.is_empty() && config.warnings[0].contains("does not exist"));
}

#[test]
fn unchanged_accounts_compare_equal() {
    let (one, two) = (Files::with(CHASTER).load().unwrap(), Files::with(CHASTER).load().unwrap());
    assert!(one.accounts["chaster"] == two.accounts["chaster"]);
    let other = Files::with(&CHASTER.replace("\"locks\"", "\"keyholder\"")).load().unwrap();
    assert!(one.accounts["chaster"] != other.accounts["chaster"]);
    assert!(one.accounts["chaster-dev"] == other.accounts["chaster-dev"]);
}

/// Each key has its row in the reference.
#[test]
fn every_key_is_in_the_reference() {
    let reference = include_str!("../../docs/configuration.md");
    for key in account::account_keys() {
        assert!(reference.contains(&format!("`{key}`")), "{key} is not in docs/configuration.md");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_or_repeats_a_secret(
        before in "[ -~\n]{0,80}", secret in "canary[a-z]{12}", after in "[ -~\n]{0,40}",
    ) {
        let files = Files::with(&format!("{before}\n[accounts.a]\nclient_secret = \"{secret}\"{after}\n"));
        if let Err(error) = files.load() {
            prop_assert!(!error.to_string().contains(&secret), "{error}");
        }
    }
}
