//! The bytes of nfnetlink: requests and answers, as far as chains and rules are concerned
//! (`linux/netfilter/nf_tables.h`).

use std::io;

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
const NFTABLES: u16 = 10 << 8;
const NEW_TABLE: u16 = NFTABLES;
const DEL_TABLE: u16 = NFTABLES | 2;
const NEW_CHAIN: u16 = NFTABLES | 3;
const GET_CHAIN: u16 = NFTABLES | 4;
const DEL_CHAIN: u16 = NFTABLES | 5;
const NEW_RULE: u16 = NFTABLES | 6;
const GET_RULE: u16 = NFTABLES | 7;
const DEL_RULE: u16 = NFTABLES | 8;
const NEW_GENERATION: u16 = NFTABLES | 15;
const GET_GENERATION: u16 = NFTABLES | 16;

/// `linux/netlink.h`
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
/// Bits of an attribute's type that are no part of it.
const FLAGS: u16 = 0xc000;

const NLMSGHDR: usize = 16;
const NFGENMSG: usize = 4;
const NLATTR: usize = 4;

/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and `NFTA_RULE_TABLE` alike.
const TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const HOOK_NUMBER: u16 = 1;
const GENERATION_ID: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
/// `NF_DROP` of `linux/netfilter.h`.
const NF_DROP: u32 = 0;

/// Whose packets a table sees (`NFPROTO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Ipv4,
    /// IPv4 and IPv6.
    Inet,
    Other,
}

impl Family {
    const fn of(byte: u8) -> Self {
        match byte {
            2 => Self::Ipv4,
            1 => Self::Inet,
            _ => Self::Other,
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Inet => 1,
            Self::Other => 0,
        }
    }
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Request(Vec<u8>);

impl Request {
    pub(super) fn chain(family: Family, table: &str, name: &str) -> Self {
        Self::new(
            GET_CHAIN,
            REQUEST,
            family,
            &[(TABLE, table), (CHAIN_NAME, name)],
        )
    }

    pub(super) fn chains() -> Self {
        Self::new(GET_CHAIN, REQUEST | DUMP, Family::Other, &[])
    }

    pub(super) fn rules(family: Family, table: &str, chain: &str) -> Self {
        let names = [(TABLE, table), (RULE_CHAIN, chain)];
        Self::new(GET_RULE, REQUEST | DUMP, family, &names)
    }

    pub(super) fn all_rules() -> Self {
        Self::new(GET_RULE, REQUEST | DUMP, Family::Other, &[])
    }

    pub(super) fn generation() -> Self {
        Self::new(GET_GENERATION, REQUEST, Family::Other, &[])
    }

    fn new(kind: u16, flags: u16, family: Family, names: &[(u16, &str)]) -> Self {
        let mut bytes = vec![0; NLMSGHDR];
        bytes.extend([family.byte(), 0, 0, 0]);
        for (attribute, name) in names {
            let text = [name.as_bytes(), &[0]].concat();
            let len = u16::try_from(NLATTR + text.len()).unwrap_or(u16::MAX);
            bytes.extend(len.to_ne_bytes());
            bytes.extend(attribute.to_ne_bytes());
            bytes.extend(&text);
            bytes.resize(aligned(bytes.len()), 0);
        }
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self(bytes)
    }

    /// Whether the answer may be many messages, with an end of its own.
    pub(super) fn is_dump(&self) -> bool {
        half(&self.0, 6).is_some_and(|flags| flags & DUMP == DUMP)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One message of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    kind: u16,
    family: Family,
    attributes: Vec<u8>,
}

/// Takes the messages out of what one system call returned; returns whether a dump is at its end.
///
/// # Errors
/// The error that the kernel answers with, or bytes that are no messages.
pub(super) fn read(mut bytes: &[u8], to: &mut Vec<Answer>) -> io::Result<bool> {
    while !bytes.is_empty() {
        let cut = || io::Error::new(io::ErrorKind::InvalidData, "a message that is cut off");
        let len = word(bytes, 0).ok_or_else(cut)? as usize;
        let kind = half(bytes, 4).ok_or_else(cut)?;
        let body = bytes.get(NLMSGHDR..len).ok_or_else(cut)?;
        match kind {
            // An error of 0 is an acknowledgement.
            ERROR | DONE => match word(body, 0).map_or(0, u32::cast_signed) {
                0 => return Ok(true),
                errno => return Err(io::Error::from_raw_os_error(-errno)),
            },
            _ if body.len() >= NFGENMSG => to.push(Answer {
                kind,
                family: Family::of(body[0]),
                attributes: body[NFGENMSG..].to_vec(),
            }),
            _ => {}
        }
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
    }
    Ok(false)
}

/// `NF_INET_PRE_ROUTING`, `NF_INET_FORWARD`, `NF_INET_POST_ROUTING`
const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const POSTROUTING: u32 = 4;

/// A chain that packets enter by themselves, or that others jump to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub family: Family,
    pub table: String,
    pub name: String,
    /// `NF_INET_*` and priority; `None`: only jumped to.
    pub hook: Option<(u32, i32)>,
    /// Sees the first packet of each connection alone.
    pub translates: bool,
    /// What no rule decides about is dropped.
    pub drops: bool,
}

impl Chain {
    /// Whether it drops what is forwarded, as far as no rule decides otherwise.
    #[must_use]
    pub fn drops_forwarded(&self) -> bool {
        let forwards = self.hook.is_some_and(|(hook, _)| hook == FORWARD);
        forwards && self.drops && self.family != Family::Other
    }

    /// Whether packets that the node forwards enter it by themselves, each of them.
    #[must_use]
    pub fn sees_forwarded(&self) -> bool {
        let hook = self.hook.map(|(hook, _)| hook);
        let forwards = hook.is_some_and(|hook| [PREROUTING, FORWARD, POSTROUTING].contains(&hook));
        forwards && !self.translates && self.family != Family::Other
    }

    pub(super) fn parse(answer: &Answer) -> Option<Self> {
        if answer.kind != NEW_CHAIN {
            return None;
        }
        let attributes = Attributes(&answer.attributes);
        let hook = attributes.get(CHAIN_HOOK).map(Attributes).and_then(|hook| {
            let priority = hook.number(HOOK_PRIORITY)?.cast_signed();
            Some((hook.number(HOOK_NUMBER)?, priority))
        });
        Some(Self {
            family: answer.family,
            table: attributes.text(TABLE)?,
            name: attributes.text(CHAIN_NAME)?,
            hook,
            translates: attributes.text(CHAIN_TYPE).as_deref() == Some("nat"),
            drops: attributes.number(CHAIN_POLICY) == Some(NF_DROP),
        })
    }
}

/// A rule, not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub of: Touched,
    attributes: Vec<u8>,
}

impl Rule {
    pub(super) fn parse(answer: Answer) -> Option<Self> {
        Some(Self {
            of: Touched::parse(&answer).filter(|_| answer.kind == NEW_RULE)?,
            attributes: answer.attributes,
        })
    }

    /// What it consists of, in order: names of the kernel's, and their attributes.
    pub fn expressions(&self) -> impl Iterator<Item = Expression<'_>> {
        let list = Attributes(&self.attributes).get(RULE_EXPRESSIONS);
        let elements = Attributes(list.unwrap_or_default()).all();
        elements.filter_map(|(_, element)| {
            let element = Attributes(element);
            let name = element.get(EXPRESSION_NAME)?;
            Some(Expression {
                name: std::str::from_utf8(name).ok()?.trim_end_matches('\0'),
                data: element.get(EXPRESSION_DATA).unwrap_or_default(),
            })
        })
    }

    /// Whether it names a chain, as a rule does that jumps to it.
    #[must_use]
    pub fn names(&self, chain: &str) -> bool {
        let text = [chain.as_bytes(), &[0]].concat();
        self.attributes.windows(text.len()).any(|part| part == text)
    }
}

/// A part of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expression<'a> {
    pub name: &'a str,
    data: &'a [u8],
}

impl Expression<'_> {
    /// One of its numbers.
    #[must_use]
    pub fn number(&self, attribute: u16) -> Option<u32> {
        Attributes(self.data).number(attribute)
    }

    /// One of its numbers of a byte.
    #[must_use]
    pub fn byte(&self, attribute: u16) -> Option<u8> {
        Attributes(self.data).get(attribute)?.first().copied()
    }

    /// Whether it has that attribute at all.
    #[must_use]
    pub fn has(&self, attribute: u16) -> bool {
        Attributes(self.data).get(attribute).is_some()
    }
}

pub(super) fn generation(answer: &Answer) -> Option<u32> {
    let attributes = Attributes(&answer.attributes);
    let is_one = answer.kind == NEW_GENERATION;
    attributes.number(GENERATION_ID).filter(|_| is_one)
}

/// What a message is about: a table, or a chain of it, itself or its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    pub family: Family,
    pub table: String,
    pub chain: Option<String>,
}

impl Touched {
    pub(super) fn parse(answer: &Answer) -> Option<Self> {
        let attributes = Attributes(&answer.attributes);
        let chain = match answer.kind {
            NEW_TABLE | DEL_TABLE => None,
            NEW_CHAIN | DEL_CHAIN => Some(attributes.text(CHAIN_NAME)?),
            NEW_RULE | DEL_RULE => Some(attributes.text(RULE_CHAIN)?),
            _ => return None,
        };
        Some(Self {
            family: answer.family,
            table: attributes.text(TABLE)?,
            chain,
        })
    }

    /// Whether it is this chain, or without a chain this table.
    pub fn is(&self, family: Family, table: &str, chain: Option<&str>) -> bool {
        self.family == family && self.table == table && self.chain.as_deref() == chain
    }
}

/// A list of attributes.
struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    fn all(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut bytes = self.0;
        std::iter::from_fn(move || {
            let len = usize::from(half(bytes, 0)?);
            let kind = half(bytes, 2)? & !FLAGS;
            let value = bytes.get(NLATTR..len)?;
            bytes = bytes.get(aligned(len)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    fn get(&self, wanted: u16) -> Option<&'a [u8]> {
        let mut all = Attributes(self.0).all();
        all.find_map(|(kind, value)| (kind == wanted).then_some(value))
    }

    fn text(&self, wanted: u16) -> Option<String> {
        let bytes = self.get(wanted)?;
        let text = bytes.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// nf_tables' numbers are in network order.
    fn number(&self, wanted: u16) -> Option<u32> {
        let bytes = self.get(wanted)?.first_chunk()?;
        Some(u32::from_be_bytes(*bytes))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

const fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(NLATTR + value.len()).unwrap();
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(NLMSGHDR + body.len()).unwrap();
        let head = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body];
        head.concat()
    }

    /// FORWARD of `ip filter` with a policy, as the kernel describes it.
    fn forward(policy: u32) -> Vec<u8> {
        let hook = [
            attribute(HOOK_NUMBER, &2u32.to_be_bytes()),
            attribute(HOOK_PRIORITY, &(-5i32).to_be_bytes()),
        ];
        let body = [
            vec![2, 0, 0, 9],
            attribute(TABLE, b"filter\0"),
            attribute(CHAIN_NAME, b"FORWARD\0"),
            attribute(CHAIN_HOOK | 0x8000, &hook.concat()),
            attribute(CHAIN_POLICY, &policy.to_be_bytes()),
        ];
        message(NEW_CHAIN, &body.concat())
    }

    #[test]
    fn chains_and_their_policies_are_read() {
        let mut answers = Vec::new();
        let bytes = [forward(0), forward(1), message(DONE, &[0; 4])].concat();
        assert!(read(&bytes, &mut answers).unwrap());
        let chains: Vec<_> = answers.iter().filter_map(Chain::parse).collect();
        let expected = |drops| Chain {
            family: Family::Ipv4,
            table: "filter".to_owned(),
            name: "FORWARD".to_owned(),
            hook: Some((2, -5)),
            translates: false,
            drops,
        };
        assert_eq!(chains, [expected(true), expected(false)]);
        let touched = Touched::parse(&answers[0]).unwrap();
        assert!(touched.is(Family::Ipv4, "filter", Some("FORWARD")));
        assert!(!touched.is(Family::Ipv4, "filter", None));
    }

    #[test]
    fn rules_are_read_part_by_part() {
        let part = |name: &str, data: &[u8]| {
            let inside = [
                attribute(EXPRESSION_NAME, name.as_bytes()),
                attribute(EXPRESSION_DATA | 0x8000, data),
            ];
            attribute(1 | 0x8000, &inside.concat())
        };
        let parts = [
            part("quota\0", &attribute(1, &7u32.to_be_bytes())),
            part("counter\0", &[]),
        ];
        let body = [
            vec![1, 0, 0, 9],
            attribute(TABLE, b"mine\0"),
            attribute(RULE_CHAIN, b"forward\0"),
            attribute(RULE_EXPRESSIONS | 0x8000, &parts.concat()),
        ];
        let mut answers = Vec::new();
        read(&message(NEW_RULE, &body.concat()), &mut answers).unwrap();
        let rule = Rule::parse(answers.remove(0)).unwrap();
        let [quota, counter] = rule.expressions().collect::<Vec<_>>().try_into().unwrap();
        assert_eq!((quota.name, counter.name), ("quota", "counter"));
        assert_eq!((quota.number(1), quota.number(2)), (Some(7), None));
        assert!(quota.has(1) && !counter.has(1));
    }

    #[test]
    fn the_kernels_errors_are_errors() {
        let refused = message(ERROR, &(-libc::EPERM).to_ne_bytes());
        let error = read(&refused, &mut Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert!(read(&message(ERROR, &[0; 4]), &mut Vec::new()).unwrap());
    }

    #[test]
    fn what_is_cut_off_is_an_error_or_nothing() {
        let whole = forward(0);
        for len in 1..whole.len() {
            assert!(read(&whole[..len], &mut Vec::new()).is_err(), "{len}");
        }
        let answer = |attributes: &[u8]| Answer {
            kind: NEW_CHAIN,
            family: Family::Ipv4,
            attributes: attributes.to_vec(),
        };
        let attributes = &whole[NLMSGHDR + NFGENMSG..];
        for len in 0..attributes.len() {
            let cut = answer(&attributes[..len]);
            assert!(Chain::parse(&cut).is_none_or(|chain| chain.name == "FORWARD"));
            let _ = Touched::parse(&cut);
        }
    }

    #[test]
    fn a_request_names_table_and_chain() {
        let request = Request::rules(Family::Ipv4, "nat", "A");
        assert!(request.is_dump() && !Request::generation().is_dump());
        let mut answers = Vec::new();
        assert!(!read(request.bytes(), &mut answers).unwrap());
        let attributes = Attributes(&answers[0].attributes);
        assert_eq!(attributes.text(TABLE).unwrap(), "nat");
        assert_eq!(attributes.text(RULE_CHAIN).unwrap(), "A");
    }
}
