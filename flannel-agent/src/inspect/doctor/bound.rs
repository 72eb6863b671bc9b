//! Sockets, as `/proc/net` lists them.

/// Second column: local address and port (of a raw socket the protocol) in hexadecimal.
pub(super) fn is_bound(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let local = line.split_whitespace().nth(1).unwrap_or_default();
        let number = local.rsplit(':').next().unwrap_or_default();
        u16::from_str_radix(number, 16) == Ok(port)
    })
}
