//! Errors with their causes. Libraries often say only what was tried, and leave the reason to `source`.

use std::error::Error;

/// `text`, and behind it each cause from `source` inwards that it does not name yet.
pub(crate) fn append(mut text: String, mut source: Option<&(dyn Error + 'static)>) -> String {
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Self>>);

    #[test]
    fn each_cause_is_named_once() {
        let inner = Layer("no such file", None);
        let middle = Layer("no such file", Some(Box::new(inner)));
        let outer = Layer("cannot open", Some(Box::new(middle)));
        let text = append("cannot load".to_owned(), Some(&outer));
        assert_eq!(text, "cannot load: cannot open: no such file");
    }
}
