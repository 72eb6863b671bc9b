//! Versions of the CNI specification.

use crate::error::{CniError, Code};

/// All there are, oldest first.
pub(crate) const SUPPORTED: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// What a configuration without `cniVersion` is of.
pub(crate) const OLDEST: &str = SUPPORTED[0];
const NEWEST: &str = SUPPORTED[SUPPORTED.len() - 1];

/// What the binary says of itself to a person who starts it by hand.
pub(crate) fn about() -> String {
    format!(
        "CNI Plugin flannel version v{} of flannel-ebpf ({}/{})\nCNI protocol versions supported: {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        SUPPORTED.join(", ")
    )
}

/// The answer to VERSION.
pub(crate) fn answer() -> String {
    let supported = SUPPORTED.map(|version| format!("\"{version}\"")).join(",");
    format!("{{\"cniVersion\":\"{NEWEST}\",\"supportedVersions\":[{supported}]}}\n")
}

/// # Errors
/// If no plugin of ours speaks `version`.
pub(crate) fn check(version: &str) -> Result<(), CniError> {
    if SUPPORTED.contains(&version) {
        return Ok(());
    }
    let supported = SUPPORTED.map(|version| format!("\"{version}\"")).join(" ");
    Err(CniError::detailed(
        Code::IncompatibleVersion,
        "incompatible CNI versions",
        format!("config is {version:?}, plugin supports [{supported}]"),
    ))
}

/// # Errors
/// If `command` came into the specification after `version`, with `since`.
pub(crate) fn allows(version: &str, command: &str, since: &str) -> Result<(), CniError> {
    let place = |version| SUPPORTED.iter().position(|known| *known == version);
    if place(version) >= place(since) {
        return Ok(());
    }
    Err(CniError::new(
        Code::IncompatibleVersion,
        format!("config version does not allow {command}"),
    ))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn version_answers_as_the_go_plugin_does() {
        assert_eq!(
            answer(),
            "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"
        );
    }

    #[test]
    fn an_unknown_version_is_refused_with_the_known_ones() {
        let error = check("9.9.9").unwrap_err();
        assert_eq!(error.code(), 1);
        assert!(error.to_json().contains(
            r#""details": "config is \"9.9.9\", plugin supports [\"0.1.0\" \"0.2.0\" \"0.3.0\" \"0.3.1\" \"0.4.0\" \"1.0.0\" \"1.1.0\"]""#
        ));
    }

    #[rstest]
    #[case("0.3.1", "0.4.0", false)]
    #[case("0.4.0", "0.4.0", true)]
    #[case("1.0.0", "0.4.0", true)]
    #[case("1.0.0", "1.1.0", false)]
    #[case("1.1.0", "1.1.0", true)]
    fn commands_need_their_version(#[case] version: &str, #[case] since: &str, #[case] may: bool) {
        assert_eq!(allows(version, "CHECK", since).is_ok(), may);
    }
}
