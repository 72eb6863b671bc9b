//! The hops of a path, as traceroute sees them.

use std::net::Ipv4Addr;

use crate::host::Host;
use crate::wait::{self, SOON};

/// Who answered for each TTL; `None` where nobody did. UDP probes, one per hop.
#[track_caller]
pub fn hops(from: &(impl Host + ?Sized), to: Ipv4Addr) -> Vec<Option<Ipv4Addr>> {
    between(from, to, 1, 8)
}

/// The same without asking those of whom nobody hears: `silent` hops follow the first `before`.
#[track_caller]
pub fn hops_around(
    from: &(impl Host + ?Sized),
    to: Ipv4Addr,
    before: u8,
    silent: u8,
) -> Vec<Option<Ipv4Addr>> {
    if silent == 0 {
        return hops(from, to);
    }
    let mut hops = match before {
        0 => Vec::new(),
        _ => between(from, to, 1, before),
    };
    hops.extend(between(from, to, before + silent + 1, 8));
    hops
}

#[track_caller]
fn between(
    from: &(impl Host + ?Sized),
    to: Ipv4Addr,
    first: u8,
    last: u8,
) -> Vec<Option<Ipv4Addr>> {
    let seconds = (SOON * wait::patience()).as_secs();
    let text = from.exec(&format!(
        "traceroute -n -q 1 -w {seconds} -f {first} -m {last} -N 1 {to}"
    ));
    // " 1  10.244.1.1  0.036 ms"
    text.lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .collect()
}
