//! The hops of a path, as traceroute sees them.

use std::net::Ipv4Addr;

use crate::host::Host;
use crate::wait::{self, SOON};

/// Who answered for each TTL; `None` where nobody did. UDP probes, one per hop.
#[track_caller]
pub fn hops(from: &(impl Host + ?Sized), to: Ipv4Addr) -> Vec<Option<Ipv4Addr>> {
    let seconds = (SOON * wait::patience()).as_secs();
    let text = from.exec(&format!("traceroute -n -q 1 -w {seconds} -m 8 -N 1 {to}"));
    // " 1  10.244.1.1  0.036 ms"
    text.lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .collect()
}
