//! What nobody but the datastore may see: passwords and keys, taken out of texts that people pass on.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::settings::flags::Flags;

/// Shorter ones are in every text by chance.
const SHORTEST: usize = 4;
/// Lines of a key file that are worth looking for.
const KEY_LINE: usize = 16;

/// The secrets of these settings, and what secrets look like anywhere.
#[derive(Debug)]
pub struct Secrets(Words);

struct Words(Vec<String>);

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    #[must_use]
    pub fn of(flags: &Flags) -> Self {
        let mut words = vec![flags.etcd_password.expose().to_owned()];
        let logins = flags.etcd_endpoints.split(',');
        words.extend(logins.filter_map(|url| {
            let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
            let login = authority.rsplit_once('@')?.0;
            Some(login.split_once(':')?.1.to_owned())
        }));
        let keys = [&flags.etcd_keyfile, &flags.remote_keyfile];
        let keys = keys.map(|file| std::fs::read_to_string(file).unwrap_or_default());
        let lines = keys.iter().flat_map(|key| key.lines().map(str::trim));
        words.extend(
            lines
                .filter(|line| line.len() >= KEY_LINE && !line.starts_with('-'))
                .map(str::to_owned),
        );
        words.retain(|word| word.len() >= SHORTEST);
        // A secret that is part of another must not leave the rest of it.
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        Self(Words(words))
    }

    /// The text with stars where secrets were.
    #[must_use]
    pub fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for word in &self.0.0 {
            text = text.replace(word.as_str(), STARS);
        }
        for pattern in PATTERNS.iter() {
            let hidden = |found: &Captures<'_>| format!("{}{STARS}{}", &found[1], &found[2]);
            text = pattern.replace_all(&text, hidden).into_owned();
        }
        text
    }
}

const STARS: &str = "***";

/// What is before a secret, and what is behind it.
static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let patterns = [
        // User and password in a URL.
        r#"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s@"']+(@)"#,
        // FLANNELD_ETCD_PASSWORD=…, --etcd-password …, "password": "…"
        r#"(?i)(password"?[ \t]*[=:][ \t]*"?|--etcd-password[ \t]+)[^\s"',}]+()"#,
        // Of a text that was cut, the end of a key may be missing, or its beginning.
        r"(?s)(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\z)",
        r"(\A)[A-Za-z0-9+/=\s]+(-----END [A-Z ]*PRIVATE KEY-----)",
    ];
    patterns.iter().filter_map(|p| Regex::new(p).ok()).collect()
});

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn secrets(arguments: &[&str]) -> Secrets {
        let command = Flags::augment_args(Command::new("flags").no_binary_name(true));
        let matches = command.try_get_matches_from(arguments).unwrap();
        Secrets::of(&Flags::from_arg_matches(&matches).unwrap())
    }

    #[test]
    fn every_pattern_is_a_pattern() {
        assert_eq!(PATTERNS.len(), 4);
    }

    #[test]
    fn known_secrets_and_what_looks_like_one_become_stars() {
        let key = tempfile::NamedTempFile::new().unwrap();
        let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC";
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        std::fs::write(key.path(), &pem).unwrap();
        let secrets = secrets(&[
            "--etcd-password=hunter22",
            "--etcd-endpoints=http://root:inurl77@h:1",
            &format!("--etcd-keyfile={}", key.path().display()),
        ]);
        for (text, hidden) in [
            ("x hunter22 y".to_owned(), "x *** y".to_owned()),
            ("was inurl77".to_owned(), "was ***".to_owned()),
            (format!("key {body}!"), "key ***!".to_owned()),
            (
                "at http://a:b@c/ and".to_owned(),
                "at http://***@c/ and".to_owned(),
            ),
            (
                "FLANNELD_ETCD_PASSWORD=qq z".to_owned(),
                "FLANNELD_ETCD_PASSWORD=*** z".to_owned(),
            ),
            (
                "--etcd-password qq".to_owned(),
                "--etcd-password ***".to_owned(),
            ),
            (
                r#"{"password":"qq","a":1}"#.to_owned(),
                r#"{"password":"***","a":1}"#.to_owned(),
            ),
            (
                "etcd-password = \"\"  # default".to_owned(),
                "etcd-password = \"\"  # default".to_owned(),
            ),
            ("nothing at all".to_owned(), "nothing at all".to_owned()),
        ] {
            assert_eq!(secrets.hide(&text), hidden);
        }
        let other = "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----";
        assert!(!secrets.hide(other).contains("abc"));
        for cut in [&other[..other.len() - 10], &other[32..]] {
            assert!(!secrets.hide(cut).contains("abc"), "{cut}");
        }
        assert_eq!(format!("{secrets:?}"), "Secrets(3 secrets)");
    }
}
