//! Who may use an account: the rules of its configuration, and what holds without one. Pure.

use std::sync::Arc;

use super::caller::{Caller, Kind};
use crate::tokens::Narrow;

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// The user is asked, and the answer may be remembered.
    Ask,
    Deny,
}

/// Whom a rule is about. Texts may hold `*` for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    Any,
    Host,
    Sandboxed,
    Flatpak(String),
    Snap(String),
    Container(String),
    /// Of a program that is not sandboxed, as all that follows.
    Unit(String),
    Exe(String),
}

/// The words of patterns, for suggestions.
pub const WORDS: &[&str] = &["*", "host", "sandboxed", "flatpak:", "snap:", "container:", "unit:", "exe:"];

impl Pattern {
    /// Reads `host`, `flatpak:org.example.Mail`, `exe:/usr/bin/curl` and the like.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "*" => return Ok(Self::Any),
            "host" => return Ok(Self::Host),
            "sandboxed" => return Ok(Self::Sandboxed),
            _ => {}
        }
        let (kind, name) = text.split_once(':').ok_or("is no kind of caller")?;
        let name = name.to_owned();
        let pattern = match kind {
            "flatpak" => Self::Flatpak(name),
            "snap" => Self::Snap(name),
            "container" => Self::Container(name),
            "unit" => Self::Unit(name),
            "exe" if name.starts_with('/') || name.starts_with('*') => Self::Exe(name),
            "exe" => return Err("needs the program's whole path, such as exe:/usr/bin/curl"),
            _ => return Err("is no kind of caller"),
        };
        if text.ends_with(':') { Err("needs a name after the colon; * is any") } else { Ok(pattern) }
    }

    fn takes(&self, caller: &Caller) -> bool {
        match (self, &caller.kind) {
            (Self::Any, _) | (Self::Host, Kind::Host | Kind::Container(_)) => true,
            (Self::Sandboxed, kind) => kind.is_sandboxed(),
            (Self::Flatpak(wanted), Kind::Flatpak(name))
            | (Self::Snap(wanted), Kind::Snap(name))
            | (Self::Container(wanted), Kind::Container(name)) => matches(wanted, name),
            // Inside a sandbox or a container, a path is another file's.
            (Self::Exe(wanted), Kind::Host) => matches(wanted, &caller.exe),
            (Self::Unit(wanted), Kind::Host) => matches(wanted, &caller.unit),
            _ => false,
        }
    }
}

/// One rule of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// As it is written.
    pub text: String,
    pub caller: Pattern,
    pub verdict: Verdict,
    /// The most that its callers get.
    pub limit: Option<Arc<Narrow>>,
}

/// An account's rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The first that is about the caller decides.
    pub rules: Vec<Rule>,
    /// Each token is asked for, whoever wants it.
    pub confirm: bool,
}

/// What is decided, and the rule that did; `None` where none was about the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<'a> {
    pub verdict: Verdict,
    pub rule: Option<&'a Rule>,
}

impl Rules {
    /// Without a rule, sandboxed programs are asked about and all others allowed.
    #[must_use]
    pub fn decide(&self, caller: &Caller) -> Decision<'_> {
        if let Some(rule) = self.rules.iter().find(|rule| rule.caller.takes(caller)) {
            return Decision { verdict: rule.verdict, rule: Some(rule) };
        }
        let verdict = if caller.kind.is_sandboxed() { Verdict::Ask } else { Verdict::Allow };
        Decision { verdict, rule: None }
    }

    /// The most that the caller gets, and the text of the rule that says so.
    #[must_use]
    pub fn limit(&self, caller: &Caller) -> Option<(&str, &Arc<Narrow>)> {
        let rule = self.decide(caller).rule?;
        Some((&rule.text, rule.limit.as_ref()?))
    }

    /// Whether anybody may be asked about, denied or given less by a rule.
    #[must_use]
    pub fn restrict(&self) -> bool {
        self.confirm || self.rules.iter().any(|rule| rule.verdict != Verdict::Allow || rule.limit.is_some())
    }
}

/// Whether a text is as the pattern has it, where `*` is any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let Some(end) = parts.pop() else { return true };
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = text.get(at + part.len()..).unwrap_or_default();
    }
    text.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rules: &[(&str, Verdict)]) -> Rules {
        let rule = |(text, verdict): &(&str, Verdict)| Rule {
            text: (*text).to_owned(),
            caller: Pattern::parse(text).unwrap(),
            verdict: *verdict,
            limit: None,
        };
        Rules { rules: rules.iter().map(rule).collect(), confirm: false }
    }

    fn caller(kind: Kind) -> Caller {
        Caller::new(kind, 1000, 7, "/usr/bin/curl".into(), "backup.service", String::new())
    }

    /// Rules, and what they decide about one caller of each kind.
    type Row<'a> = (&'a [(&'a str, Verdict)], [Verdict; 5]);

    /// Q5, Q6.
    #[test]
    fn the_first_rule_about_a_caller_decides_and_sandboxed_ones_are_asked_about_without_one() {
        use Verdict::{Allow, Ask, Deny};
        let host = caller(Kind::Host);
        let toolbox = caller(Kind::Container("toolbox-12".into()));
        let mail = caller(Kind::Flatpak("org.example.Mail".into()));
        let firefox = caller(Kind::Snap("firefox".into()));
        let hidden = caller(Kind::Hidden("it has ended"));
        let table: &[Row<'_>] = &[
            (&[], [Allow, Allow, Ask, Ask, Ask]),
            (&[("*", Deny)], [Deny; 5]),
            (&[("host", Ask)], [Ask, Ask, Ask, Ask, Ask]),
            (&[("host", Deny)], [Deny, Deny, Ask, Ask, Ask]),
            (&[("sandboxed", Deny)], [Allow, Allow, Deny, Deny, Deny]),
            (&[("flatpak:org.example.Mail", Allow)], [Allow, Allow, Allow, Ask, Ask]),
            (&[("flatpak:org.example.*", Allow), ("sandboxed", Deny)], [Allow, Allow, Allow, Deny, Deny]),
            (&[("sandboxed", Deny), ("flatpak:*", Allow)], [Allow, Allow, Deny, Deny, Deny]),
            (&[("snap:firefox", Deny)], [Allow, Allow, Ask, Deny, Ask]),
            (&[("container:toolbox-*", Deny)], [Allow, Deny, Ask, Ask, Ask]),
            // A path or a unit says nothing about what is inside of a sandbox.
            (&[("exe:/usr/bin/curl", Deny)], [Deny, Allow, Ask, Ask, Ask]),
            (&[("unit:backup.service", Allow), ("*", Deny)], [Allow, Deny, Deny, Deny, Deny]),
            (&[("exe:/usr/bin/wget", Allow), ("host", Deny)], [Deny, Deny, Ask, Ask, Ask]),
        ];
        for (row, expected) in table {
            let rules = rules(row);
            let decided =
                [&host, &toolbox, &mail, &firefox, &hidden].map(|caller| rules.decide(caller).verdict);
            assert_eq!(&decided, expected, "{row:?}");
        }
        assert!(!rules(&[("*", Allow)]).restrict() && rules(&[("snap:x", Ask)]).restrict());
    }

    #[test]
    fn a_limit_is_for_the_callers_of_its_rule_alone() {
        let read = Narrow::new(Some("read".to_owned()), None, None).unwrap().map(Arc::new);
        let mut rules = rules(&[("host", Verdict::Allow), ("*", Verdict::Allow)]);
        rules.rules[0].limit.clone_from(&read);

        assert_eq!(rules.limit(&caller(Kind::Host)), Some(("host", &read.unwrap())));
        assert_eq!(rules.limit(&caller(Kind::Snap("x".into()))), None);
        assert!(rules.restrict());
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, expected) in [
            ("a.service", "a.service", true),
            ("a.service", "b.service", false),
            ("*", "", true),
            ("app-*.scope", "app-org.x-12.scope", true),
            ("app-*.scope", "app-.scop", false),
            ("/opt/*/bin/*", "/opt/tool/bin/run", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        assert_eq!(Pattern::parse("flatpack:x"), Err("is no kind of caller"));
        assert_eq!(Pattern::parse("everybody"), Err("is no kind of caller"));
        assert!(Pattern::parse("exe:curl").unwrap_err().contains("whole path"));
        assert!(Pattern::parse("snap:").unwrap_err().contains("needs a name"));
    }
}
