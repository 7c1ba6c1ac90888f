//! Who may use an account: `rules` and `confirm`.

use std::sync::Arc;

use super::file::{ConfigError, Field, Fields, nearest};
use crate::access::policy::{Pattern, Rule, Rules, Verdict, WORDS};
use crate::tokens::Narrow;

/// No account needs more.
const MAX_RULES: usize = 1000;

/// Which narrower tokens an account can have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Narrows {
    Never,
    /// All but those for an audience.
    NotByAudience,
    Any,
}

/// Reads both keys of an account's table.
pub(super) fn read(account: &Fields<'_>, narrows: Narrows) -> Result<Rules, ConfigError> {
    let confirm = account.get("confirm").map_or(Ok(false), |field| field.boolean())?;
    let mut rules = Vec::new();
    for table in account.get("rules").map_or(Ok(Vec::new()), |field| field.tables())? {
        if rules.len() == MAX_RULES {
            return Err(table.error(&format!("holds more than {MAX_RULES}")));
        }
        rules.push(rule(&table, narrows)?);
    }
    Ok(Rules { rules, confirm })
}

fn rule(place: &Field<'_>, narrows: Narrows) -> Result<Rule, ConfigError> {
    let fields = place.table()?;
    fields.only(&["caller", "access", "scope", "audience", "resource"])?;
    let caller = fields.get("caller").ok_or_else(|| place.error("needs `caller`, such as \"flatpak:*\""))?;
    let text = caller.string()?;
    let pattern = Pattern::parse(text).map_err(|why| caller.error(&complaint(text, why)))?;
    let access =
        fields.get("access").ok_or_else(|| place.error("needs `access`: \"allow\", \"ask\" or \"deny\""))?;
    let verdict =
        access.word(&[("allow", Verdict::Allow), ("ask", Verdict::Ask), ("deny", Verdict::Deny)])?;
    let limit = limit(place, &fields, verdict, narrows)?.map(Arc::new);
    Ok(Rule { text: text.to_owned(), caller: pattern, verdict, limit })
}

fn limit(
    place: &Field<'_>,
    fields: &Fields<'_>,
    verdict: Verdict,
    narrows: Narrows,
) -> Result<Option<Narrow>, ConfigError> {
    let keys = ["scope", "audience", "resource"].map(|key| fields.get(key));
    let Some(first) = keys.iter().flatten().next() else { return Ok(None) };
    if verdict == Verdict::Deny {
        return Err(first.error("has no use where access is denied; remove one of them"));
    }
    if narrows == Narrows::Never {
        return Err(first.error("has no use: a personal token cannot be narrowed; remove it"));
    }
    let [scope, audience, resource] = keys;
    if let (Some(field), Narrows::NotByAudience) = (&audience, narrows) {
        return Err(field.error("needs the account's `audience_by`, or use `resource`"));
    }
    let text = |field: Option<Field<'_>>| field.map(|field| field.string().map(str::to_owned)).transpose();
    Narrow::new(text(scope)?, text(audience)?, text(resource)?)
        .map_err(|why| place.error(&format!("holds what cannot be asked for: {why}")))
}

fn complaint(text: &str, why: &str) -> String {
    let kind = text.split_inclusive(':').next().unwrap_or_default();
    match nearest(kind, WORDS) {
        Some(near) if near != kind => format!("{why}; did you mean `{near}`?"),
        Some(_) => why.to_owned(),
        None => format!("{why}; known: {}", WORDS.join(", ")),
    }
}
