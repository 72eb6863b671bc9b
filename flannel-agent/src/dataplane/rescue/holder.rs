//! Who has the port that we need.

use std::fs;

use crate::node::mark::is_anchor;
use crate::node::net::{Kind, Netlink};

/// In words, for the error message.
pub(crate) async fn find(net: &Netlink, port: u16) -> String {
    let links = net.links().await.unwrap_or_default();
    let device = links
        .iter()
        .find(|link| matches!(link.kind, Kind::Vxlan { port: Some(p), .. } if p == port));
    if let Some(anchor) = device.filter(|device| is_anchor(device)) {
        return format!(
            "{}, since another network of this node has --gro=anchor: give this one the same",
            anchor.name
        );
    }
    if let Some(device) = device {
        return format!("the kernel vxlan device {}", device.name);
    }
    process(port).unwrap_or_else(|| "somebody else".to_owned())
}

/// The process that has it, in words.
pub(crate) fn process(port: u16) -> Option<String> {
    let table = fs::read_to_string("/proc/thread-self/net/udp").unwrap_or_default();
    let inode = inode_of(&table, port)?;
    Some(process_with(inode).unwrap_or_else(|| "a process".to_owned()))
}

/// The socket's inode from `/proc/net/udp`: address and port in hex in the second column, inode in the tenth.
fn inode_of(table: &str, port: u16) -> Option<u64> {
    let port = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let held = columns.get(1)?.ends_with(&port);
        // 0: a socket of the kernel itself.
        let inode = columns.get(9)?.parse().ok()?;
        (held && inode != 0).then_some(inode)
    })
}

fn process_with(inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let holder = processes
        .filter(|entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|n| n.parse::<u32>().is_ok())
        })
        .find(|process| {
            let fds = fs::read_dir(process.path().join("fd"));
            fds.into_iter().flatten().flatten().any(|fd| {
                fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
            })
        })?;
    let name = fs::read_to_string(holder.path().join("comm")).unwrap_or_default();
    let pid = holder.file_name();
    Some(format!("process {} (pid {})", name.trim(), pid.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  301: 00000000:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 0
  302: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0000000000000000 0
";

    #[test]
    fn finds_the_inode_by_port() {
        assert_eq!(inode_of(TABLE, 8472), Some(4711));
        assert_eq!(inode_of(TABLE, 4789), None, "the kernel's own");
        assert_eq!(inode_of(TABLE, 1), None);
    }

    #[test]
    fn finds_this_process() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let table = fs::read_to_string("/proc/thread-self/net/udp").unwrap();
        let process = inode_of(&table, port).and_then(process_with).unwrap();
        assert!(
            process.contains(&format!("(pid {})", std::process::id())),
            "{process}"
        );
    }
}
