//! JSON objects as Go reads them: field names match in any case, unknown ones are ignored, `null` is unset.

use serde_json::{Map, Value};

use crate::base::excerpt::excerpt;

/// A field holds the wrong kind of value, or one out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: write {wanted}")]
pub struct FieldError {
    pub field: &'static str,
    /// The value as JSON, or its beginning.
    pub value: String,
    pub wanted: String,
}

impl FieldError {
    pub(crate) fn new(field: &'static str, value: &Value, wanted: impl Into<String>) -> Self {
        Self {
            field,
            value: excerpt(&value.to_string()),
            wanted: wanted.into(),
        }
    }
}

/// The fields of one object. When a name occurs twice, in whatever case, the later one counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(crate) fn new(object: &'a Map<String, Value>) -> Self {
        Self(object)
    }

    /// The field's value unless it is missing or `null`.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0
            .iter()
            .filter(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_null())
            .map(|(_, value)| value)
            .next_back()
    }

    pub(crate) fn bool(&self, name: &'static str) -> Result<Option<bool>, FieldError> {
        self.get(name)
            .map(|value| {
                value
                    .as_bool()
                    .ok_or_else(|| FieldError::new(name, value, "true or false, without quotes"))
            })
            .transpose()
    }

    /// A whole number of at most `max`.
    pub(crate) fn uint(&self, name: &'static str, max: u32) -> Result<Option<u32>, FieldError> {
        self.get(name)
            .map(|value| {
                value
                    .as_u64()
                    .and_then(|number| u32::try_from(number).ok())
                    .filter(|number| *number <= max)
                    .ok_or_else(|| {
                        let wanted = format!("a whole number from 0 to {max}, without quotes");
                        FieldError::new(name, value, wanted)
                    })
            })
            .transpose()
    }

    pub(crate) fn str(&self, name: &'static str) -> Result<Option<&'a str>, FieldError> {
        self.get(name)
            .map(|value| {
                value
                    .as_str()
                    .ok_or_else(|| FieldError::new(name, value, "a string in double quotes"))
            })
            .transpose()
    }

    pub(crate) fn object(&self, name: &'static str) -> Result<Option<Fields<'a>>, FieldError> {
        self.get(name)
            .map(|value| {
                value
                    .as_object()
                    .map(Fields::new)
                    .ok_or_else(|| FieldError::new(name, value, "an object, {…}"))
            })
            .transpose()
    }

    /// A string that parses as `T`; `wanted` says how it looks. The empty string is unset.
    pub(crate) fn parsed<T: std::str::FromStr>(
        &self,
        name: &'static str,
        wanted: &str,
    ) -> Result<Option<T>, FieldError> {
        let Some(text) = self.str(name)?.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            // To some they are octal: Rust refuses them in an address, and Go also in a range.
            Err(_) if has_leading_zeros(text) => {
                let wanted = format!("{wanted}, no number with a leading 0");
                Err(FieldError::new(name, &Value::from(text), wanted))
            }
            Err(_) => Err(FieldError::new(name, &Value::from(text), wanted)),
        }
    }
}

/// Whether an IPv4 address, or a range of such, has them. A key in base64 may begin like one, and has no dots.
fn has_leading_zeros(text: &str) -> bool {
    let address = text.split('/').next().unwrap_or_default();
    let parts: Vec<&str> = address.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
    let has = |part: &&str| part.len() > 1 && part.starts_with('0');
    parts.len() == 4 && parts.iter().all(is_number) && parts.iter().any(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn names_match_in_any_case_and_the_last_counts() {
        let object = object(r#"{"NETWORK":"a","network":"b","netWork":null,"x":1}"#);
        assert_eq!(Fields::new(&object).str("Network").unwrap(), Some("b"));
    }

    #[test]
    fn a_wrong_type_names_field_value_and_fix() {
        let object = object(r#"{"SubnetLen":"24"}"#);
        let error = Fields::new(&object).uint("SubnetLen", 30).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"SubnetLen is "24": write a whole number from 0 to 30, without quotes"#
        );
    }

    #[test]
    fn leading_zeros_of_an_address_are_named() {
        let read = |text: &str| {
            let object = object(&format!(r#"{{"a":{text:?}}}"#));
            let parsed = Fields::new(&object).parsed::<std::net::Ipv4Addr>("a", "an address");
            parsed.err().map(|error| error.to_string())
        };
        let expected = r#"a is "10.010.0.0": write an address, no number with a leading 0"#;
        assert_eq!(read("10.010.0.0").as_deref(), Some(expected));
        for others in ["10.0.0", "10.300.0.0", "fd00::08", "07/a"] {
            let said = read(others).unwrap();
            assert!(!said.contains("leading"), "{said}");
        }
    }

    #[test]
    fn fractions_and_negative_numbers_are_no_whole_numbers() {
        for text in [r#"{"n":1.5}"#, r#"{"n":-1}"#, r#"{"n":4294967296}"#] {
            assert!(Fields::new(&object(text)).uint("n", u32::MAX).is_err());
        }
    }
}
