//! Netlink messages as bytes, for what no crate reads for us, or not as fast.

/// `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
const FLAGS_DUMP: u16 = 0x301;

/// Asks for a list; `body` as the kind of message has it.
pub(super) fn dump_request(kind: u16, body: &[u8]) -> Vec<u8> {
    let len = HEADER + body.len();
    let mut request = Vec::with_capacity(len);
    #[expect(clippy::cast_possible_truncation, reason = "some bytes")]
    request.extend((len as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(FLAGS_DUMP.to_ne_bytes());
    request.resize(HEADER, 0);
    request.extend(body);
    request
}

/// The first message: its type, what it holds, and what follows it.
pub(super) fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..len)?;
    let next = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// The first of that type.
pub(super) fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}
