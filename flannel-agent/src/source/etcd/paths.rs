//! Where things are in etcd.

use crate::flannel::lease::{KeyError, SubnetKey};

/// The keys of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paths {
    /// Empty, or the prefix with a slash behind it.
    folder: String,
}

impl Paths {
    /// Joins as Go's `path.Join`: empty and `.` segments vanish, `..` takes the one before along.
    pub(super) fn new(prefix: &str) -> Self {
        let rooted = prefix.starts_with('/');
        let mut segments: Vec<&str> = Vec::new();
        for segment in prefix.split('/') {
            match segment {
                "" | "." => {}
                ".." if segments.last().is_some_and(|last| *last != "..") => {
                    segments.pop();
                }
                ".." if rooted => {}
                _ => segments.push(segment),
            }
        }
        let mut folder = String::from(if rooted { "/" } else { "" });
        for segment in segments {
            folder.push_str(segment);
            folder.push('/');
        }
        Self { folder }
    }

    /// Those of the network `name` below this one.
    pub(super) fn network(&self, name: &str) -> Self {
        Self {
            folder: format!("{}{name}/", self.folder),
        }
    }

    /// What all keys of all networks start with, a slash at the end.
    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    /// The network whose configuration has this key, if it is one with a name.
    pub(super) fn parse_network<'a>(&self, key: &'a str) -> Option<&'a str> {
        let name = key.strip_prefix(&self.folder)?.strip_suffix("/config")?;
        (!name.is_empty() && !name.contains('/')).then_some(name)
    }

    pub(super) fn config(&self) -> String {
        format!("{}config", self.folder)
    }

    /// What all lease keys start with. The slash at the end keeps us out of the way of `subnets-old`.
    pub(super) fn subnets(&self) -> String {
        format!("{}subnets/", self.folder)
    }

    pub(super) fn lease(&self, key: SubnetKey) -> String {
        format!("{}subnets/{key}", self.folder)
    }

    /// The subnets that a key under [`Paths::subnets`] stands for.
    pub(super) fn parse_lease(&self, key: &[u8]) -> Result<SubnetKey, KeyError> {
        let key = String::from_utf8_lossy(key);
        key.strip_prefix(&self.subnets()).unwrap_or(&key).parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/many/blue/config", Some("blue"))]
    #[case("/many/config", None)]
    #[case("/many//config", None)]
    #[case("/many/blue/subnets/10.1.1.0-24", None)]
    #[case("/many/blue/x/config", None)]
    #[case("/other/blue/config", None)]
    fn networks_are_known_by_their_configuration(#[case] key: &str, #[case] name: Option<&str>) {
        let paths = Paths::new("/many/");
        assert_eq!(paths.parse_network(key), name);
    }

    #[rstest]
    #[case("/coreos.com/network", "/coreos.com/network/config")]
    #[case("/coreos.com/network/", "/coreos.com/network/config")]
    #[case("//coreos.com//network//", "/coreos.com/network/config")]
    #[case("coreos.com/network", "coreos.com/network/config")]
    #[case("/a/./b/../c", "/a/c/config")]
    #[case("/../a", "/a/config")]
    #[case("../a/../../b", "../../b/config")]
    #[case("/", "/config")]
    #[case("", "config")]
    fn prefixes_join_as_in_go(#[case] prefix: &str, #[case] config: &str) {
        assert_eq!(Paths::new(prefix).config(), config);
    }

    #[test]
    fn er2_lease_key_to_the_byte() {
        let paths = Paths::new("/coreos.com/network");
        let key = "10.1.5.0-24".parse().unwrap();
        let path = "/coreos.com/network/subnets/10.1.5.0-24";
        assert_eq!(paths.lease(key), path);
        assert_eq!(paths.parse_lease(path.as_bytes()), Ok(key));
    }

    #[test]
    fn keys_that_are_no_leases() {
        let paths = Paths::new("/n");
        for key in [
            "/n/subnets/",
            "/n/subnets/a/10.1.5.0-24",
            "/n/subnets/\u{fffd}",
        ] {
            paths.parse_lease(key.as_bytes()).unwrap_err();
        }
        paths.parse_lease(b"/n/subnets/\xff").unwrap_err();
    }

    #[test]
    fn networks_below_the_prefix() {
        let paths = Paths::new("/coreos.com/network");
        let blue = paths.network("blue");
        assert_eq!(blue.config(), "/coreos.com/network/blue/config");
        assert_eq!(paths.parse_network(&blue.config()), Some("blue"));
        for key in [
            "/coreos.com/network/config",
            "/coreos.com/network/blue/subnets/10.1.5.0-24",
            "/coreos.com/network/a/b/config",
            "/other/blue/config",
        ] {
            assert_eq!(paths.parse_network(key), None, "{key}");
        }
    }

    proptest! {
        #[test]
        fn fz_prefix_and_key_never_panic(prefix in ".{0,40}", key in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Paths::new(&prefix).parse_lease(&key);
        }
    }
}
