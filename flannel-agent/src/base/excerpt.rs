//! What others wrote, as it may stand in a message of ours.

/// A value of etcd may have 1.5 MiB, an annotation 256 KiB; a log line should not.
const SHOWN: usize = 80;

/// The beginning of `text`, or all of it where that is short.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_long_is_cut() {
        let long = "ä".repeat(SHOWN);
        assert_eq!(excerpt(&long), long);
        assert_eq!(excerpt(&format!("{long}b")), format!("{long}…"));
        assert_eq!(excerpt(""), "");
    }
}
