//! What a certificate says that its key may be used for: the extended key usage (RFC 5280, 4.2.1.12).
//!
//! webpki looks at it only after it has refused a certificate that may sign others, and shows it to nobody.

use super::der::{BOOLEAN, Damaged, Der, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE};

/// Object identifiers, as DER writes them.
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// `[3] EXPLICIT` of TBSCertificate.
const EXTENSIONS: u8 = 0xa3;

/// Whether a TLS server may show this certificate: one without the extension may be used for anything.
pub(super) fn may_serve(certificate: &[u8]) -> bool {
    may(certificate, SERVER_AUTH)
}

/// The same of a TLS client.
pub(super) fn may_connect(certificate: &[u8]) -> bool {
    may(certificate, CLIENT_AUTH)
}

fn may(certificate: &[u8], wanted: &[u8]) -> bool {
    match usages(certificate) {
        Ok(None) => true,
        Ok(Some(usages)) => usages
            .iter()
            .any(|usage| [ANY_USAGE, wanted].contains(usage)),
        Err(Damaged) => false,
    }
}

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
            assert!(may_connect(&of(&[CLIENT_AUTH])) && may_connect(&of(&[ANY_USAGE])));
            assert!(!may_connect(&of(&[SERVER_AUTH])));
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
