//! A command as flanneld reads it: words without a shell, and variables in them by the rules of Go's `os.Expand`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A command of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandLine(String);

impl CommandLine {
    /// `None`: there is no word in it.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (!text.trim().is_empty()).then(|| Self(text.to_owned()))
    }

    /// Program and arguments. A value with spaces in it stays one word; quotes mean nothing.
    #[must_use]
    pub fn words(&self, value: impl Fn(&str) -> String) -> Vec<String> {
        let words = self.0.split_whitespace();
        words.map(|word| expand(word, &value)).collect()
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn expand(word: &str, value: &impl Fn(&str) -> String) -> String {
    let mut expanded = String::with_capacity(word.len());
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = match reference(after) {
            Reference::To(name, rest) => {
                expanded.push_str(&value(name));
                rest
            }
            Reference::Malformed(rest) => rest,
            Reference::None => {
                expanded.push('$');
                after
            }
        };
    }
    expanded.push_str(rest);
    expanded
}

/// What follows a dollar sign; each with what is behind it.
enum Reference<'a> {
    To(&'a str, &'a str),
    /// Go leaves it out without a word.
    Malformed(&'a str),
    None,
}

fn reference(text: &str) -> Reference<'_> {
    if let Some(braced) = text.strip_prefix('{') {
        return match braced.split_once('}') {
            Some(("", rest)) => Reference::Malformed(rest),
            Some((name, rest)) => Reference::To(name, rest),
            None => Reference::Malformed(braced),
        };
    }
    let end = match text.chars().next() {
        Some('*' | '#' | '$' | '@' | '!' | '?' | '-' | '0'..='9') => 1,
        _ => text
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(text.len()),
    };
    match text.split_at(end) {
        ("", _) => Reference::None,
        (name, rest) => Reference::To(name, rest),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Each case as Go's `strings.Fields` and `os.Expand` have it.
    #[rstest]
    #[case("ip route add $SUBNET via $PUBLIC_IP", &["ip", "route", "add", "10.1.2.0/24", "via", "1.2.3.4"])]
    #[case("  a\t b\nc ", &["a", "b", "c"])]
    #[case("x${SUBNET}y$PUBLIC_IP.z", &["x10.1.2.0/24y1.2.3.4.z"])]
    #[case("\"$SUBNET\" '${PUBLIC_IP}'", &["\"10.1.2.0/24\"", "'1.2.3.4'"])]
    #[case("$SPACED $NOBODY end", &["a b", "", "end"])]
    #[case("$ a$ $/ a$.b", &["$", "a$", "$/", "a$.b"])]
    #[case("a${}b a${SUBNET a$1b a$$b", &["ab", "aSUBNET", "a<1>b", "a<$>b"])]
    #[case("$SUBNETS ${no name}", &["", "no", "name}"])]
    fn as_go_has_them(#[case] command: &str, #[case] expected: &[&str]) {
        let value = |name: &str| match name {
            "SUBNET" => "10.1.2.0/24".to_owned(),
            "PUBLIC_IP" => "1.2.3.4".to_owned(),
            "SPACED" => "a b".to_owned(),
            "1" | "$" => format!("<{name}>"),
            _ => String::new(),
        };
        assert_eq!(CommandLine::new(command).unwrap().words(value), expected);
    }

    #[test]
    fn no_word_is_no_command() {
        assert_eq!(CommandLine::new(""), None);
        assert_eq!(CommandLine::new(" \n"), None);
    }
}
