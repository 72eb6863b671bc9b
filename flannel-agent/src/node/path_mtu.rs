//! What the way to other nodes carries, asked by packets that must not be fragmented: pings of full size.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use super::ping::{Answer, Ping, Pinger};

/// Every way carries it (RFC 791).
const SMALL: u32 = 68;

/// What became of the pings to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// It carries what it was asked for.
    Whole,
    /// A router on the way takes no more than so many bytes.
    Less(u32),
    /// Small pings are answered, large ones are not, and nobody says why.
    OnlySmall,
    /// Nobody answers pings there.
    Silent,
}

/// Pings each of `to` with IPv4 packets of `size` bytes.
///
/// # Errors
/// Without CAP_NET_RAW.
pub fn probe(to: &[Ipv4Addr], size: u32) -> io::Result<BTreeMap<Ipv4Addr, Found>> {
    let both = to
        .iter()
        .flat_map(|to| [SMALL, size].map(|size| Ping { to: *to, size }));
    let answers = Pinger::whole()?.ask(&both.collect::<Vec<_>>())?;
    let each = to.iter().zip(answers.chunks(2));
    Ok(each.map(|(to, said)| (*to, judge(said))).collect())
}

/// The answers to the small one and to the large one.
fn judge(said: &[Option<Answer>]) -> Found {
    match *said {
        [_, Some(Answer::Reply)] => Found::Whole,
        [_, Some(Answer::Less(mtu))] => Found::Less(mtu),
        [Some(_), None] => Found::OnlySmall,
        _ => Found::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_from_a_way_that_swallows_large_packets() {
        let (reply, less) = (Some(Answer::Reply), Some(Answer::Less(1400)));
        assert_eq!(judge(&[reply, reply]), Found::Whole);
        assert_eq!(judge(&[None, reply]), Found::Whole);
        assert_eq!(judge(&[None, less]), Found::Less(1400));
        assert_eq!(judge(&[reply, None]), Found::OnlySmall);
        assert_eq!(judge(&[None, None]), Found::Silent);
    }
}
