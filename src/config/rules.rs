//! Who may use an account: `rules` and `confirm`.

use super::file::{ConfigError, Field, Fields, nearest};
use crate::access::policy::{Pattern, Rule, Rules, Verdict, WORDS};

/// No account needs more.
const MAX_RULES: usize = 1000;

/// Reads both keys of an account's table.
pub(super) fn read(account: &Fields<'_>) -> Result<Rules, ConfigError> {
    let confirm = account.get("confirm").map_or(Ok(false), |field| field.boolean())?;
    let mut rules = Vec::new();
    for table in account.get("rules").map_or(Ok(Vec::new()), |field| field.tables())? {
        if rules.len() == MAX_RULES {
            return Err(table.error(&format!("holds more than {MAX_RULES}")));
        }
        rules.push(rule(&table)?);
    }
    Ok(Rules { rules, confirm })
}

fn rule(place: &Field<'_>) -> Result<Rule, ConfigError> {
    let fields = place.table()?;
    fields.only(&["caller", "access"])?;
    let caller = fields.get("caller").ok_or_else(|| place.error("needs `caller`, such as \"flatpak:*\""))?;
    let text = caller.string()?;
    let pattern = Pattern::parse(text).map_err(|why| caller.error(&complaint(text, why)))?;
    let access =
        fields.get("access").ok_or_else(|| place.error("needs `access`: \"allow\", \"ask\" or \"deny\""))?;
    let verdict =
        access.word(&[("allow", Verdict::Allow), ("ask", Verdict::Ask), ("deny", Verdict::Deny)])?;
    Ok(Rule { text: text.to_owned(), caller: pattern, verdict })
}

fn complaint(text: &str, why: &str) -> String {
    let kind = text.split_inclusive(':').next().unwrap_or_default();
    match nearest(kind, WORDS) {
        Some(near) if near != kind => format!("{why}; did you mean `{near}`?"),
        Some(_) => why.to_owned(),
        None => format!("{why}; known: {}", WORDS.join(", ")),
    }
}
