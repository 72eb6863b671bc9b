//! pcapng, as far as packets with comments need it: <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>.

use std::io::{self, Write};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

/// By which a reader tells the byte order, ours.
const MAGIC: u32 = 0x1a2b_3c4d;
const VERSION: [u16; 2] = [1, 0];
/// "Not known."
const SECTION_LENGTH: u64 = u64::MAX;

const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const EPB_VERDICT: u16 = 7;

/// Times in units of 10^-9 s.
const NANOSECONDS: u8 = 9;
/// `epb_flags`, bits 0 and 1.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
/// `epb_verdict`: what follows is a `TC_ACT_*`.
const EBPF_TC: u8 = 1;

/// `LINKTYPE_ETHERNET`, and `LINKTYPE_RAW`: no header before that of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum LinkType {
    Ethernet = 1,
    Raw = 101,
}

/// What is written of one packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    /// Place among the interfaces written so far.
    pub(super) interface: u32,
    /// Nanoseconds since 1970.
    pub(super) time: u64,
    pub(super) bytes: &'a [u8],
    /// Its length, of which `bytes` may be only a part.
    pub(super) len: u32,
    pub(super) inbound: bool,
    /// TC action.
    pub(super) action: i8,
    pub(super) comment: &'a str,
}

/// Writes whole blocks: what ends between two calls is a valid file.
#[derive(Debug)]
pub(super) struct Writer<W> {
    out: W,
    interfaces: u32,
}

impl<W: Write> Writer<W> {
    /// Begins the file. `program`: who writes it.
    pub(super) fn new(out: W, program: &str) -> io::Result<Self> {
        let mut writer = Self { out, interfaces: 0 };
        let mut body = MAGIC.to_ne_bytes().to_vec();
        for number in VERSION {
            body.extend(number.to_ne_bytes());
        }
        body.extend(SECTION_LENGTH.to_ne_bytes());
        option(&mut body, SHB_USERAPPL, program.as_bytes());
        writer.block(SECTION_HEADER, body)?;
        Ok(writer)
    }

    /// Returns its place.
    pub(super) fn interface(&mut self, name: &str, kind: LinkType) -> io::Result<u32> {
        let mut body = (kind as u16).to_ne_bytes().to_vec();
        body.extend([0; 2]);
        // As long as packets are.
        body.extend(0_u32.to_ne_bytes());
        option(&mut body, IF_NAME, name.as_bytes());
        option(&mut body, IF_TSRESOL, &[NANOSECONDS]);
        self.block(INTERFACE, body)?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    pub(super) fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let [high, low] = [packet.time >> 32, packet.time & 0xffff_ffff];
        let caught = packet.bytes.len() as u64;
        let mut body = packet.interface.to_ne_bytes().to_vec();
        for word in [high, low, caught, u64::from(packet.len)] {
            // Each is less than 2^32.
            body.extend(u32::try_from(word).unwrap_or(u32::MAX).to_ne_bytes());
        }
        padded(&mut body, packet.bytes);
        option(&mut body, OPT_COMMENT, packet.comment.as_bytes());
        let direction = if packet.inbound { INBOUND } else { OUTBOUND };
        option(&mut body, EPB_FLAGS, &direction.to_ne_bytes());
        let action = i64::from(packet.action).to_ne_bytes();
        option(&mut body, EPB_VERDICT, &[&[EBPF_TC][..], &action].concat());
        self.block(ENHANCED_PACKET, body)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// `body` ends with options.
    fn block(&mut self, kind: u32, mut body: Vec<u8>) -> io::Result<()> {
        option(&mut body, OPT_END, &[]);
        let too_long = |_| io::Error::other("a block longer than 4 GiB");
        let len = u32::try_from(body.len() + 12).map_err(too_long)?;
        let mut block = Vec::with_capacity(body.len() + 12);
        for word in [kind, len] {
            block.extend(word.to_ne_bytes());
        }
        block.extend(body);
        block.extend(len.to_ne_bytes());
        self.out.write_all(&block)
    }
}

/// A value that is longer than an option can be is cut off.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend(code.to_ne_bytes());
    body.extend(len.to_ne_bytes());
    padded(body, value.get(..usize::from(len)).unwrap_or_default());
}

/// Everything begins at a multiple of four bytes.
fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind and body of each block.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |bytes: &[u8]| u32::from_ne_bytes(bytes[..4].try_into().unwrap());
        let mut blocks = Vec::new();
        while !file.is_empty() {
            let (kind, len) = (word(file), word(&file[4..]) as usize);
            assert_eq!(len % 4, 0);
            assert_eq!(word(&file[len - 4..]) as usize, len, "the length again");
            blocks.push((kind, file[8..len - 4].to_vec()));
            file = &file[len..];
        }
        blocks
    }

    fn contains(body: &[u8], part: &[u8]) -> bool {
        body.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn a_file_is_a_section_its_interfaces_and_their_packets() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, "me").unwrap();
        assert_eq!(writer.interface("eth0", LinkType::Ethernet).unwrap(), 0);
        assert_eq!(writer.interface("wg0", LinkType::Raw).unwrap(), 1);
        let packet = Packet {
            interface: 1,
            time: 0x1_0000_0002,
            bytes: &[1, 2, 3, 4, 5],
            len: 1500,
            inbound: true,
            action: -1,
            comment: "passed",
        };
        writer.packet(&packet).unwrap();
        let blocks = blocks(&file);
        let kinds: Vec<u32> = blocks.iter().map(|block| block.0).collect();
        assert_eq!(
            kinds,
            [SECTION_HEADER, INTERFACE, INTERFACE, ENHANCED_PACKET]
        );
        assert!(contains(&blocks[0].1, b"me"));
        assert_eq!(blocks[1].1[..2], 1_u16.to_ne_bytes());
        assert!(contains(&blocks[1].1, b"eth0"));
        assert_eq!(blocks[2].1[..2], 101_u16.to_ne_bytes());
        let words: Vec<u32> = blocks[3].1[..20]
            .chunks(4)
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(words, [1, 1, 2, 5, 1500]);
        assert_eq!(blocks[3].1[20..28], [1, 2, 3, 4, 5, 0, 0, 0]);
        assert!(contains(&blocks[3].1, b"passed"));
    }
}
