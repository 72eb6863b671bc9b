//! The older kind of iptables ("legacy"), asked without the tool (`linux/netfilter_ipv4/ip_tables.h`).

use std::io;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Protocol, Socket, Type};

use super::NetError;

const IPT_SO_GET_INFO: libc::c_int = 64;
const IPT_SO_GET_ENTRIES: libc::c_int = 65;
/// `XT_TABLE_MAXNAMELEN`
const NAME: usize = 32;
/// `struct ipt_getinfo`: name, hooks, an entry and an underflow for each of five hooks, count, bytes.
const INFO: usize = NAME + 4 + 20 + 20 + 4 + 4;
const UNDERFLOWS: usize = NAME + 4 + 20;
const BYTES: usize = INFO - 4;
/// `struct ipt_get_entries` begins with name and size, and its entries are aligned to eight bytes.
const ENTRIES: usize = NAME + 8;
/// In `struct ipt_entry`: where its target begins.
const TARGET_OFFSET: usize = 88;
/// Behind `struct xt_entry_target` (size, name, revision) comes a standard target's verdict, or an error target's name.
const TARGET: usize = 32;
/// `-NF_DROP - 1`
const DROP: i32 = -1;
/// `NF_INET_FORWARD`
const FORWARD: usize = 2;

/// Whether a table is there. To ask for one that is not would load a module and put its hooks in place.
#[must_use]
pub fn has_table(name: &str) -> bool {
    std::fs::read_to_string("/proc/thread-self/net/ip_tables_names")
        .is_ok_and(|tables| tables.lines().any(|table| table == name))
}

/// Whether the policy of FORWARD is DROP; not without a table `filter`.
///
/// # Errors
/// Without CAP_NET_ADMIN and CAP_NET_RAW.
pub fn forward_drops() -> Result<bool, NetError> {
    if !has_table("filter") {
        return Ok(false);
    }
    let table = Table::read("filter").map_err(|e| NetError::io("read iptables' filter", &e))?;
    Ok(table.policy(FORWARD) == Some(DROP))
}

/// Whether a table has a chain of this name; not without the table.
///
/// # Errors
/// As [`forward_drops`].
pub fn has_chain(table: &str, chain: &str) -> Result<bool, NetError> {
    if !has_table(table) {
        return Ok(false);
    }
    let read = Table::read(table);
    let read = read.map_err(|e| NetError::io(format!("read iptables' {table}"), &e))?;
    Ok(read.has_chain(chain))
}

/// A table as the kernel gives it.
struct Table {
    info: Vec<u8>,
    entries: Vec<u8>,
}

impl Table {
    fn read(name: &str) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::IPV4,
            Type::RAW,
            Some(Protocol::from(libc::IPPROTO_RAW)),
        )?;
        let named = |len: usize| {
            let mut buffer = vec![0; len];
            buffer[..name.len()].copy_from_slice(name.as_bytes());
            buffer
        };
        // Somebody may change it between the two questions (EAGAIN: the size is another).
        for _ in 0..10 {
            let mut info = named(INFO);
            get(&socket, IPT_SO_GET_INFO, &mut info)?;
            let bytes = number(&info, BYTES).unwrap_or(0);
            let mut entries = named(ENTRIES + bytes as usize);
            entries[NAME..NAME + 4].copy_from_slice(&bytes.to_ne_bytes());
            match get(&socket, IPT_SO_GET_ENTRIES, &mut entries) {
                Ok(()) => {
                    entries.drain(..ENTRIES);
                    return Ok(Self { info, entries });
                }
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from(io::ErrorKind::WouldBlock))
    }

    /// The verdict at the end of a hook's own chain.
    fn policy(&self, hook: usize) -> Option<i32> {
        let entry = number(&self.info, UNDERFLOWS + 4 * hook)? as usize;
        let target = self.target(entry)?;
        number(&self.entries, target + TARGET).map(u32::cast_signed)
    }

    /// A chain of a user begins with an error target that has its name.
    fn has_chain(&self, chain: &str) -> bool {
        let mut entry = 0;
        while let Some(target) = self.target(entry) {
            let name = self.entries.get(target + TARGET..).unwrap_or_default();
            if name.starts_with(&[chain.as_bytes(), &[0]].concat()) {
                return true;
            }
            match half(&self.entries, entry + TARGET_OFFSET + 2) {
                Some(next) if next > 0 => entry += usize::from(next),
                _ => return false,
            }
        }
        false
    }

    fn target(&self, entry: usize) -> Option<usize> {
        Some(entry + usize::from(half(&self.entries, entry + TARGET_OFFSET)?))
    }
}

fn get(socket: &Socket, option: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
    let mut len = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads and writes at most `len` bytes, which are the buffer's.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    match failed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: usize = 112;

    /// An entry without matches whose target says `payload`.
    fn entry(payload: &[u8]) -> Vec<u8> {
        let len = ENTRY + TARGET + payload.len().next_multiple_of(8);
        let mut bytes = vec![0; len];
        let half = |value: usize| u16::try_from(value).unwrap().to_ne_bytes();
        bytes[TARGET_OFFSET..][..2].copy_from_slice(&half(ENTRY));
        bytes[TARGET_OFFSET + 2..][..2].copy_from_slice(&half(len));
        bytes[ENTRY + TARGET..][..payload.len()].copy_from_slice(payload);
        bytes
    }

    fn table(policy: i32) -> Table {
        let entries = [
            entry(&policy.to_ne_bytes()),
            entry(b"FLANNEL-FWD\0"),
            entry(&(-5i32).to_ne_bytes()),
        ];
        let mut info = vec![0; INFO];
        info[UNDERFLOWS + 4 * FORWARD..][..4].copy_from_slice(&0u32.to_ne_bytes());
        Table {
            info,
            entries: entries.concat(),
        }
    }

    #[test]
    fn the_policy_is_the_verdict_at_the_end() {
        assert_eq!(table(DROP).policy(FORWARD), Some(DROP));
        assert_eq!(table(-2).policy(FORWARD), Some(-2));
    }

    #[test]
    fn chains_are_found_by_their_whole_name() {
        let table = table(DROP);
        assert!(table.has_chain("FLANNEL-FWD"));
        assert!(!table.has_chain("FLANNEL") && !table.has_chain("DOCKER"));
    }

    #[test]
    fn damaged_tables_say_nothing() {
        let whole = table(DROP);
        for len in 0..ENTRY {
            let cut = Table {
                info: whole.info.clone(),
                entries: whole.entries[..len].to_vec(),
            };
            assert_eq!(cut.policy(FORWARD), None);
            assert!(!cut.has_chain("FLANNEL-FWD"));
        }
    }
}
