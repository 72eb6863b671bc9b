//! Prints docs/reference.md, the help of every command; `cargo xtask docs` runs it.

use std::fmt::Write as _;
use std::io::Write as _;

use clap::Command;

/// Not the width of somebody's terminal.
const WIDTH: usize = 120;

fn main() -> std::io::Result<()> {
    let mut text = String::from(
        "<!-- Made by `cargo xtask docs` from flannel-agent/src/cli: change that. -->\n\n# Command reference\n",
    );
    let mut command = flannel_agent::cli::command().term_width(WIDTH);
    command.build();
    section(&mut text, &mut command, "flannel-agent");
    std::io::stdout().write_all(text.as_bytes())
}

fn section(text: &mut String, command: &mut Command, name: &str) {
    let help = command.render_long_help().to_string();
    let lines = help.lines().map(str::trim_end).collect::<Vec<_>>();
    let _ = write!(
        text,
        "\n## {name}\n\n```text\n{}\n```\n",
        lines.join("\n").trim_end()
    );
    let names: Vec<_> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for sub in names {
        if let Some(command) = command.find_subcommand_mut(&sub) {
            section(text, command, &format!("{name} {sub}"));
        }
    }
}
