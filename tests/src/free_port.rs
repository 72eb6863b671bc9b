//! Ports for servers that are ended and started again.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports below the kernel's ephemeral range: nobody gets one by chance while its server is down.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A port that nobody listens on, another one at each call.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Test processes that run beside each other start at different places.
    let start = u16::try_from(std::process::id() % u32::from(count)).expect("less than a u16");
    loop {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(turn < count, "no free port in {PORTS:?}");
        let port = PORTS.start + (start + turn) % count;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
