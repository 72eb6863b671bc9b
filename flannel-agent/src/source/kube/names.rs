//! The annotations' names, and the rules for their prefix (`--kube-annotation-prefix`).

/// Full names of flannel's annotations on a Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// `flannel.alpha.coreos.com/`, or with a part behind the slash, `x.y/p-`.
    prefix: String,
}

/// What flannel keeps in a Node's annotations. The rest of the name is the same under every prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// `"true"`: this Node is one of flannel's.
    Managed,
    BackendType,
    BackendData,
    PublicIp,
    /// By an admin: what `public-ip` has to say.
    PublicIpOverwrite,
    /// By an admin: `--public-ip`.
    NodePublicIp,
    /// Of IPv6, by a flanneld that was here before.
    PublicIpv6,
    BackendV6Data,
}

impl Name {
    /// Of IPv6, which we have not.
    pub(super) const V6: [Self; 2] = [Self::PublicIpv6, Self::BackendV6Data];

    const ALL: [Self; 8] = [
        Self::Managed,
        Self::BackendType,
        Self::BackendData,
        Self::PublicIp,
        Self::PublicIpOverwrite,
        Self::NodePublicIp,
        Self::PublicIpv6,
        Self::BackendV6Data,
    ];

    const fn rest(self) -> &'static str {
        match self {
            Self::Managed => "kube-subnet-manager",
            Self::BackendType => "backend-type",
            Self::BackendData => "backend-data",
            Self::PublicIp => "public-ip",
            Self::PublicIpOverwrite => "public-ip-overwrite",
            Self::NodePublicIp => "node-public-ip",
            Self::PublicIpv6 => "public-ipv6",
            Self::BackendV6Data => "backend-v6-data",
        }
    }
}

impl Names {
    /// By flannel's rules: at most one slash, which is added if there is none; a part behind it ends in a dash.
    ///
    /// # Errors
    /// Says what is wrong with `prefix`.
    pub fn new(prefix: &str) -> Result<Self, &'static str> {
        let (domain, rest) = prefix.split_once('/').unwrap_or((prefix, ""));
        if rest.contains('/') {
            return Err("more than one slash");
        }
        let plain = |text: &str| {
            let mut bytes = text.bytes();
            bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
        };
        let labels: Vec<&str> = domain.split('.').collect();
        if labels.len() < 2 || !labels.iter().all(|label| !label.is_empty() && plain(label)) {
            return Err("no domain name in lower case in front of the slash");
        }
        if !plain(rest) {
            return Err("other characters than a-z, 0-9, - and _ behind the slash");
        }
        let dash = if rest.is_empty() || rest.ends_with('-') {
            ""
        } else {
            "-"
        };
        Ok(Self {
            prefix: format!("{domain}/{rest}{dash}"),
        })
    }

    pub(super) fn full(&self, name: Name) -> String {
        format!("{}{}", self.prefix, name.rest())
    }

    /// Which of flannel's annotations `full` is.
    pub(super) fn of(&self, full: &str) -> Option<Name> {
        let rest = full.strip_prefix(&self.prefix)?;
        Name::ALL.into_iter().find(|name| name.rest() == rest)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/public-ip")]
    #[case("x.y", "x.y/public-ip")]
    #[case("x.y/", "x.y/public-ip")]
    #[case("x.y/p", "x.y/p-public-ip")]
    #[case("x.y/p-", "x.y/p-public-ip")]
    #[case("org9.com", "org9.com/public-ip")]
    #[case("org.com/9", "org.com/9-public-ip")]
    fn ku1_prefixes_and_the_names_they_make(#[case] prefix: &str, #[case] name: &str) {
        let names = Names::new(prefix).unwrap();
        assert_eq!(names.full(Name::PublicIp), name);
        assert_eq!(names.of(name), Some(Name::PublicIp));
        assert_eq!(names.of("flannel.alpha.coreos.com/other"), None);
    }

    #[rstest]
    #[case("")]
    #[case("org")]
    #[case("org/")]
    #[case("org/p")]
    #[case("Org.com")]
    #[case("org.com/P")]
    #[case("org.com/a/b")]
    #[case("org..com")]
    #[case(".com")]
    fn ku1_prefixes_that_are_refused(#[case] prefix: &str) {
        assert!(Names::new(prefix).is_err());
    }
}
