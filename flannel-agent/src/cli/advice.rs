//! What somebody meant whose command line cannot be read.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::settings::flags::go_bool;

/// Adds to `error` what is to be typed instead of `argv`, where that is known.
pub(super) fn advise(mut error: clap::Error, argv: &[String]) -> clap::Error {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let tip = match error.kind() {
        ErrorKind::ArgumentConflict => context(ContextKind::InvalidSubcommand)
            .and_then(|word| switch(argv, &word).or_else(|| Some(behind(argv, &word)))),
        ErrorKind::UnknownArgument => {
            context(ContextKind::InvalidArg).and_then(|word| switch(argv, &word))
        }
        _ => None,
    };
    if let Some(tip) = tip {
        let tips = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tips);
    }
    error
}

/// `--ip-masq true`: Go ends its flags at such a word, and flanneld goes on without all that are behind it.
fn switch(argv: &[String], word: &str) -> Option<String> {
    go_bool(word).ok()?;
    let at = argv.iter().position(|token| token == word)?;
    let flag = argv[..at].last().filter(|flag| flag.starts_with("--"))?;
    Some(format!(
        "a switch has its value behind an equals sign: {flag}={word}"
    ))
}

/// `--etcd-prefix=/x status`
fn behind(argv: &[String], word: &str) -> String {
    let program = argv.first().map_or("flannel-agent", String::as_str);
    let at = argv.iter().position(|token| token == word);
    let (flags, words) = argv.split_at(at.unwrap_or(argv.len()));
    let flags = flags.iter().skip(1);
    let moved: Vec<&str> = words.iter().chain(flags).map(String::as_str).collect();
    format!(
        "flags come behind the command: {program} {}",
        moved.join(" ")
    )
}
