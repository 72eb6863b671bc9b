//! TCP's own account of packets that overtook one another.

use std::fs;

use crate::job::TcpCounters;

/// Counters of the namespace this process is in.
pub(crate) fn read() -> TcpCounters {
    let netstat = fs::read_to_string("/proc/self/net/netstat").expect("/proc/self/net/netstat");
    let snmp = fs::read_to_string("/proc/self/net/snmp").expect("/proc/self/net/snmp");
    let ext = |name| counter(&netstat, "TcpExt:", name);
    TcpCounters {
        reordered: ext("TCPSACKReorder") + ext("TCPRenoReorder") + ext("TCPTSReorder"),
        out_of_order: ext("TCPOFOQueue"),
        retransmitted: counter(&snmp, "Tcp:", "RetransSegs"),
    }
}

pub(crate) fn since(before: TcpCounters) -> TcpCounters {
    let now = read();
    TcpCounters {
        reordered: now.reordered - before.reordered,
        out_of_order: now.out_of_order - before.out_of_order,
        retransmitted: now.retransmitted - before.retransmitted,
    }
}

/// Two lines a table: names, then values.
fn counter(text: &str, table: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with(table));
    let names = lines.next().unwrap_or_default().split(' ');
    let values = lines.next().unwrap_or_default().split(' ');
    names
        .zip(values)
        .find_map(|(n, value)| (n == name).then(|| value.parse().expect("a counter")))
        .unwrap_or_else(|| panic!("the kernel has no counter {table} {name}"))
}
