//! The `a{sv}` options of methods: strict about names, generous about integer types.

use std::collections::HashMap;

use zbus::zvariant::{OwnedValue, Value};

use super::error::Error;

/// Checked options.
pub(super) struct Options(HashMap<String, OwnedValue>);

impl Options {
    /// Refuses unknown keys: a typo must not hand out something wider than what was asked for.
    pub(super) fn parse(options: HashMap<String, OwnedValue>, known: &[&str]) -> Result<Self, Error> {
        match options.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(Self(options)),
            Some(key) => {
                let key = crate::oidc::text::clean(key);
                Err(Error::invalid_option(format!("unknown option {key:?}; known: {}", known.join(", "))))
            }
        }
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.0.get(key).map(|value| unwrap(value)) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(Error::invalid_option(format!("option {key:?} is a boolean (b)"))),
        }
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<String>, Error> {
        self.long_string(key, 4096)
    }

    pub(super) fn long_string(&self, key: &str, most: usize) -> Result<Option<String>, Error> {
        match self.0.get(key).map(|value| unwrap(value)) {
            None => Ok(None),
            Some(Value::Str(value)) if value.len() <= most => Ok(Some(value.to_string())),
            Some(_) => {
                Err(Error::invalid_option(format!("option {key:?} is a string (s) of at most {most} bytes")))
            }
        }
    }

    /// Any integer type with a value from 0 to `max`.
    pub(super) fn integer(&self, key: &str, max: u32) -> Result<Option<u32>, Error> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let number = match unwrap(value) {
            Value::U8(n) => i128::from(*n),
            Value::I16(n) => i128::from(*n),
            Value::U16(n) => i128::from(*n),
            Value::I32(n) => i128::from(*n),
            Value::U32(n) => i128::from(*n),
            Value::I64(n) => i128::from(*n),
            Value::U64(n) => i128::from(*n),
            _ => -1,
        };
        match u32::try_from(number) {
            Ok(number) if number <= max => Ok(Some(number)),
            _ => Err(Error::invalid_option(format!("option {key:?} is an integer from 0 to {max}"))),
        }
    }
}

fn unwrap<'a>(value: &'a Value<'a>) -> &'a Value<'a> {
    match value {
        Value::Value(inner) => inner,
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &str, value: &Value<'_>) -> Options {
        let options = HashMap::from([(key.to_owned(), value.try_to_owned().unwrap())]);
        Options::parse(options, &["min_validity", "force_refresh"]).ok().unwrap()
    }

    #[test]
    fn any_integer_type_in_range_is_accepted() {
        for value in [Value::U8(60), Value::I16(60), Value::U32(60), Value::I64(60), Value::U64(60)] {
            assert_eq!(parse("min_validity", &value).integer("min_validity", 100).unwrap(), Some(60));
        }
        for value in
            [Value::I32(-1), Value::U64(u64::MAX), Value::U8(101), Value::from("60"), Value::F64(60.0)]
        {
            assert!(parse("min_validity", &value).integer("min_validity", 100).is_err());
        }
    }

    #[test]
    fn an_unknown_key_names_the_known_ones() {
        let options = HashMap::from([("min_valid".to_owned(), Value::U32(1).try_to_owned().unwrap())]);
        let error = Options::parse(options, &["min_validity", "force_refresh"]).err().unwrap();
        assert!(
            error.to_string().ends_with(r#"unknown option "min_valid"; known: min_validity, force_refresh"#),
            "{error}"
        );
    }
}
