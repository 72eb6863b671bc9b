//! The config file: TOML, with the flags' names as keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thiserror::Error;
use toml::{Table, Value};

/// A key has to be this alike to be proposed for an unknown one; clap's own bound for flags.
const ALIKE: f64 = 0.7;

/// Why a config file cannot be used.
#[derive(Debug, Error)]
pub(super) enum FileError {
    #[error("cannot read the config file {path}: {error}; give a readable file with --config")]
    Unreadable {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("config file {path} is not TOML: {error}")]
    NotToml {
        path: PathBuf,
        error: Box<toml::de::Error>,
    },
    #[error("config file {path}: unknown key {key:?}; {hint}")]
    UnknownKey {
        path: PathBuf,
        key: String,
        hint: String,
    },
    #[error("config file {path}: {key} = {value}; give a text, a number or a boolean{list}")]
    WrongType {
        path: PathBuf,
        key: String,
        value: String,
        list: &'static str,
    },
}

/// How a key may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    /// A repeatable flag: a list stands for repetitions.
    Repeatable,
    /// A flag with commas: a list stands for its parts.
    Commas,
}

/// The file's settings: for each key the values of its flag.
///
/// # Errors
/// An unreadable file, bad TOML, or a key that is none of `known`.
pub(super) fn read(
    path: &Path,
    known: &BTreeMap<String, Shape>,
) -> Result<BTreeMap<String, Vec<String>>, FileError> {
    let text = std::fs::read_to_string(path).map_err(|error| FileError::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    let table: Table = text.parse().map_err(|error| FileError::NotToml {
        path: path.to_owned(),
        error: Box::new(error),
    })?;
    let mut settings = BTreeMap::new();
    for (key, value) in table {
        let Some(shape) = known.get(&key) else {
            let hint = hint(&key, known.keys());
            let path = path.to_owned();
            return Err(FileError::UnknownKey { path, key, hint });
        };
        let Some(values) = values(&value, *shape) else {
            return Err(FileError::WrongType {
                path: path.to_owned(),
                key,
                value: value.to_string(),
                list: match shape {
                    Shape::One => "",
                    Shape::Repeatable | Shape::Commas => ", or a list of them",
                },
            });
        };
        settings.insert(key, values);
    }
    Ok(settings)
}

fn values(value: &Value, shape: Shape) -> Option<Vec<String>> {
    let Value::Array(list) = value else {
        return Some(vec![text(value)?]);
    };
    let list: Vec<String> = list.iter().map(text).collect::<Option<_>>()?;
    match shape {
        Shape::One => None,
        Shape::Repeatable => Some(list),
        Shape::Commas => Some(vec![list.join(",")]),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(switch) => Some(switch.to_string()),
        Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

fn hint<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> String {
    known
        .map(|name| (strsim::jaro(key, name), name))
        .filter(|(alike, _)| *alike > ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(
            || "keys are the names of flags, see --help".to_owned(),
            |(_, name)| format!("the nearest is {name:?}"),
        )
}
