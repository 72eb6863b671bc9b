//! `config show`: every effective value and where it came from.

use std::any::TypeId;
use std::fmt::Write as _;

use clap::{ArgMatches, Args as _, Command, ValueEnum};
use serde_json::{Map, Value, json};

use super::file::Shape;
use super::layers::{Flag, Origins};
use crate::base::options::Secret;
use crate::base::redact::without_logins;
use crate::settings::flags::Flags;

/// `--output`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Usable as config file
    Toml,
    Json,
}

/// One setting.
#[derive(Debug, PartialEq)]
struct Setting {
    name: String,
    value: Value,
    origin: String,
}

/// The settings in the order of `--help`, as text. Secrets are stars.
pub(super) fn show(matches: &ArgMatches, origins: &Origins, output: Output) -> String {
    let settings = settings(matches, origins);
    match output {
        Output::Toml => toml(&settings),
        Output::Json => json_text(settings),
    }
}

fn settings(matches: &ArgMatches, origins: &Origins) -> Vec<Setting> {
    let definition = Flags::augment_args(Command::new("flags"));
    let is = |flag: &Flag, kind: TypeId| {
        let arg = definition
            .get_arguments()
            .find(|arg| arg.get_id() == flag.id.as_str());
        arg.is_some_and(|arg| arg.get_value_parser().type_id() == kind)
    };
    Flag::all()
        .filter_map(|flag| {
            // `--version` ends the agent; it is no setting.
            let origin = origins.get(&flag.name).filter(|_| flag.name != "version")?;
            let raw = matches.get_raw(&flag.id).into_iter().flatten();
            let mut values = raw.map(|value| value.to_string_lossy().into_owned());
            let value = if flag.shape == Shape::Repeatable {
                Value::from(values.collect::<Vec<_>>())
            } else {
                let text = values.next().unwrap_or_default();
                if is(&flag, TypeId::of::<Secret>()) {
                    Value::from(if text.is_empty() { "" } else { "***" })
                } else if is(&flag, TypeId::of::<bool>()) {
                    Value::from(
                        matches
                            .get_one::<bool>(&flag.id)
                            .copied()
                            .unwrap_or_default(),
                    )
                } else if flag.name == "etcd-endpoints" {
                    Value::from(without_logins(&text))
                } else if is(&flag, TypeId::of::<String>()) {
                    Value::from(text)
                } else {
                    text.parse::<i64>().map_or(Value::from(text), Value::from)
                }
            };
            let origin = origin.to_string();
            Some(Setting {
                name: flag.name,
                value,
                origin,
            })
        })
        .collect()
}

fn toml(settings: &[Setting]) -> String {
    // Texts, numbers, booleans and lists of texts look the same in TOML as in JSON.
    let lines: Vec<_> = settings
        .iter()
        .map(|setting| {
            // A file does not name a file.
            let comment = if setting.name == "config" { "# " } else { "" };
            let line = format!("{comment}{} = {}", setting.name, setting.value);
            (line, &setting.origin)
        })
        .collect();
    let width = lines
        .iter()
        .map(|(line, _)| line.chars().count())
        .max()
        .unwrap_or_default();
    lines
        .iter()
        .fold(String::new(), |mut text, (line, origin)| {
            let _ = writeln!(text, "{line:width$}  # {origin}");
            text
        })
}

fn json_text(settings: Vec<Setting>) -> String {
    let settings: Map<String, Value> = settings
        .into_iter()
        .map(
            |Setting {
                 name,
                 value,
                 origin,
             }| (name, json!({ "value": value, "origin": origin })),
        )
        .collect();
    format!("{:#}\n", Value::Object(settings))
}
