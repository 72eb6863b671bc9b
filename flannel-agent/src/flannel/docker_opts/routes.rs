//! Whether the kernel's main routing table sends a network to a gateway.
//!
//! Read from `/proc/net/route` (Linux `fib_trie.c`, `fib_route_seq_show`): no socket, no privileges.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The gateway of the route to exactly `network`.
pub(super) fn gateway(table: &str, network: Ipv4Net) -> Option<Ipv4Addr> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let destination = address(fields.next()?)?;
        let gateway = address(fields.next()?)?;
        let mask = address(fields.nth(4)?)?;
        let same = destination == network.network() && mask == network.netmask();
        (same && !gateway.is_unspecified()).then_some(gateway)
    })
}

/// The kernel prints the address as a number in the machine's byte order, while it holds it in
/// network byte order.
fn address(hex: &str) -> Option<Ipv4Addr> {
    let number = u32::from_str_radix(hex, 16).ok()?;
    Some(Ipv4Addr::from(number.to_ne_bytes()))
}
