//! Rust source as words and signs, without comments and literals: as much as imports take.

/// A word, `::`, or one character; and the line it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    pub(super) line: usize,
}

pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut all = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            '\'' => character(rest),
            _ if is_word(first) => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                let word = &rest[..end];
                match literal_behind(word, &rest[end..]) {
                    Some(len) => end + len,
                    None => {
                        all.push(Token { text: word, line });
                        end
                    }
                }
            }
            _ if first.is_whitespace() => first.len_utf8(),
            _ => {
                let len = if rest.starts_with("::") {
                    2
                } else {
                    first.len_utf8()
                };
                let text = &rest[..len];
                all.push(Token { text, line });
                len
            }
        };
        line += rest[..len].matches('\n').count();
        rest = &rest[len..];
    }
    all
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length of the string that `word` is the prefix of: `r#"…"#`, `b"…"`, `c"…"`, `b'…'`.
fn literal_behind(word: &str, rest: &str) -> Option<usize> {
    match word {
        "r" | "br" | "cr" => {
            let hashes = rest.len() - rest.trim_start_matches('#').len();
            let inner = rest[hashes..].strip_prefix('"')?;
            let end = format!("\"{}", &rest[..hashes]);
            let len = inner.find(&end).map_or(inner.len(), |at| at + end.len());
            Some(hashes + 1 + len)
        }
        "b" | "c" if rest.starts_with('"') => Some(string(rest)),
        "b" if rest.starts_with('\'') => Some(character(rest)),
        _ => None,
    }
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character, or the tick of a lifetime.
fn character(rest: &str) -> usize {
    let mut inner = rest[1..].char_indices();
    match inner.next() {
        Some((_, '\\')) => {
            // What is escaped may be a tick.
            inner.next();
            inner
                .find(|(_, c)| *c == '\'')
                .map_or(rest.len(), |(at, _)| at + 2)
        }
        Some((_, c)) if rest[1 + c.len_utf8()..].starts_with('\'') => c.len_utf8() + 2,
        _ => 1,
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> String {
        let all: Vec<_> = tokens(source).iter().map(|token| token.text).collect();
        all.join(" ")
    }

    #[test]
    fn comments_and_literals_are_left_out() {
        for (source, left) in [
            ("a // crate::b\nc", "a c"),
            ("a /* x /* y */ crate::b */ c", "a c"),
            (r#"f("crate::a \" crate::b", c)"#, "f ( , c )"),
            (r##"f(r#"crate::a " b"#, br"x", b"y", c)"##, "f ( , , , c )"),
            (r"f('\'', 'x', '\u{1f}', b'\\', '{')", "f ( , , , , )"),
            ("fn f<'a>(x: &'a str)", "fn f < a > ( x : & a str )"),
            ("a::b :: c", "a :: b :: c"),
        ] {
            assert_eq!(words(source), left, "{source}");
        }
    }

    #[test]
    fn lines_are_counted() {
        let last = tokens("a\n/*\n\n*/ \"x\ny\"\nz").pop();
        assert_eq!(last, Some(Token { text: "z", line: 6 }));
    }
}
