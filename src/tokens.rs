//! What is asked of the token endpoint, and what it granted, with times still relative to the request.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use url::Url;

use crate::dpop::ProofKey;
use crate::secret::{AccessToken, IdToken, RefreshToken};

/// A lifetime as the provider stated it, made safe to calculate with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Not stated, or not understood. Not forever, and not over.
    Unknown,
    /// Zero (for an access token) or negative: over already.
    Over,
    /// A positive time, at most one year.
    For(Duration),
}

impl Lifetime {
    /// The stated time; `None` when unknown, zero when over.
    #[must_use]
    pub fn known(self) -> Option<Duration> {
        match self {
            Self::Unknown => None,
            Self::Over => Some(Duration::ZERO),
            Self::For(time) => Some(time),
        }
    }
}

/// A successful answer of the token endpoint (RFC 6749 section 5.1), checked.
#[derive(Clone)]
pub struct TokenResponse {
    pub access_token: AccessToken,
    pub expires_in: Lifetime,
    /// Absent when the provider keeps the old one (RFC 6749 section 6).
    pub refresh_token: Option<RefreshToken>,
    /// Keycloak's `refresh_expires_in`, or `refresh_token_expires_in` of others.
    pub refresh_expires_in: Lifetime,
    /// Space separated; absent means as requested (RFC 6749 section 5.1).
    pub scope: Option<String>,
    /// Not checked yet.
    pub id_token: Option<IdToken>,
    /// Where tokens of this session may be sent: origins, space separated; empty when that is not known.
    pub servers: String,
}

/// A login's tokens, and whose they are.
#[derive(Clone)]
pub struct Granted {
    pub tokens: TokenResponse,
    /// The issuer's identifier of the user (OpenID Connect Core section 2); empty without an ID token.
    pub sub: String,
    /// For people; empty when the provider does not say.
    pub subject: String,
    /// What the tokens are bound to (RFC 9449).
    pub key: Option<ProofKey>,
}

/// A caller's wish for less than what the account may do: a token of its own (RFC 6749 section 6, RFC 8707).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Narrow {
    /// Sorted, each once, space separated; empty: all that were granted.
    pub scope: String,
    /// Empty: what the provider takes when none is named.
    pub audience: String,
    /// Each letter by letter as the caller gave it, sorted, space separated; empty: none.
    pub resource: String,
}

impl Narrow {
    /// Checks what a caller wants; `None` when that is nothing in particular.
    ///
    /// # Errors
    /// Which option cannot be used, and why.
    pub fn new(
        scope: Option<String>,
        audience: Option<String>,
        resource: Option<String>,
    ) -> Result<Option<Self>, &'static str> {
        let scope = scope.map(|text| scopes(&text).ok_or(BAD_SCOPE)).transpose()?;
        if audience.as_ref().is_some_and(|text| text.is_empty() || !text.chars().all(is_printable)) {
            return Err("`audience` must be a name as the provider knows it, in printable ASCII");
        }
        let resource = resource.map(|text| resources(&text).ok_or(BAD_RESOURCE)).transpose()?;
        if scope.is_none() && audience.is_none() && resource.is_none() {
            return Ok(None);
        }
        let (scope, audience, resource) =
            (scope.unwrap_or_default(), audience.unwrap_or_default(), resource.unwrap_or_default());
        Ok(Some(Self { scope, audience, resource }))
    }

    /// Whether it is all that was granted, and so no wish of its own.
    #[must_use]
    pub fn is_all_of(&self, granted: &str) -> bool {
        self.audience.is_empty() && self.resource.is_empty() && scopes(granted).as_ref() == Some(&self.scope)
    }

    /// Whether nobody would get more by it than was granted.
    #[must_use]
    pub fn is_within(&self, granted: &str) -> bool {
        self.scope.is_empty() || are_among(&self.scope, granted)
    }

    /// Whether the provider answered the wish for fewer scopes with all of them, and perhaps others beside.
    #[must_use]
    pub fn is_ignored_by(&self, answered: &str, granted: &str) -> bool {
        scopes(granted).is_some_and(|all| are_among(&all, answered)) && self.is_exceeded_by(granted)
    }

    /// Whether a token of this scope may do more than was wished for (RFC 6749 section 5.1: it is the answer's
    /// that holds).
    #[must_use]
    pub fn is_exceeded_by(&self, answered: &str) -> bool {
        !self.scope.is_empty() && !are_among(answered, &self.scope)
    }

    /// What a wish gets of this at most; `None` when it goes beyond.
    ///
    /// Audience and resource both say whom a token is for, and a provider may make one for all that are named
    /// (RFC 8693 section 2.1). So where this names one, a wish for another of either kind goes beyond.
    #[must_use]
    pub fn limit(&self, wish: &Self) -> Option<Self> {
        let anywhere = self.audience.is_empty() && self.resource.is_empty();
        let scope = match wish.scope.as_str() {
            "" => self.scope.clone(),
            wanted if self.scope.is_empty() || wish.is_within(&self.scope) => wanted.to_owned(),
            _ => return None,
        };
        let audience = match wish.audience.as_str() {
            "" => self.audience.clone(),
            wanted => (anywhere || self.audience == wanted).then(|| wanted.to_owned())?,
        };
        let resource = match wish.resource.as_str() {
            "" => self.resource.clone(),
            wanted => (anywhere || are_among(wanted, &self.resource)).then(|| wanted.to_owned())?,
        };
        Some(Self { scope, audience, resource })
    }
}

impl fmt::Display for Narrow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("scope", &self.scope), ("audience", &self.audience), ("resource", &self.resource)];
        let named = parts.into_iter().filter(|(_, value)| !value.is_empty());
        for (index, (name, value)) in named.enumerate() {
            write!(f, "{}{name} {value:?}", if index == 0 { "" } else { " and " })?;
        }
        Ok(())
    }
}

const BAD_SCOPE: &str = "`scope` must be one or more scopes, separated by spaces";
const BAD_RESOURCE: &str =
    "`resource` must be one or more absolute URIs without #fragment, separated by spaces";

/// Whether all words of a text that spaces separate are words of another.
fn are_among(few: &str, many: &str) -> bool {
    few.split(' ').filter(|word| !word.is_empty()).all(|word| many.split(' ').any(|other| other == word))
}

/// A scope list in the one order in which two equal ones are equal (RFC 6749 section 3.3).
fn scopes(text: &str) -> Option<String> {
    let set: BTreeSet<&str> = text.split(' ').filter(|scope| !scope.is_empty()).collect();
    let fits = |c: char| matches!(c, '!' | '#'..='[' | ']'..='~');
    let good = !set.is_empty() && set.iter().all(|scope| scope.chars().all(fits));
    good.then(|| set.into_iter().collect::<Vec<_>>().join(" "))
}

/// RFC 8707 section 2 lets a request name several.
fn resources(text: &str) -> Option<String> {
    let set: BTreeSet<&str> = text.split(' ').filter(|one| !one.is_empty()).collect();
    let good = !set.is_empty() && set.iter().all(|one| is_resource(one));
    good.then(|| set.into_iter().collect::<Vec<_>>().join(" "))
}

fn is_resource(text: &str) -> bool {
    text.chars().all(|c| matches!(c, '!'..='~') && c != '#') && Url::parse(text).is_ok()
}

fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn narrow(scope: &str, audience: &str, resource: &str) -> Result<Option<Narrow>, &'static str> {
        let some = |text: &str| (text != "-").then(|| text.to_owned());
        Narrow::new(some(scope), some(audience), some(resource))
    }

    /// J1, J2.
    #[test]
    fn wishes_are_checked_and_two_orders_of_scopes_are_one_wish() {
        assert_eq!(narrow("-", "-", "-"), Ok(None));
        assert_eq!(narrow("b  a b", "-", "-"), narrow("a b", "-", "-"));
        for bad in ["", " ", "a\"b", "a\\b", "a\tb", "a\nb", "é"] {
            assert!(narrow(bad, "-", "-").is_err(), "{bad:?}");
        }
        for bad in ["", "a\nb", "é"] {
            assert!(narrow("-", bad, "-").is_err(), "{bad:?}");
        }
        for good in ["https://api.example", "https://api.example/a?b=c", "urn:example:api"] {
            assert_eq!(narrow("-", "-", good).unwrap().unwrap().resource, good);
        }
        assert_eq!(narrow("-", "-", "urn:b  urn:a urn:b"), narrow("-", "-", "urn:a urn:b"));
        for bad in
            ["", "api", "/api", "https://api.example/#", "https://api.example/#x", "https://a b", "https://é"]
        {
            assert!(narrow("-", "-", bad).is_err(), "{bad:?}");
        }
    }

    /// A11.
    #[test]
    fn a_wish_is_within_what_was_granted_or_outside_of_it() {
        let wish = |scope| narrow(scope, "-", "-").unwrap().unwrap();
        assert!(wish("b").is_within("a b c") && wish("c a").is_within("a b c"));
        assert!(!wish("b d").is_within("a b c") && !wish("a").is_within("aa") && !wish("a").is_within(""));
        assert!(wish("b a").is_all_of("a b") && !wish("a").is_all_of("a b"));
        assert!(!narrow("a", "x", "-").unwrap().unwrap().is_all_of("a"));
        assert!(wish("a").is_ignored_by("b a", "a b") && !wish("a").is_ignored_by("a", "a b"));
        assert!(!wish("a b").is_ignored_by("a b", "a b") && wish("a").is_ignored_by("a b c", "a b"));
        assert!(wish("a").is_exceeded_by("b a") && wish("a b").is_exceeded_by("c"));
        assert!(!wish("a b").is_exceeded_by("b  a") && !wish("a b").is_exceeded_by("b"));
        assert!(!narrow("-", "x", "-").unwrap().unwrap().is_exceeded_by("a b"));
    }

    #[test]
    fn a_limit_is_for_every_wish_and_a_wish_can_only_lessen_it() {
        let limit = |most: [&str; 3], wish: [&str; 3]| {
            let narrow = |[scope, audience, resource]: [&str; 3]| Narrow {
                scope: scope.to_owned(),
                audience: audience.to_owned(),
                resource: resource.to_owned(),
            };
            narrow(most).limit(&narrow(wish)).map(|narrow| narrow.to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(limit(["a b", "", ""], ["", "", ""]), some("scope \"a b\""));
        assert_eq!(limit(["a b", "", ""], ["b", "x", ""]), some("scope \"b\" and audience \"x\""));
        assert_eq!(limit(["", "x", ""], ["a", "x", ""]), some("scope \"a\" and audience \"x\""));
        assert_eq!(limit(["", "x", "r"], ["", "x", "r"]), some("audience \"x\" and resource \"r\""));
        assert_eq!(limit(["", "", "r"], ["", "", ""]), some("resource \"r\""));
        assert_eq!(limit(["", "", "r s"], ["", "", "s"]), some("resource \"s\""));
        for (most, wish) in [
            (["a b", "", ""], ["a c", "", ""]),
            (["a", "x", ""], ["a", "y", ""]),
            (["", "", "r"], ["", "", "s"]),
            (["", "x", ""], ["", "x", "r"]),
            (["", "", "r"], ["", "y", ""]),
            (["", "", "r"], ["", "", "r s"]),
        ] {
            assert_eq!(limit(most, wish), None, "{most:?} {wish:?}");
        }
    }
}
