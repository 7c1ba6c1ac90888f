//! The pages that the browser ends on: static text, everything escaped, nothing loaded.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// For light and dark, for a desk and a telephone.
const STYLE: &str = "\
:root{--back:#f6f5f4;--card:#fff;--text:#241f31;--soft:#5e5c64;--mark:#77767b}\
@media(prefers-color-scheme:dark){:root{--back:#1d1d20;--card:#2e2e32;--text:#f6f5f4;--soft:#c0bfbc}}\
body{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--back);color:var(--text);\
font:1rem/1.5 system-ui,sans-serif}\
main{box-sizing:border-box;width:min(30rem,calc(100vw - 2rem));margin:1rem 0;padding:1.75rem 2rem;background:var(--card);\
border-top:.4rem solid var(--mark);border-radius:.75rem;box-shadow:0 .1rem .6rem #0003}\
h1{margin:0 0 .75rem;font-size:1.5rem;line-height:1.2}p{margin:.5rem 0;overflow-wrap:anywhere}p:last-child{color:var(--soft)}\
.good{--mark:#26a269}.part{--mark:#e5a50a}.bad{--mark:#e01b24}";

/// Allows that style and nothing else (Content Security Policy).
pub(crate) fn policy() -> String {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{hash}'; frame-ancestors 'none'")
}

/// One of the pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Page {
    LoggedIn { account: String, subject: String },
    NotSaved { account: String, subject: String, why: String },
    Denied,
    Failed(String),
    AlreadyUsed,
    Stray,
    NotFound,
    BadRequest(&'static str),
}

impl Page {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::LoggedIn { .. } | Self::NotSaved { .. } | Self::Denied | Self::Failed(_) => 200,
            Self::AlreadyUsed => 409,
            Self::Stray | Self::BadRequest(_) => 400,
            Self::NotFound => 404,
        }
    }

    pub(crate) fn html(&self) -> String {
        // Whoever was led into another's account can see it here.
        let logged_in = |account: &str, subject: &str| match subject {
            "" => format!("You are logged in to {}.", escape(account)),
            subject => {
                format!("You are logged in to {} as <b>{}</b>.", escape(account), escape(subject))
            }
        };
        let (title, text) = match self {
            Self::LoggedIn { account, subject } => ("Logged in", logged_in(account, subject)),
            Self::NotSaved { account, subject, why } => (
                "Logged in, not saved",
                format!("{} The session is not saved: {}.", logged_in(account, subject), escape(why)),
            ),
            Self::Denied => ("Login denied", "You said no to the provider; nothing was changed.".to_owned()),
            Self::Failed(why) => ("Login failed", format!("{}.", escape(why))),
            Self::AlreadyUsed => {
                ("Already used", "This answer was used already; nothing was done again.".to_owned())
            }
            Self::Stray => {
                ("Not a login", "This is no answer to a pending login; the login goes on.".to_owned())
            }
            Self::NotFound => ("Not found", "There is nothing here.".to_owned()),
            Self::BadRequest(why) => ("Bad request", format!("{why}.")),
        };
        let outcome = match self {
            Self::LoggedIn { .. } => "good",
            Self::NotSaved { .. } => "part",
            Self::Denied | Self::AlreadyUsed | Self::Stray | Self::NotFound => "none",
            Self::Failed(_) | Self::BadRequest(_) => "bad",
        };
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <title>{title} - bearerd</title><style>{STYLE}</style></head>\n\
             <body><main class=\"{outcome}\"><h1>{title}</h1><p>{text}</p><p>You can close this window.</p></main></body></html>\n"
        )
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B11.
    #[test]
    fn provider_text_is_escaped_and_nothing_is_linked_or_loaded() {
        let html = Page::Failed("<script src='//evil'>&\"".into()).html();
        assert!(html.contains("&lt;script src=&#39;//evil&#39;&gt;&amp;&quot;"));
        for forbidden in ["<script", "<a ", "<img", "<link", "<form", "<input", "href", "src='"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
    }
}
