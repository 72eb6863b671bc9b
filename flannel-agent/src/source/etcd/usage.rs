//! What a certificate says that its key may be used for: the extended key usage (RFC 5280, 4.2.1.12).
//!
//! webpki looks at it only after it has refused a certificate that may sign others, and shows it to nobody.

/// Object identifiers, as DER writes them.
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];

const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `[3] EXPLICIT` of TBSCertificate.
const EXTENSIONS: u8 = 0xa3;

/// Whether a TLS server may show this certificate: one without the extension may be used for anything.
pub(super) fn may_serve(certificate: &[u8]) -> bool {
    match usages(certificate) {
        Ok(None) => true,
        Ok(Some(usages)) => usages
            .iter()
            .any(|usage| [ANY_USAGE, SERVER_AUTH].contains(usage)),
        Err(Damaged) => false,
    }
}

struct Damaged;

/// `None`: no such extension.
fn usages(certificate: &[u8]) -> Result<Option<Vec<&[u8]>>, Damaged> {
    let (mut outer, mut rest) = (Der(certificate), None);
    let mut certificate = Der(outer.expect(SEQUENCE)?);
    let mut signed = Der(certificate.expect(SEQUENCE)?);
    while let Some((tag, content)) = signed.next()? {
        if tag == EXTENSIONS {
            rest = Some(content);
        }
    }
    let Some(extensions) = rest else {
        return Ok(None);
    };
    let mut extensions = Der(Der(extensions).expect(SEQUENCE)?);
    while let Some((SEQUENCE, extension)) = extensions.next()? {
        let mut extension = Der(extension);
        if extension.expect(OBJECT_IDENTIFIER)? != EXTENDED_KEY_USAGE {
            continue;
        }
        let value = match extension.next()? {
            // Whether it is critical.
            Some((BOOLEAN, _)) => extension.expect(OCTET_STRING)?,
            Some((OCTET_STRING, value)) => value,
            _ => return Err(Damaged),
        };
        let mut usages = Der(Der(value).expect(SEQUENCE)?);
        let mut found = Vec::new();
        while let Some((_, usage)) = usages.next()? {
            found.push(usage);
        }
        return Ok(Some(found));
    }
    Ok(None)
}

/// What is left of a sequence of elements.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn expect(&mut self, wanted: u8) -> Result<&'a [u8], Damaged> {
        match self.next()? {
            Some((tag, content)) if tag == wanted => Ok(content),
            _ => Err(Damaged),
        }
    }

    /// Tag and content of the next element; `None` at the end. Tags above 30 are in no certificate.
    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Damaged> {
        let [tag, first, rest @ ..] = self.0 else {
            return if self.0.is_empty() {
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
        Ok(Some((*tag, content)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], content].concat()
    }

    fn extension(critical: bool, usages: &[&[u8]]) -> Vec<u8> {
        let usages: Vec<u8> = usages
            .iter()
            .flat_map(|usage| element(OBJECT_IDENTIFIER, usage))
            .collect();
        let parts = [
            element(OBJECT_IDENTIFIER, EXTENDED_KEY_USAGE),
            if critical {
                element(BOOLEAN, &[0xff])
            } else {
                Vec::new()
            },
            element(OCTET_STRING, &element(SEQUENCE, &usages)),
        ];
        element(SEQUENCE, &parts.concat())
    }

    fn certificate(extensions: &[Vec<u8>]) -> Vec<u8> {
        let extensions = element(EXTENSIONS, &element(SEQUENCE, &extensions.concat()));
        let serial = element(0x02, &[7; 300]);
        let signed = element(SEQUENCE, &[serial, extensions].concat());
        element(SEQUENCE, &[signed, element(SEQUENCE, &[])].concat())
    }

    #[test]
    fn a_server_may_show_what_names_it_or_nothing() {
        const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
        let other = element(
            SEQUENCE,
            &[element(OBJECT_IDENTIFIER, &[1]), element(OCTET_STRING, &[])].concat(),
        );
        assert!(may_serve(&certificate(&[])));
        assert!(may_serve(&certificate(std::slice::from_ref(&other))));
        for critical in [false, true] {
            let of = |usages: &[&[u8]]| certificate(&[other.clone(), extension(critical, usages)]);
            assert!(may_serve(&of(&[SERVER_AUTH])));
            assert!(may_serve(&of(&[CLIENT_AUTH, SERVER_AUTH])));
            assert!(may_serve(&of(&[ANY_USAGE])));
            assert!(!may_serve(&of(&[CLIENT_AUTH])));
            assert!(!may_serve(&of(&[])));
        }
    }

    #[test]
    fn a_damaged_one_serves_nobody() {
        let whole = certificate(&[extension(true, &[SERVER_AUTH])]);
        for length in 0..whole.len() {
            assert!(!may_serve(&whole[..length]), "{length}");
        }
        assert!(!may_serve(&[0x30, 0x80, 0, 0]), "of no definite length");
    }
}
