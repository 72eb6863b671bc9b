//! JSON objects of which nothing is read but what is asked for, so that one part that cannot be read takes no other along.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::MessageError;
use crate::base::excerpt::excerpt;

/// The fields of one object as they were written.
#[derive(Debug)]
pub(super) struct Parts<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Parts<'a> {
    pub(super) fn of(json: &'a [u8]) -> Result<Self, MessageError> {
        let whole: &RawValue = serde_json::from_slice(json)?;
        // All of it is JSON: what else could be wrong.
        let object = serde_json::from_str(whole.get());
        object
            .map(Self)
            .map_err(|_| MessageError::NotAnObject(excerpt(whole.get())))
    }

    /// The field of that name, in any case as Go reads it, unless it is `null`.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let mut fields = self.0.iter();
        let (_, part) = fields
            .find(|(field, part)| field.eq_ignore_ascii_case(name) && part.get() != "null")?;
        Some(part)
    }

    /// What the list of that name has; nothing, if there is none.
    pub(super) fn list(&self, name: &str) -> Vec<&'a RawValue> {
        let list = self
            .get(name)
            .map(|list| serde_json::from_str(list.get()).ok());
        list.flatten().unwrap_or_default()
    }

    /// These fields.
    pub(super) fn read(&self, names: &[&str]) -> Result<Map<String, Value>, MessageError> {
        let parts = names
            .iter()
            .filter_map(|name| Some((*name, self.get(name)?)));
        let read =
            parts.map(|(name, part)| Ok((name.to_owned(), serde_json::from_str(part.get())?)));
        read.collect()
    }
}
