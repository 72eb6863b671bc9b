//! Kernel parameters under `/proc/sys`.
//!
//! `/proc/sys/net` shows the network namespace of the thread that opens it, whoever mounted `/proc`. So a container that may
//! not write to its own, which runtimes mount read-only unless it is privileged, may have the host's by another path.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::error::NetError;

/// Whether the kernel forwards IPv4.
pub const FORWARDING: &str = "net/ipv4/ip_forward";

/// A value that was changed, for whoever puts it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub key: String,
    pub old: String,
    pub new: String,
}

const OWN: &str = "/proc/sys";

/// Where a container finds the host's `/proc/sys/net`, by the name that other networks' manifests give it.
const OF_THE_HOST: &str = "/host/proc/sys";

fn path(key: &str) -> PathBuf {
    static PLACE: OnceLock<&str> = OnceLock::new();
    // The rest of /proc/sys is nobody's business, and is not mounted there.
    let place = if key.starts_with("net/") {
        PLACE.get_or_init(|| place(is_writable(OWN), is_writable(OF_THE_HOST)))
    } else {
        OWN
    };
    Path::new(place).join(key)
}

/// Which is used: the own one, unless only the other can be written to.
fn place(own: bool, of_the_host: bool) -> &'static str {
    if of_the_host && !own {
        OF_THE_HOST
    } else {
        OWN
    }
}

fn is_writable(place: &str) -> bool {
    let path = Path::new(place).join(FORWARDING);
    OpenOptions::new().write(true).open(path).is_ok()
}

/// Reads a parameter, written as its path below `/proc/sys` (device names have dots, so dots do not
/// separate). `None` if the kernel does not have it.
///
/// # Errors
/// If it is there and cannot be read.
pub fn read(key: &str) -> Result<Option<String>, NetError> {
    match std::fs::read_to_string(path(key)) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(NetError::io(format!("read the sysctl {key}"), &e)),
    }
}

/// Whether a parameter has the value, or can be set to it. One that the kernel does not have is missed by nobody.
///
/// # Errors
/// Why not, as in a container with a read-only `/proc/sys`.
pub fn may_be(key: &str, value: &str) -> Result<(), NetError> {
    match read(key)? {
        Some(old) if old != value => {
            let opened = OpenOptions::new().write(true).open(path(key));
            let failed =
                |e| NetError::io(format!("set the sysctl {key} to {value} (it is {old})"), &e);
            opened.map(drop).map_err(failed)
        }
        _ => Ok(()),
    }
}

/// Sets a parameter unless it has the value already; returns what changed. A parameter that the
/// kernel does not have (IPv6 built out, say) is left alone.
///
/// # Errors
/// If it is there and cannot be read or written, as in a container with a read-only `/proc/sys`.
pub fn set(key: &str, value: &str) -> Result<Option<Changed>, NetError> {
    let Some(old) = read(key)? else {
        return Ok(None);
    };
    if old == value {
        return Ok(None);
    }
    // An empty list is one line, too: a write of nothing does not reach the kernel.
    std::fs::write(path(key), format!("{value}\n"))
        .map_err(|e| NetError::io(format!("set the sysctl {key} to {value} (it is {old})"), &e))?;
    Ok(Some(Changed {
        key: key.to_owned(),
        old,
        new: value.to_owned(),
    }))
}

/// `net.ipv4.ip_local_port_range`: what the kernel takes source ports from, both ends inclusive.
///
/// # Errors
/// If it cannot be read or is not two port numbers.
pub fn local_port_range() -> Result<(u16, u16), NetError> {
    let key = "net/ipv4/ip_local_port_range";
    let text = read(key)?.unwrap_or_default();
    parse_range(&text).ok_or_else(|| NetError::Failed {
        action: format!("read the sysctl {key}"),
        reason: format!("{text:?} is not a range of ports"),
    })
}

/// `kernel.random.boot_id`: what tells one boot from another; empty if the kernel has none.
///
/// # Errors
/// If it is there and cannot be read.
pub fn boot_id() -> Result<String, NetError> {
    Ok(read("kernel/random/boot_id")?.unwrap_or_default())
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next(), ports.next()) {
        (Some(Ok(low)), Some(Ok(high)), None) if low <= high => Some((low, high)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges() {
        assert_eq!(parse_range("32768\t60999"), Some((32768, 60999)));
        assert_eq!(parse_range("1 2 3"), None);
        assert_eq!(parse_range("9 1"), None);
        assert_eq!(parse_range(""), None);
    }

    #[test]
    fn a_container_writes_where_it_may() {
        assert_eq!(place(true, true), OWN);
        assert_eq!(place(true, false), OWN);
        assert_eq!(place(false, true), OF_THE_HOST);
        assert_eq!(place(false, false), OWN, "it says what is missing");
    }

    #[test]
    fn a_parameter_the_kernel_lacks_is_left_alone() {
        let key = "net/ipv6/conf/no-such-device/disable_ipv6";
        assert_eq!(read(key).unwrap(), None);
        assert_eq!(set(key, "1").unwrap(), None);
    }
}
