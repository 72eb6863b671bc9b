//! Where a flag's value comes from: command line, else environment, else config file, else the default.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command};

use super::advice::advise;
use super::argv::go_syntax;
use super::file::{self, Shape};
use crate::settings::flags::Flags;

/// Flags that only make sense where they are typed: flanneld looks at `--version` before it looks at
/// the environment (and images do carry a variable of that name), and a file does not name a file.
const COMMAND_LINE_ONLY: &str = "version";
const CONFIG_FILE: &str = "config";

/// Who set a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    CommandLine,
    /// The variable's name.
    Environment(String),
    File(PathBuf),
}

impl Origin {
    /// Somebody set it, but not where clap would show it.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Environment(_) | Self::File(_))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::CommandLine => f.write_str("command line"),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::File(path) => write!(f, "config file {}", path.display()),
        }
    }
}

/// The origin of each flag, by its long name.
pub(super) type Origins = BTreeMap<String, Origin>;

/// Reads the flags of `argv` and fills what it leaves open from `env` and the config file.
///
/// # Errors
/// What clap says about a wrong command line, variable or file; the requests for help are errors, too.
pub(super) fn read(
    argv: Vec<String>,
    env: &BTreeMap<String, String>,
) -> Result<(ArgMatches, Origins), clap::Error> {
    let mut command = super::command();
    let argv = go_syntax(&command, argv);
    let typed = command
        .try_get_matches_from_mut(&argv)
        .map_err(|error| advise(error, &argv))?;
    let mut layers = Layers::default();
    let innermost = innermost(&typed);
    for flag in Flag::all() {
        match innermost.try_contains_id(&flag.id) {
            // A subcommand without the agent's flags.
            Err(_) => {}
            Ok(_) if innermost.value_source(&flag.id) == Some(ValueSource::CommandLine) => {
                layers.origins.insert(flag.name, Origin::CommandLine);
            }
            Ok(_) => layers.take_variable(flag, env),
        }
    }
    if let Some(path) = layers.config_file(innermost) {
        layers
            .take_file(&path)
            .map_err(|error| command.error(ErrorKind::Io, error))?;
    }
    let end = argv.iter().position(|token| token == "--");
    let (flags, rest) = argv.split_at(end.unwrap_or(argv.len()));
    let argv = flags.iter().chain(&layers.arguments).chain(rest);
    let matches = command
        .try_get_matches_from_mut(argv)
        .map_err(|error| name_the_origin(error, &layers.origins))?;
    Ok((matches, layers.origins))
}

/// What is added to the command line, and why.
#[derive(Debug, Default)]
struct Layers {
    arguments: Vec<String>,
    origins: Origins,
}

impl Layers {
    fn take_variable(&mut self, flag: Flag, env: &BTreeMap<String, String>) {
        let variable = variable_of(&flag.name);
        let value = env.get(&variable);
        let value = value.filter(|value| !value.is_empty() && !is_service_link(&variable, value));
        let origin = match value.filter(|_| flag.name != COMMAND_LINE_ONLY) {
            Some(value) => {
                self.arguments.push(format!("--{}={value}", flag.name));
                Origin::Environment(variable)
            }
            None => Origin::Default,
        };
        self.origins.insert(flag.name, origin);
    }

    /// The config file that command line or environment name.
    fn config_file(&self, typed: &ArgMatches) -> Option<PathBuf> {
        let path = match self.origins.get(CONFIG_FILE)? {
            Origin::CommandLine => typed.get_one::<String>(CONFIG_FILE)?.as_str(),
            _ => {
                let prefix = format!("--{CONFIG_FILE}=");
                self.arguments
                    .iter()
                    .find_map(|a| a.strip_prefix(&prefix))?
            }
        };
        (!path.is_empty()).then(|| PathBuf::from(path))
    }

    fn take_file(&mut self, path: &Path) -> Result<(), file::FileError> {
        let known = Flag::all()
            .filter(|flag| ![COMMAND_LINE_ONLY, CONFIG_FILE].contains(&flag.name.as_str()))
            .map(|flag| (flag.name, flag.shape))
            .collect();
        for (name, values) in file::read(path, &known)? {
            if self.origins.get(&name) == Some(&Origin::Default) {
                let arguments = values.iter().map(|value| format!("--{name}={value}"));
                self.arguments.extend(arguments);
                self.origins.insert(name, Origin::File(path.to_owned()));
            }
        }
        Ok(())
    }
}

/// Whether Kubernetes has set it in each pod of the namespace, for a Service whose name begins like our variables (`flanneld-healthz`).
fn is_service_link(variable: &str, value: &str) -> bool {
    let protocols = ["tcp://", "udp://", "sctp://"];
    variable.ends_with("_PORT") && protocols.iter().any(|it| value.starts_with(it))
}

/// `FLANNELD_ETCD_PREFIX` for `etcd-prefix`.
pub(super) fn variable_of(name: &str) -> String {
    format!("FLANNELD_{}", name.to_uppercase().replace('-', "_"))
}

/// One of the agent's flags.
#[derive(Debug)]
pub(super) struct Flag {
    /// clap's name for it.
    pub(super) id: String,
    /// What is typed after the dashes.
    pub(super) name: String,
    pub(super) shape: Shape,
}

impl Flag {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let flags = Flags::augment_args(Command::new("flags"));
        let flags: Vec<Self> = flags
            .get_arguments()
            .filter_map(|arg| {
                let name = arg.get_long()?.to_owned();
                let shape = match arg.get_action() {
                    ArgAction::Append => Shape::Repeatable,
                    _ if ["etcd-endpoints", "remote"].contains(&&*name) => Shape::Commas,
                    _ => Shape::One,
                };
                let id = arg.get_id().to_string();
                Some(Self { id, name, shape })
            })
            .collect();
        flags.into_iter()
    }
}

pub(super) fn innermost(mut matches: &ArgMatches) -> &ArgMatches {
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
    if let Some(origin) = origins.get(name).filter(|origin| origin.is_elsewhere()) {
        let tip = format!("the value comes from the {origin}").into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}
