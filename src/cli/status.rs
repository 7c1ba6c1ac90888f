//! `bearerctl status`.

use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use unicode_width::UnicodeWidthStr as _;

use super::broker::{Broker, Properties, number, text};
use super::failure::Failure;
use super::output::{self, Colours};
use crate::clock::Clock;

const COLUMNS: [&str; 7] = ["ACCOUNT", "STATE", "WHO", "ACCESS", "SESSION", "REFRESH", "STORE"];

pub(super) const PAUSED: &str = "paused: nothing is handed out; to go on run: bearerctl resume";
pub(super) const NO_ACCOUNT: &str = "no account is configured; to add one run: bearerctl add NAME";

pub(super) async fn print(broker: &Broker, account: Option<&str>, json: bool) -> Result<(), Failure> {
    let accounts = accounts(broker, account).await?;
    if json {
        let accounts: Vec<Json> = accounts.iter().map(|(_, properties)| object(properties)).collect();
        output::data(&Json::from(accounts).to_string())?;
    } else if accounts.is_empty() {
        output::note(NO_ACCOUNT);
        return Ok(());
    } else {
        let clock = Clock::system().map_err(|error| Failure::failed(format!("no clock: {error}")))?;
        let fits = output::columns(std::io::stdout());
        output::lines(&table(&accounts, now(&clock), Colours::of_stdout(), fits))?;
    }
    if paused(broker).await? {
        output::note(PAUSED);
    }
    Ok(())
}

/// Whether tokens are held back; sandboxed programs are not told.
pub(super) async fn paused(broker: &Broker) -> Result<bool, Failure> {
    Ok(broker.access().await?.paused().await.unwrap_or(false))
}

/// The accounts to show: all, or the named one.
pub(super) async fn accounts(
    broker: &Broker,
    account: Option<&str>,
) -> Result<Vec<(String, Properties)>, Failure> {
    let mut accounts = broker.all_properties().await?;
    if let Some(account) = account {
        let wanted = broker.resolve(account).await?;
        accounts.retain(|(name, _)| *name == wanted);
    }
    // Not for sandboxed programs; the rest is.
    let mut used = broker.access().await?.last_used().await.unwrap_or_default();
    for (name, properties) in &mut accounts {
        if let Some((at, by)) = used.remove(name) {
            properties.insert("LastUsed".to_owned(), at.into());
            properties.insert("LastUsedBy".to_owned(), zbus::zvariant::Str::from(by).into());
        }
    }
    Ok(accounts)
}

/// Unix seconds, rounded as the properties are.
pub(super) fn now(clock: &Clock) -> u64 {
    (clock.now().wall + Duration::from_millis(500)).as_secs()
}

/// The names of the properties in snake case: `access_expires` is `AccessExpires`, in Unix seconds, 0 for none.
fn object(properties: &Properties) -> Json {
    let mut object = Map::new();
    for name in [
        "Name",
        "State",
        "StateReason",
        "StateMessage",
        "Subject",
        "Scope",
        "Provider",
        "Issuer",
        "Source",
        "Store",
        "LastUsedBy",
    ] {
        object.insert(snake_case(name), Json::from(text(properties, name)));
    }
    let attention = properties.get("NeedsAttention").and_then(|value| value.downcast_ref::<bool>().ok());
    object.insert("needs_attention".to_owned(), json!(attention.unwrap_or(false)));
    for name in ["AccessExpires", "SessionExpires", "NextRefresh", "LastRefresh", "LastUsed"] {
        object.insert(snake_case(name), Json::from(number(properties, name)));
    }
    Json::Object(object)
}

pub(super) fn snake_case(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 2);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// The table, and below it a line for each account that has something to say. Of the columns, those that do not fit are
/// left out, the last first; never the account and its state.
pub(super) fn table(
    accounts: &[(String, Properties)],
    now: u64,
    colours: Colours,
    fits: Option<usize>,
) -> String {
    let time = |seconds: u64| match seconds.checked_sub(now) {
        _ if seconds == 0 => "-".to_owned(),
        Some(left) => output::duration(left),
        None => "over".to_owned(),
    };
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(accounts.iter().map(|(name, properties)| {
        [
            name.clone(),
            text(properties, "State").to_owned(),
            or_dash(text(properties, "Subject")),
            time(number(properties, "AccessExpires")),
            time(number(properties, "SessionExpires")),
            time(number(properties, "NextRefresh")),
            text(properties, "Store").to_owned(),
        ]
    }));
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or(0)
        })
        .collect();
    let mut shown = COLUMNS.len();
    while shown > 2
        && fits.is_some_and(|fits| widths.iter().take(shown).sum::<usize>() + 2 * (shown - 1) > fits)
    {
        shown -= 1;
    }
    let line = |(number, row): (usize, &[String; 7])| {
        let cells = row.iter().zip(&widths).take(shown).enumerate().map(|(column, (cell, width))| {
            let padded = format!("{cell}{}", " ".repeat(width.saturating_sub(cell.width())));
            match (number, column) {
                (0, _) => colours.heading(&padded),
                (_, 1) => colours.state(cell, &padded),
                _ => padded,
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let messages = accounts.iter().filter_map(|(name, properties)| {
        let message = text(properties, "StateMessage");
        (!message.is_empty()).then(|| format!("{name}: {message}"))
    });
    let uses = accounts.iter().filter_map(|(name, properties)| {
        let by = text(properties, "LastUsedBy");
        let ago = now.saturating_sub(number(properties, "LastUsed"));
        (!by.is_empty()).then(|| format!("{name}: last used {} ago by {by}", output::duration(ago)))
    });
    rows.iter().enumerate().map(line).chain(messages).chain(uses).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use zbus::zvariant::{OwnedValue, Value};

    use super::*;

    fn account(state: &str, message: &str, access_expires: u64) -> Properties {
        let value = |value: Value<'_>| OwnedValue::try_from(value).unwrap();
        Properties::from([
            ("State".to_owned(), value(state.into())),
            ("StateMessage".to_owned(), value(message.into())),
            ("Store".to_owned(), value("memory".into())),
            ("AccessExpires".to_owned(), value(access_expires.into())),
        ])
    }

    #[test]
    fn the_table_shows_what_is_left_and_ends_with_what_to_do() {
        let accounts = [
            ("chaster".to_owned(), account("ready", "", 1290)),
            ("w".to_owned(), account("logged-out", "not logged in; run: bearerctl login w", 0)),
        ];

        let text = table(&accounts, 1000, Colours(false), None);

        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ACCOUNT  STATE       WHO  ACCESS      SESSION  REFRESH  STORE");
        assert_eq!(lines[1], "chaster  ready       -    4 min 50 s  -        -        memory");
        assert_eq!(lines[2], "w        logged-out  -    -           -        -        memory");
        assert_eq!(lines[3], "w: not logged in; run: bearerctl login w");
    }

    /// Signs of two columns, and of none.
    #[test]
    fn a_column_is_as_wide_as_a_terminal_shows_it() {
        let named = |who: &str| {
            let mut account = account("ready", "", 1290);
            account.insert("Subject".to_owned(), OwnedValue::try_from(Value::from(who)).unwrap());
            account
        };
        let accounts = ["\u{5c71}\u{7530}", "Jose\u{301}", "robin"].map(|who| ("w".to_owned(), named(who)));

        let text = table(&accounts, 1000, Colours(false), None);

        let starts = text.lines().map(|line| {
            let at = line.find("4 min").or(line.find("ACCESS")).unwrap();
            line[..at].width()
        });
        assert_eq!(starts.collect::<Vec<_>>(), [23; 4], "{text}");
    }

    #[test]
    fn a_narrow_terminal_gets_the_columns_that_fit() {
        let accounts = [("chaster".to_owned(), account("ready", "", 1290))];
        for (fits, headings) in [
            (66, "ACCOUNT  STATE  WHO  ACCESS      SESSION  REFRESH  STORE"),
            (40, "ACCOUNT  STATE  WHO  ACCESS      SESSION"),
            (39, "ACCOUNT  STATE  WHO  ACCESS"),
            (5, "ACCOUNT  STATE"),
        ] {
            let text = table(&accounts, 1000, Colours(false), Some(fits));
            assert_eq!(text.lines().next(), Some(headings), "{fits}");
        }
    }

    #[test]
    fn json_has_every_property_in_snake_case() {
        let object = object(&account("ready", "", 1290));

        assert_eq!(object["access_expires"], 1290);
        assert_eq!(object["state_reason"], "");
        assert_eq!(object["needs_attention"], false);
    }
}
