//! The subnet file, `/run/flannel/subnet.env`: what the CNI plugin reads, and where the next run finds its subnet.

use std::fmt;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context;
use ipnet::Ipv4Net;

use crate::base::files;

/// flanneld's default, too: CNI plugins look there.
pub const DEFAULT_PATH: &str = "/run/flannel/subnet.env";

/// The contents of the subnet file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    pub network: Ipv4Net,
    /// This node's subnet. Its first host address is what the file says.
    pub subnet: Ipv4Net,
    /// For pods: what fits into a tunnel packet.
    pub mtu: u32,
    /// Whether the node translates pod addresses, so that the CNI plugin must not.
    pub ip_masq: bool,
}

impl fmt::Display for SubnetEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first_host = Ipv4Addr::from_bits(self.subnet.network().to_bits() | 1);
        writeln!(f, "FLANNEL_NETWORK={}", self.network)?;
        writeln!(
            f,
            "FLANNEL_SUBNET={first_host}/{}",
            self.subnet.prefix_len()
        )?;
        writeln!(f, "FLANNEL_MTU={}", self.mtu)?;
        writeln!(f, "FLANNEL_IPMASQ={}", self.ip_masq)
    }
}

impl SubnetEnv {
    /// Replaces the file at `path` as a whole; creates its folder when missing.
    ///
    /// # Errors
    /// When the folder or the file cannot be written; the old file is then still there.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        files::replace_in_new_folder(path, self.to_string().as_bytes()).with_context(|| {
            format!(
                "cannot write the subnet file {}: make its folder writable or choose another with --subnet-file",
                path.display()
            )
        })
    }
}

/// What an earlier run, ours or flanneld's, left in the subnet file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Previous {
    pub network: Option<Ipv4Net>,
    pub subnet: Option<Ipv4Net>,
}

/// Reads the subnet file. A missing file is an empty one.
///
/// # Errors
/// When the file is there and cannot be read as text.
pub fn read(path: &Path) -> anyhow::Result<Previous> {
    Ok(parse(&text(path)?.unwrap_or_default()))
}

/// What the subnet file says; `None` without one.
pub(crate) fn text(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| {
            format!(
                "cannot read the subnet file {}: correct its permissions, or delete it to take any free subnet",
                path.display()
            )
        }),
    }
}

/// Whether the file is as it is written for `env`.
pub(crate) fn is_written(path: &Path, env: &SubnetEnv) -> bool {
    fs::read(path).is_ok_and(|text| text == env.to_string().as_bytes())
}

/// What the text of a subnet file says.
pub fn parse(text: &str) -> Previous {
    Previous {
        network: only_cidr(text, "FLANNEL_NETWORK"),
        subnet: only_cidr(text, "FLANNEL_SUBNET"),
    }
}

/// The one CIDR in the variable's comma list, as a network address. Bad entries are skipped as in
/// flannel; of several good ones none can be said to be ours.
fn only_cidr(text: &str, name: &str) -> Option<Ipv4Net> {
    let mut cidrs = value(text, name)?
        .split(',')
        .filter_map(|entry| entry.trim().parse::<Ipv4Net>().ok());
    match (cidrs.next(), cidrs.next()) {
        (Some(cidr), None) => Some(cidr.trunc()),
        _ => None,
    }
}

/// The last assignment to `name`, in dotenv syntax: `export`, quotes and comments allowed.
pub(crate) fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (key, value) = line.split_once('=')?;
            (key.trim() == name).then(|| unquote(value.trim()))
        })
        .next_back()
}

fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some((inner, _)) = value
            .strip_prefix(quote)
            .and_then(|rest| rest.split_once(quote))
        {
            return inner;
        }
    }
    value.split(" #").next().unwrap_or_default().trim()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    pub(crate) fn env() -> SubnetEnv {
        SubnetEnv {
            network: "10.244.0.0/16".parse().unwrap(),
            subnet: "10.244.1.0/24".parse().unwrap(),
            mtu: 1450,
            ip_masq: true,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn sf_to_the_byte_and_readable_by_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/flannel/subnet.env");
        env().write(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        assert_eq!(mode(&path), 0o644);
        assert_eq!(mode(path.parent().unwrap()), 0o755);
    }

    #[test]
    fn sf_replaces_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.env");
        fs::write(
            &path,
            "something much longer than what follows\n".repeat(100),
        )
        .unwrap();
        let env = SubnetEnv {
            ip_masq: false,
            ..env()
        };
        env.write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), env.to_string());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn sf_what_others_made_of_it_is_not_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.env");
        assert!(!is_written(&path, &env()), "there is none");
        env().write(&path).unwrap();
        assert!(is_written(&path, &env()));
        let whole = fs::read_to_string(&path).unwrap();
        for other in [
            whole.replace("1450", "1400"),
            whole[..whole.len() - 1].to_owned(),
            String::new(),
        ] {
            fs::write(&path, other).unwrap();
            assert!(!is_written(&path, &env()));
        }
    }

    #[test]
    fn sf_reads_back_the_subnet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.env");
        assert_eq!(read(&path).unwrap(), Previous::default());
        env().write(&path).unwrap();
        assert_eq!(
            read(&path).unwrap(),
            Previous {
                network: Some(env().network),
                subnet: Some(env().subnet),
            }
        );
    }

    #[test]
    fn sf_errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"\xff\xfe").unwrap();
        let error = format!("{:#}", read(&file).unwrap_err());
        assert!(error.contains(file.to_str().unwrap()), "{error}");
        let below_a_file = file.join("subnet.env");
        let error = format!("{:#}", env().write(&below_a_file).unwrap_err());
        assert!(error.contains(below_a_file.to_str().unwrap()), "{error}");
    }

    #[rstest]
    #[case::plain("FLANNEL_SUBNET=10.1.2.1/24", Some("10.1.2.0/24"))]
    #[case::sf1_bad_one_skipped("FLANNEL_SUBNET=bad,10.1.2.1/24,10.1.2.1/40", Some("10.1.2.0/24"))]
    #[case::sf1_only_bad_ones("FLANNEL_SUBNET=bad,10.1.2.1", None)]
    #[case::more_than_one("FLANNEL_SUBNET=10.1.2.1/24,10.1.3.1/24", None)]
    #[case::empty("FLANNEL_SUBNET=", None)]
    #[case::missing("FLANNEL_MTU=1450", None)]
    #[case::commented("# FLANNEL_SUBNET=10.1.2.1/24", None)]
    #[case::last_counts(
        "FLANNEL_SUBNET=10.1.2.1/24\nFLANNEL_SUBNET=10.1.3.1/24",
        Some("10.1.3.0/24")
    )]
    #[case::dotenv(
        "\r\n export FLANNEL_SUBNET = \"10.1.2.1/24\" # ours\r\n",
        Some("10.1.2.0/24")
    )]
    #[case::single_quotes("FLANNEL_SUBNET='10.1.2.1/24'", Some("10.1.2.0/24"))]
    #[case::comment_behind("FLANNEL_SUBNET=10.1.2.1/24 # ours", Some("10.1.2.0/24"))]
    fn sf_reads_dotenv(#[case] text: &str, #[case] expected: Option<&str>) {
        let expected = expected.map(|cidr| cidr.parse().unwrap());
        assert_eq!(parse(text).subnet, expected);
    }

    proptest! {
        #[test]
        fn fz_subnet_file_never_panics(text in "[^\\x00]{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn fz_subnet_line_never_panics(value in ".{0,60}") {
            let _ = parse(&format!("FLANNEL_SUBNET={value}"));
        }
    }
}
