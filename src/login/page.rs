//! The pages that the browser ends on: static text, everything escaped, nothing loaded.

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
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <title>{title} - bearerd</title></head>\n\
             <body><h1>{title}</h1><p>{text}</p><p>You can close this window.</p></body></html>\n"
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
        for forbidden in ["<script", "<a ", "<img", "<link", "href", "src='"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
    }
}
