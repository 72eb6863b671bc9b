//! How the demo prints.

use std::io::IsTerminal as _;

/// A new part of the story.
pub(crate) fn step(title: &str) {
    let (bold, plain) = if std::io::stdout().is_terminal() {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    println!("\n{bold}== {title}{plain}");
}

/// A line of our own.
pub(crate) fn note(text: &str) {
    println!("   {text}");
}

/// A command as one would type it on the node, and what it printed.
pub(crate) fn transcript(host: &str, command: &str, output: &str) {
    println!("   {host}# {command}");
    for line in output.trim_end().lines() {
        println!("   {line}");
    }
}
