//! Go's flag syntax, rewritten into what clap reads: flanneld is a Go program, and unit files, manifests
//! and Helm charts spell its flags in every way Go accepts.

use std::collections::BTreeMap;

use clap::Command;

/// Takes the options of a shell script, not Go's.
const SHELL_STYLE: &str = "mk-docker-opts";

/// Rewrites `argv` so that every known flag has the form `--name=value`.
///
/// Go accepts `-name` for `--name`, takes the token after a flag with a value literally (even when it
/// starts with a dash), and reads a boolean's value only after `=`. One-letter options other than
/// flags of that name (`-h`) and everything after `--` or `mk-docker-opts` stay as they are. Called
/// by that script's name, the program is that command.
pub(super) fn go_syntax(command: &Command, argv: Vec<String>) -> Vec<String> {
    let takes_value = value_flags(command);
    let mut tokens = argv.into_iter();
    let mut out: Vec<String> = tokens.by_ref().take(1).collect();
    let called = out.first().and_then(|path| path.rsplit('/').next());
    if called.is_some_and(|name| name.trim_end_matches(".sh") == SHELL_STYLE) {
        out.push(SHELL_STYLE.to_owned());
        out.extend(tokens);
        return out;
    }
    while let Some(token) = tokens.next() {
        if ["--", SHELL_STYLE].contains(&token.as_str()) {
            out.push(token);
            out.extend(tokens);
            break;
        }
        let Some(name) = flag_name(&token, &takes_value) else {
            out.push(token);
            continue;
        };
        if name.contains('=') {
            out.push(format!("--{name}"));
            continue;
        }
        match takes_value.get(name) {
            Some(true) => match tokens.next() {
                Some(value) => out.push(format!("--{name}={value}")),
                // Left bare: clap then says that the value is missing.
                None => out.push(format!("--{name}")),
            },
            _ => out.push(format!("--{name}")),
        }
    }
    out
}

/// The text after the dashes when `token` is a long flag in Go's eyes.
fn flag_name<'a>(token: &'a str, known: &BTreeMap<String, bool>) -> Option<&'a str> {
    if let Some(name) = token.strip_prefix("--") {
        return Some(name);
    }
    let name = token.strip_prefix('-')?;
    let bare = name.split('=').next().unwrap_or(name);
    let long = bare.starts_with(|c: char| c.is_ascii_alphabetic()) && bare.len() > 1;
    (long || known.contains_key(bare)).then_some(name)
}

/// Every long flag of the command and its subcommands: does it need a value?
fn value_flags(command: &Command) -> BTreeMap<String, bool> {
    let mut flags = BTreeMap::new();
    let mut todo = vec![command];
    while let Some(command) = todo.pop() {
        for arg in command.get_arguments() {
            let optional = arg
                .get_num_args()
                .is_some_and(|range| range.min_values() == 0);
            let needs_value = arg.get_action().takes_values() && !optional;
            for name in arg.get_long_and_visible_aliases().unwrap_or_default() {
                flags.insert(name.to_owned(), needs_value);
            }
        }
        todo.extend(command.get_subcommands());
    }
    flags
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction};
    use rstest::rstest;

    use super::*;

    fn command() -> Command {
        Command::new("agent")
            .arg(Arg::new("iface").long("iface").action(ArgAction::Append))
            .arg(Arg::new("v").long("v"))
            .arg(
                Arg::new("ip-masq")
                    .long("ip-masq")
                    .num_args(0..=1)
                    .require_equals(true),
            )
            .subcommand(Command::new("mk-docker-opts").arg(Arg::new("i").short('i')))
            .subcommand(Command::new("show").arg(Arg::new("output").long("output").short('o')))
    }

    #[rstest]
    #[case::double_dash(&["--iface=eth0"], &["--iface=eth0"])]
    #[case::single_dash(&["-iface=eth0"], &["--iface=eth0"])]
    #[case::value_in_next_token(&["-iface", "eth0"], &["--iface=eth0"])]
    #[case::value_with_a_dash(&["--iface", "-eth.*"], &["--iface=-eth.*"])]
    #[case::empty_value(&["--iface", ""], &["--iface="])]
    #[case::equals_in_value(&["-iface=a=b"], &["--iface=a=b"])]
    #[case::missing_value(&["-iface"], &["--iface"])]
    #[case::one_letter_flag(&["-v=4"], &["--v=4"])]
    #[case::one_letter_flag_apart(&["-v", "4"], &["--v=4"])]
    #[case::switch(&["-ip-masq"], &["--ip-masq"])]
    #[case::switch_with_value(&["-ip-masq=false"], &["--ip-masq=false"])]
    #[case::switch_takes_no_next_token(&["-ip-masq", "show"], &["--ip-masq", "show"])]
    #[case::unknown(&["-ifcae=eth0"], &["--ifcae=eth0"])]
    #[case::short_option(&["-h"], &["-h"])]
    #[case::flag_of_a_subcommand(&["show", "-output", "json"], &["show", "--output=json"])]
    #[case::short_of_a_subcommand(&["show", "-o", "json"], &["show", "-o", "json"])]
    #[case::shell_style(&["mk-docker-opts", "-ic", "-k", "X"], &["mk-docker-opts", "-ic", "-k", "X"])]
    #[case::number(&["-1"], &["-1"])]
    #[case::end_of_flags(&["--", "-iface"], &["--", "-iface"])]
    fn go_spelling(#[case] typed: &[&str], #[case] read: &[&str]) {
        let argv = |tokens: &[&str]| {
            std::iter::once("agent")
                .chain(tokens.iter().copied())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(go_syntax(&command(), argv(typed)), argv(read));
    }

    #[rstest]
    #[case("/opt/bin/mk-docker-opts.sh")]
    #[case("mk-docker-opts")]
    fn dk1_called_by_the_name_of_the_script(#[case] program: &str) {
        let argv = [program, "-ic", "-d", "/run/x"].map(str::to_owned);
        let read = go_syntax(&command(), argv.to_vec());
        assert_eq!(read, [program, "mk-docker-opts", "-ic", "-d", "/run/x"]);
    }
}
