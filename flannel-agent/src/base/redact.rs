//! URLs without the logins in them.

/// A URL without the user and password in it, which we do not use.
#[must_use]
pub fn without_login(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    format!("{scheme}{host}{path}")
}

/// The same for each of several with commas in between.
#[must_use]
pub fn without_logins(urls: &str) -> String {
    let urls: Vec<_> = urls.split(',').map(without_login).collect();
    urls.join(",")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("http://user:pass@10.0.0.1:2379", "http://10.0.0.1:2379")]
    #[case("http://10.0.0.1:2379", "http://10.0.0.1:2379")]
    #[case("user:p@ss@host:2379", "host:2379")]
    #[case("https://host:2379/a@b", "https://host:2379/a@b")]
    fn logins_are_taken_out(#[case] url: &str, #[case] left: &str) {
        assert_eq!(without_login(url), left);
    }
}
