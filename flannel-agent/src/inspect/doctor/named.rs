//! Of those with the same trouble a few by name.

use std::fmt::Display;

const NAMED: usize = 3;

/// "A, B, C and 2 more"
pub(super) fn named(those: &[impl Display]) -> String {
    let first: Vec<String> = those.iter().take(NAMED).map(ToString::to_string).collect();
    let first = first.join(", ");
    match those.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_a_few_are_named() {
        assert_eq!(named(&[1, 2, 3, 4, 5]), "1, 2, 3 and 2 more");
        assert_eq!(named(&[1, 2, 3]), "1, 2, 3");
    }
}
