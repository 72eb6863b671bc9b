//! Where a flag's value comes from: command line, else environment, else the default.

use std::collections::BTreeMap;
use std::fmt;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command};

use super::argv::go_syntax;
use super::flags::Flags;

/// Who set a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    CommandLine,
    /// The variable's name.
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::CommandLine => f.write_str("command line"),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
        }
    }
}

/// The origin of each flag, by its long name.
pub(super) type Origins = BTreeMap<String, Origin>;

/// Reads the flags of `argv` and fills what it leaves open from `env`.
///
/// # Errors
/// What clap says about a wrong command line; the requests for help are errors, too.
pub(super) fn read(
    argv: Vec<String>,
    env: &BTreeMap<String, String>,
) -> Result<(ArgMatches, Origins), clap::Error> {
    let mut command = super::command();
    let argv = go_syntax(&command, argv);
    let typed = command.try_get_matches_from_mut(&argv)?;
    let mut origins = Origins::new();
    let mut open = Vec::new();
    let innermost = innermost(&typed);
    for (id, name) in flag_names() {
        match innermost.try_contains_id(&id) {
            Ok(true) if innermost.value_source(&id) == Some(ValueSource::CommandLine) => {
                origins.insert(name, Origin::CommandLine);
            }
            // A subcommand without the agent's flags.
            Err(_) => {}
            Ok(_) => {
                let variable = variable_of(&name);
                // flanneld looks at `--version` before it looks at the environment, and images do
                // carry a variable of that name.
                let value = env.get(&variable).filter(|value| !value.is_empty());
                match value.filter(|_| name != "version") {
                    Some(value) => {
                        open.push(format!("--{name}={value}"));
                        origins.insert(name, Origin::Environment(variable));
                    }
                    None => {
                        origins.insert(name, Origin::Default);
                    }
                }
            }
        }
    }
    if open.is_empty() {
        return Ok((typed, origins));
    }
    let end = argv.iter().position(|token| token == "--");
    let (flags, rest) = argv.split_at(end.unwrap_or(argv.len()));
    let argv = flags.iter().chain(&open).chain(rest);
    let matches = command
        .try_get_matches_from_mut(argv)
        .map_err(|error| name_the_origin(error, &origins))?;
    Ok((matches, origins))
}

/// `FLANNELD_ETCD_PREFIX` for `etcd-prefix`.
pub(super) fn variable_of(name: &str) -> String {
    format!("FLANNELD_{}", name.to_uppercase().replace('-', "_"))
}

/// clap's id and the long name of each of the agent's flags.
fn flag_names() -> Vec<(String, String)> {
    Flags::augment_args(Command::new("flags"))
        .get_arguments()
        .filter_map(|arg| Some((arg.get_id().to_string(), arg.get_long()?.to_owned())))
        .collect()
}

fn innermost(mut matches: &ArgMatches) -> &ArgMatches {
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    matches
}

/// clap only knows the command line; a wrong variable must be looked for elsewhere.
fn name_the_origin(mut error: clap::Error, origins: &Origins) -> clap::Error {
    if !matches!(
        error.kind(),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue
    ) {
        return error;
    }
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) => flag.clone(),
        _ => return error,
    };
    let name = flag
        .trim_start_matches('-')
        .split([' ', '=', '['])
        .next()
        .unwrap_or_default();
    if let Some(origin @ Origin::Environment(_)) = origins.get(name) {
        let tip = format!("the value comes from the {origin}").into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}
