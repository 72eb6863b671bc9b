//! The paths of a file that begin at the crate's root or at the file itself, made absolute.

use super::lexer::{Token, tokens};

/// A path from the crate's root, and the line it is on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) names: Vec<String>,
    pub(super) line: usize,
}

/// `module` is where the file is in the crate.
pub(super) fn paths(source: &str, module: &[String]) -> Vec<Path> {
    let mut reader = Reader {
        tokens: tokens(source),
        at: 0,
        module: module.to_vec(),
        found: Vec::new(),
    };
    reader.read();
    reader.found
}

struct Reader<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    /// Of the file, and of the inline modules around the place we are at.
    module: Vec<String>,
    found: Vec<Path>,
}

impl Reader<'_> {
    fn text(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", |t| t.text)
    }

    fn read(&mut self) {
        // Open braces; those of inline modules have a name more in the path.
        let mut braces = Vec::new();
        while self.at < self.tokens.len() {
            match self.text(0) {
                "mod" if self.text(2) == "{" => {
                    let name = self.text(1).to_owned();
                    self.module.push(name);
                    braces.push(true);
                    self.at += 3;
                }
                "{" => {
                    braces.push(false);
                    self.at += 1;
                }
                "}" => {
                    if braces.pop() == Some(true) {
                        self.module.pop();
                    }
                    self.at += 1;
                }
                // `use<'a, T>` is a bound, not an import.
                "use" if self.text(1) != "<" => {
                    self.at += 1;
                    self.tree(&[]);
                }
                "crate" | "super" | "self" if self.text(1) == "::" => self.path(),
                // A path with another beginning: what follows is no beginning.
                "::" => self.at += 2,
                _ => self.at += 1,
            }
        }
    }

    fn path(&mut self) {
        let line = self.tokens[self.at].line;
        let mut names = vec![self.text(0).to_owned()];
        self.at += 1;
        while self.text(0) == "::"
            && self
                .text(1)
                .starts_with(|c: char| c.is_alphabetic() || c == '_')
        {
            names.push(self.text(1).to_owned());
            self.at += 2;
        }
        self.keep(&names, line);
    }

    /// One tree of a `use`, behind `prefix`; ends before the comma, brace or semicolon behind it.
    fn tree(&mut self, prefix: &[String]) {
        let mut names = prefix.to_vec();
        let line = self.tokens.get(self.at).map_or(0, |t| t.line);
        loop {
            match self.text(0) {
                "{" => {
                    self.at += 1;
                    while !matches!(self.text(0), "}" | "") {
                        let before = self.at;
                        self.tree(&names);
                        // What is no tree is passed over: rustc says what is wrong with it.
                        if self.text(0) == "," || self.at == before {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "as" => self.at += 2,
                "," | "}" | ";" | "" => break,
                "::" | "*" => self.at += 1,
                name => {
                    names.push(name.to_owned());
                    self.at += 1;
                }
            }
        }
        self.keep(&names, line);
    }

    fn keep(&mut self, names: &[String], line: usize) {
        let ups = names.iter().take_while(|name| *name == "super").count();
        let base = match names.first().map(String::as_str) {
            Some("crate") => &[],
            Some("self") => &self.module[..],
            // Rust's own check says what is wrong with more of them than there are modules.
            Some("super") => &self.module[..self.module.len().saturating_sub(ups)],
            _ => return,
        };
        let rest = names.iter().skip(ups.max(1)).filter(|name| *name != "self");
        let names = base.iter().chain(rest).cloned().collect();
        self.found.push(Path { names, line });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<String> {
        let module = ["a".to_owned(), "b".to_owned()];
        let paths = paths(source, &module).into_iter();
        paths.map(|path| path.names.join("::")).collect()
    }

    #[test]
    fn every_way_to_name_a_module_is_read() {
        for (source, names) in [
            ("use crate::x;", &["x"][..]),
            (
                "pub(crate) use crate::x::{self, y::Z, w as v};",
                &["x", "x::y::Z", "x::w"],
            ),
            ("use super::c::{D, E as F};", &["a::c::D", "a::c::E"]),
            ("use self::c::*; use std::fmt;", &["a::b::c"]),
            ("use crate::{x, y::{z, w}};", &["x", "y::z", "y::w"]),
            ("fn f() -> crate::x::Y { super::g(); }", &["x::Y", "a::g"]),
            (
                "mod tests { use super::*; use crate::x::y; } use super::c;",
                &["a::b", "x::y", "a::c"],
            ),
            ("fn f() { if a { b } } use super::c;", &["a::c"]),
            ("pub(in crate::x) fn f() {} $crate::y!()", &["x", "y"]),
            ("std::x::crate_y(); self.x(); Self::y()", &[]),
            (
                "fn f() -> impl A + use<> { super::g(); b } use super::c;",
                &["a::g", "a::c"],
            ),
        ] {
            assert_eq!(found(source), names, "{source}");
        }
    }
}
