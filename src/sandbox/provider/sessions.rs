//! Codes, sessions and tokens: what the provider decides, without any HTTP.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Seen, Settings};
use crate::clock::{BootTime, Now};
use crate::secret::random_token;

/// An authorization request that waits for the user, or a code that waits for its exchange.
#[derive(Clone, Default)]
pub(super) struct Authorization {
    pub(super) redirect_uri: String,
    pub(super) state: String,
    pub(super) scope: String,
    /// Empty: the client sent none.
    pub(super) code_challenge: String,
    pub(super) nonce: String,
    pub(super) user: String,
    /// The browser comes back with a form instead of a redirect.
    pub(super) form_post: bool,
    /// The device code that waits for the answer; empty in the code flow.
    pub(super) device_code: String,
    pub(super) max_age: bool,
    /// The thumbprint of the key that tokens are bound to; empty: none.
    pub(super) key: String,
}

#[derive(Default)]
pub(super) struct Sessions {
    pending: HashMap<String, Authorization>,
    codes: HashMap<String, Authorization>,
    /// Codes that were exchanged, and the session that came of it.
    used_codes: HashMap<String, String>,
    /// Authorization requests that were pushed, by their reference.
    pushed: HashMap<String, Seen>,
    devices: HashMap<String, Device>,
    live: HashMap<String, Session>,
    access_tokens: HashMap<String, AccessToken>,
}

struct AccessToken {
    session: String,
    ends: BootTime,
    scope: String,
    /// The API that it is for; empty: any.
    api: String,
}

/// What a refresh asks for less of; empty: all of it.
#[derive(Default)]
pub(super) struct Narrow<'a> {
    pub(super) scope: &'a str,
    pub(super) api: &'a str,
}

/// A login on another device.
struct Device {
    user_code: String,
    authorization: Authorization,
    ends: BootTime,
    interval: Duration,
    polled: BootTime,
    /// `None` until the user has answered.
    answer: Option<bool>,
}

struct Session {
    login: Authorization,
    scope: String,
    refresh_token: String,
    ends: BootTime,
}

/// `error` and `error_description`.
pub(super) type Refusal = (&'static str, &'static str);

const NO_RANDOMNESS: Refusal = ("server_error", "no randomness");

impl Sessions {
    /// Remembers a request until the user has answered; returns its name.
    pub(super) fn ask(&mut self, authorization: Authorization) -> Result<String, Refusal> {
        let id = random_token().map_err(|_| NO_RANDOMNESS)?;
        self.pending.insert(id.clone(), authorization);
        Ok(id)
    }

    /// The user's answer; a pending request is answered once.
    pub(super) fn answered(&mut self, pending: &str) -> Option<Authorization> {
        self.pending.remove(pending)
    }

    /// RFC 9126 section 2.2.
    pub(super) fn push(&mut self, request: Seen) -> Result<String, Refusal> {
        let reference =
            format!("urn:ietf:params:oauth:request_uri:{}", random_token().map_err(|_| NO_RANDOMNESS)?);
        self.pushed.insert(reference.clone(), request);
        Ok(reference)
    }

    /// The pushed request, once.
    pub(super) fn take_pushed(&mut self, reference: &str) -> Option<Seen> {
        self.pushed.remove(reference)
    }

    /// RFC 8628 section 3.2: the device code and the user code.
    pub(super) fn ask_device(
        &mut self,
        authorization: Authorization,
        settings: &Settings,
        now: &Now,
    ) -> Result<(String, String), Refusal> {
        let device_code = format!("canary-dc-{}", random_token().map_err(|_| NO_RANDOMNESS)?);
        let random = random_token().map_err(|_| NO_RANDOMNESS)?.to_uppercase().replace(['-', '_'], "X");
        let user_code = format!("{}-{}", random.get(..4).unwrap_or("X"), random.get(4..8).unwrap_or("X"));
        let device = Device {
            user_code: user_code.clone(),
            authorization: Authorization { device_code: device_code.clone(), ..authorization },
            ends: now.boot.after(settings.device_lifetime),
            interval: Duration::from_secs(settings.device_interval),
            polled: now.boot,
            answer: None,
        };
        self.devices.insert(device_code.clone(), device);
        Ok((device_code, user_code))
    }

    /// What a user code is about.
    pub(super) fn by_user_code(&self, user_code: &str) -> Option<Authorization> {
        let mut devices = self.devices.values();
        devices.find(|device| device.user_code == user_code).map(|device| device.authorization.clone())
    }

    pub(super) fn answer_device(&mut self, device_code: &str, granted: bool) {
        if let Some(device) = self.devices.get_mut(device_code) {
            device.answer = Some(granted);
        }
    }

    /// RFC 8628 sections 3.4 and 3.5.
    pub(super) fn poll_device(
        &mut self,
        device_code: &str,
        proofs: (&str, &str),
        settings: &Settings,
        now: &Now,
    ) -> Result<Map<String, Value>, Refusal> {
        const UNKNOWN: Refusal = ("invalid_grant", "Device code not valid");
        let device = self.devices.get_mut(device_code).ok_or(UNKNOWN)?;
        if device.ends <= now.boot {
            self.devices.remove(device_code);
            return Err(("expired_token", "Device code is expired"));
        }
        let early = now.boot.since(device.polled) < device.interval;
        device.polled = now.boot;
        match device.answer {
            _ if early => return Err(("slow_down", "Slow down")),
            None => return Err(("authorization_pending", "The authorization request is still pending")),
            Some(false) => return Err(("access_denied", "The end user denied the authorization request")),
            Some(true) => {}
        }
        let device = self.devices.remove(device_code).ok_or(UNKNOWN)?;
        self.begin(device.authorization, proofs, settings, now).map(|(_, answer)| answer)
    }

    /// A session for what the user has granted, to whoever has the verifier (RFC 7636 section 4.6), and the key
    /// that was named ahead (RFC 9449 section 10).
    fn begin(
        &mut self,
        mut authorization: Authorization,
        (verifier, key): (&str, &str),
        settings: &Settings,
        now: &Now,
    ) -> Result<(String, Map<String, Value>), Refusal> {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
        if !authorization.code_challenge.is_empty() && authorization.code_challenge != challenge {
            return Err(("invalid_grant", "PKCE verification failed"));
        }
        if !authorization.key.is_empty() && authorization.key != key {
            return Err(("invalid_grant", "DPoP proof key is not the one named ahead"));
        }
        key.clone_into(&mut authorization.key);
        let id = random_token().map_err(|_| NO_RANDOMNESS)?;
        let scope = settings.granted_scope.clone().unwrap_or_else(|| authorization.scope.clone());
        let session = Session { login: authorization, scope, refresh_token: String::new(), ends: now.boot };
        self.live.insert(id.clone(), session);
        let answer = self.issue(&id, &Narrow::default(), settings, now)?;
        Ok((id, answer))
    }

    /// A code for what the user has granted.
    pub(super) fn code_for(&mut self, authorization: Authorization) -> Result<String, Refusal> {
        let code = format!("canary-code-{}", random_token().map_err(|_| NO_RANDOMNESS)?);
        self.codes.insert(code.clone(), authorization);
        Ok(code)
    }

    /// RFC 6749 section 4.1.3. A code that comes twice ends the session of its first exchange, as on Keycloak.
    pub(super) fn exchange(
        &mut self,
        code: &str,
        redirect_uri: &str,
        proofs: (&str, &str),
        settings: &Settings,
        now: &Now,
    ) -> Result<Map<String, Value>, Refusal> {
        if let Some(session) = self.used_codes.get(code) {
            self.live.remove(session);
            return Err(("invalid_grant", "Code not valid"));
        }
        let Some(authorization) = self.codes.remove(code) else {
            return Err(("invalid_grant", "Code not valid"));
        };
        if authorization.redirect_uri != redirect_uri {
            return Err(("invalid_grant", "Incorrect redirect_uri"));
        }
        let (id, answer) = self.begin(authorization, proofs, settings, now)?;
        self.used_codes.insert(code.to_owned(), id);
        Ok(answer)
    }

    /// RFC 6749 section 6, RFC 8707 section 2.2. What cannot be had spends nothing; a spent refresh token ends its session, as on Keycloak with reuse 0.
    pub(super) fn refresh(
        &mut self,
        refresh_token: &str,
        narrow: &Narrow<'_>,
        key: &str,
        settings: &Settings,
        now: &Now,
    ) -> Result<Map<String, Value>, Refusal> {
        // canary-rt-SESSION.RANDOM
        let id = refresh_token.strip_prefix("canary-rt-").and_then(|rest| rest.split_once('.'));
        let Some((id, _)) = id else { return Err(("invalid_grant", "Invalid refresh token")) };
        let Some(session) = self.live.get(id) else {
            return Err(("invalid_grant", "Session not active"));
        };
        if session.ends <= now.boot {
            self.live.remove(id);
            return Err(("invalid_grant", "Token is not active"));
        }
        if session.refresh_token != refresh_token {
            self.live.remove(id);
            return Err(("invalid_grant", "Maximum allowed refresh token reuse exceeded"));
        }
        if session.login.key != key {
            return Err(("invalid_grant", "Refresh token is bound to another key"));
        }
        let granted = |scope: &str| session.scope.split(' ').any(|one| one == scope);
        if !narrow.scope.split(' ').all(|scope| scope.is_empty() || granted(scope)) {
            return Err(("invalid_scope", "Invalid scopes"));
        }
        if !narrow.api.is_empty() && !settings.apis.iter().any(|api| api == narrow.api) {
            return Err(("invalid_target", "Unknown resource"));
        }
        self.issue(id, narrow, settings, now)
    }

    /// RFC 8693: an access token for one API, in exchange for the session's own.
    pub(super) fn exchange_token(
        &mut self,
        subject: &str,
        narrow: &Narrow<'_>,
        key: &str,
        settings: &Settings,
        now: &Now,
    ) -> Result<Map<String, Value>, Refusal> {
        let own =
            self.access_tokens.get(subject).filter(|token| token.ends > now.boot && token.api.is_empty());
        let id = own.map(|token| token.session.clone()).ok_or(("invalid_request", "Invalid token"))?;
        let session = self.live.get(&id).ok_or(("invalid_request", "Invalid token"))?;
        if session.login.key != key {
            return Err(("invalid_grant", "Token is bound to another key"));
        }
        if !settings.apis.iter().any(|api| api == narrow.api) {
            return Err(("invalid_target", "Unknown audience"));
        }
        let access_token = format!("canary-at-{}", random_token().map_err(|_| NO_RANDOMNESS)?);
        let scope = if narrow.scope.is_empty() { session.scope.clone() } else { narrow.scope.to_owned() };
        let ends = now.boot.after(settings.access_lifetime);
        let issued = AccessToken { session: id, ends, scope: scope.clone(), api: narrow.api.to_owned() };
        self.access_tokens.insert(access_token.clone(), issued);
        let answer = json!({
            "access_token": access_token,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "expires_in": settings.access_lifetime.as_secs(),
            "token_type": if key.is_empty() { "Bearer" } else { "DPoP" },
            "scope": scope,
        });
        Ok(answer.as_object().cloned().unwrap_or_default())
    }

    fn issue(
        &mut self,
        id: &str,
        narrow: &Narrow<'_>,
        settings: &Settings,
        now: &Now,
    ) -> Result<Map<String, Value>, Refusal> {
        let Some(session) = self.live.get_mut(id) else {
            return Err(("invalid_grant", "Session not active"));
        };
        let access_token = format!("canary-at-{}", random_token().map_err(|_| NO_RANDOMNESS)?);
        if session.refresh_token.is_empty() || settings.rotation {
            let random = random_token().map_err(|_| NO_RANDOMNESS)?;
            session.refresh_token = format!("canary-rt-{id}.{random}");
        }
        session.ends = now.boot.after(settings.session_lifetime);
        let access_ends = now.boot.after(settings.access_lifetime.min(settings.session_lifetime));
        let scope = if narrow.scope.is_empty() { session.scope.clone() } else { narrow.scope.to_owned() };
        let issued = AccessToken {
            session: id.to_owned(),
            ends: access_ends,
            scope: scope.clone(),
            api: narrow.api.to_owned(),
        };
        self.access_tokens.insert(access_token.clone(), issued);
        let answer = json!({
            "access_token": access_token,
            "expires_in": settings.access_lifetime.min(settings.session_lifetime).as_secs(),
            "refresh_expires_in": settings.session_lifetime.as_secs(),
            "refresh_token": session.refresh_token,
            "token_type": if session.login.key.is_empty() { "Bearer" } else { "DPoP" },
            "not-before-policy": 0,
            "session_state": id,
            "scope": scope,
        });
        Ok(answer.as_object().cloned().unwrap_or_default())
    }

    /// The login behind an answer that was just issued, if it asked for an ID token.
    pub(super) fn openid_login(&self, answer: &Map<String, Value>) -> Option<&Authorization> {
        let session = self.live.get(answer.get("session_state")?.as_str()?)?;
        session.login.scope.split(' ').any(|scope| scope == "openid").then_some(&session.login)
    }

    /// Keycloak's logout and RFC 7009: ends the refresh token's session.
    pub(super) fn end(&mut self, refresh_token: &str) -> bool {
        let ended = self.live.iter().find(|(_, session)| session.refresh_token == refresh_token);
        let id = ended.map(|(id, _)| id.clone());
        id.is_some_and(|id| self.live.remove(&id).is_some())
    }

    pub(super) fn end_all(&mut self) {
        self.live.clear();
    }

    /// No API takes this access token any more; its session lives.
    pub(super) fn forget_access_token(&mut self, access_token: &str) {
        self.access_tokens.remove(access_token);
    }

    pub(super) fn count(&self, now: &Now) -> usize {
        self.live.values().filter(|session| session.ends > now.boot).count()
    }

    /// Whose access token this is, while it and its session live.
    pub(super) fn user_of(&self, access_token: &str, now: &Now) -> Option<&str> {
        let token = self.access_tokens.get(access_token)?;
        let session = self.live.get(&token.session)?;
        (token.ends > now.boot).then_some(session.login.user.as_str())
    }

    /// The key that this access token is bound to; empty: none.
    pub(super) fn key_of(&self, access_token: &str) -> Option<&str> {
        let token = self.access_tokens.get(access_token)?;
        self.live.get(&token.session).map(|session| session.login.key.as_str())
    }

    pub(super) fn grant_of(&self, access_token: &str, now: &Now) -> Option<(String, String)> {
        self.user_of(access_token, now)?;
        self.access_tokens.get(access_token).map(|token| (token.scope.clone(), token.api.clone()))
    }
}
