//! As much of DER as a certificate is made of (X.690).

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;

/// These bytes are no DER, or not what is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged;

/// What is left of a sequence of elements.
pub(super) struct Der<'a>(pub(super) &'a [u8]);

/// One element.
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    /// With tag and length.
    pub(super) whole: &'a [u8],
}

impl<'a> Der<'a> {
    pub(super) fn expect(&mut self, wanted: u8) -> Result<&'a [u8], Damaged> {
        self.expect_element(wanted).map(|element| element.content)
    }

    pub(super) fn expect_element(&mut self, wanted: u8) -> Result<Element<'a>, Damaged> {
        let element = self.element()?;
        element
            .filter(|element| element.tag == wanted)
            .ok_or(Damaged)
    }

    /// Tag and content of the next element; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Damaged> {
        let element = self.element()?;
        Ok(element.map(|element| (element.tag, element.content)))
    }

    /// The next element; `None` at the end. Tags above 30 are in no certificate.
    pub(super) fn element(&mut self) -> Result<Option<Element<'a>>, Damaged> {
        let all = self.0;
        let [tag, first, rest @ ..] = all else {
            return if all.is_empty() {
                Ok(None)
            } else {
                Err(Damaged)
            };
        };
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            // The low bits: in how many bytes the length is.
            0x81..=0x84 => {
                let (bytes, rest) = rest
                    .split_at_checked(usize::from(first & 0x7f))
                    .ok_or(Damaged)?;
                let length = bytes
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                (length, rest)
            }
            _ => return Err(Damaged),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(Damaged)?;
        self.0 = rest;
        Ok(Some(Element {
            tag: *tag,
            content,
            whole: &all[..all.len() - rest.len()],
        }))
    }
}

/// A SEQUENCE of `content`.
pub(super) fn sequence(content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let head = match *length {
        [] => vec![SEQUENCE, 0],
        [short @ 0..=0x7f] => vec![SEQUENCE, short],
        _ => {
            // The low bits say how many bytes of length follow, and a length has eight at most.
            let bytes = u8::try_from(length.len()).unwrap_or(u8::MAX);
            [&[SEQUENCE, 0x80 | bytes], length].concat()
        }
    };
    [&*head, content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_read_as_it_was_made() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x10000] {
            let content = vec![5; length];
            let made = sequence(&content);
            let mut der = Der(&made);
            let element = der.expect_element(SEQUENCE).unwrap();
            assert_eq!((element.content, element.whole), (&*content, &*made));
            assert!(der.next().unwrap().is_none());
        }
    }
}
