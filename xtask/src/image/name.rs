//! The image's name, as container runtimes complete it.

use std::str::FromStr;

/// `registry/repository:tag`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) full: String,
    pub(super) tag: String,
}

impl FromStr for Name {
    type Err = String;

    /// As Docker, containerd and kubelet do: `flannel-ebpf` is `docker.io/library/flannel-ebpf:latest`.
    fn from_str(given: &str) -> Result<Self, String> {
        let last = given.rfind('/').map_or(0, |slash| slash + 1);
        let (repository, tag) = match given[last..].split_once(':') {
            Some((name, tag)) => (&given[..last + name.len()], tag),
            None => (given, "latest"),
        };
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let mut words = repository.split('/');
        let host = words.next().unwrap_or_default();
        let is_host =
            repository.contains('/') && (host.contains(['.', ':']) || host == "localhost");
        let host_well = host.chars().all(|c| allowed(c) || (is_host && c == ':'));
        let words_well = words.all(|word| !word.is_empty() && word.chars().all(allowed));
        let tag_well = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if host.is_empty()
            || !host_well
            || !words_well
            || tag.is_empty()
            || !tag.chars().all(tag_well)
        {
            return Err(format!(
                "{given:?} is no name of an image: REPOSITORY[:TAG], for example registry.example.com/flannel-ebpf:1.0"
            ));
        }
        let before = match (is_host, repository.contains('/')) {
            (true, _) => "",
            (false, true) => "docker.io/",
            (false, false) => "docker.io/library/",
        };
        Ok(Self {
            full: format!("{before}{repository}:{tag}"),
            tag: tag.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        let full = |given: &str| given.parse::<Name>().unwrap().full;
        assert_eq!(
            full("flannel-ebpf"),
            "docker.io/library/flannel-ebpf:latest"
        );
        assert_eq!(
            full("flannel-ebpf:1.0"),
            "docker.io/library/flannel-ebpf:1.0"
        );
        assert_eq!(full("me/flannel-ebpf"), "docker.io/me/flannel-ebpf:latest");
        assert_eq!(full("localhost/f:A"), "localhost/f:A");
        assert_eq!(full("reg.example:5000/a/f"), "reg.example:5000/a/f:latest");
        assert_eq!("a:5000/f:t".parse::<Name>().unwrap().tag, "t");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for given in [
            "",
            ":1",
            "a:",
            "Upper",
            "a//b",
            "a/",
            "a b",
            "a@sha256:00",
            "a:b/c:d:e",
        ] {
            let error = given.parse::<Name>().unwrap_err();
            assert!(error.contains(&format!("{given:?}")), "{error}");
        }
    }
}
