//! What a certificate says that its key may be used for: basic constraints, key usage and the extended one (RFC 5280, 4.2.1.3, .9
//! and .12).
//!
//! webpki looks at the last only after it has refused a certificate that may sign others, shows none to anybody, and asks of a root
//! nothing at all.

use super::der::{
    BIT_STRING, BOOLEAN, Damaged, Der, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE,
};

/// Object identifiers, as DER writes them.
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// `[0]` and `[3] EXPLICIT` of TBSCertificate.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// As DER writes it: the first one with extensions.
const VERSION_3: u8 = 2;

/// Of the first byte of a key usage: bit 5, counted from the highest.
const CERT_SIGN: u8 = 0x80 >> 5;

/// Whether this certificate may sign others: Go asks it of a root, too (`CheckSignatureFrom`). Versions without extensions cannot say,
/// and may.
pub(super) fn may_sign(certificate: &[u8]) -> bool {
    signs(certificate).unwrap_or(false)
}

fn signs(certificate: &[u8]) -> Result<bool, Damaged> {
    if !is_version_3(certificate)? {
        return Ok(true);
    }
    let Some(constraints) = extension(certificate, BASIC_CONSTRAINTS)? else {
        return Ok(false);
    };
    let is_authority = matches!(
        Der(Der(constraints).expect(SEQUENCE)?).next()?,
        Some((BOOLEAN, [0xff]))
    );
    let usage = extension(certificate, KEY_USAGE)?;
    let bits = usage
        .map(|usage| Der(usage).expect(BIT_STRING))
        .transpose()?;
    // The byte in front: how many bits of the last one do not count. Go takes a usage of no bits for none.
    let may = match bits {
        Some([_, bits @ ..]) if bits.iter().any(|bits| *bits != 0) => {
            bits.first().is_some_and(|bits| bits & CERT_SIGN != 0)
        }
        _ => true,
    };
    Ok(is_authority && may)
}

fn is_version_3(certificate: &[u8]) -> Result<bool, Damaged> {
    let mut certificate = Der(Der(certificate).expect(SEQUENCE)?);
    let mut signed = Der(certificate.expect(SEQUENCE)?);
    match signed.next()? {
        Some((VERSION, version)) => match Der(version).expect(INTEGER)? {
            [version] => Ok(*version >= VERSION_3),
            _ => Err(Damaged),
        },
        _ => Ok(false),
    }
}

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
    let Some(value) = extension(certificate, EXTENDED_KEY_USAGE)? else {
        return Ok(None);
    };
    let mut usages = Der(Der(value).expect(SEQUENCE)?);
    let mut found = Vec::new();
    while let Some((_, usage)) = usages.next()? {
        found.push(usage);
    }
    Ok(Some(found))
}

/// The value of one extension; `None`: there is none.
fn extension<'a>(certificate: &'a [u8], id: &[u8]) -> Result<Option<&'a [u8]>, Damaged> {
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
        if extension.expect(OBJECT_IDENTIFIER)? != id {
            continue;
        }
        return match extension.next()? {
            // Whether it is critical.
            Some((BOOLEAN, _)) => extension.expect(OCTET_STRING).map(Some),
            Some((OCTET_STRING, value)) => Ok(Some(value)),
            _ => Err(Damaged),
        };
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
        of_id(EXTENDED_KEY_USAGE, critical, &element(SEQUENCE, &usages))
    }

    fn of_id(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
        let parts = [
            element(OBJECT_IDENTIFIER, id),
            if critical {
                element(BOOLEAN, &[0xff])
            } else {
                Vec::new()
            },
            element(OCTET_STRING, value),
        ];
        element(SEQUENCE, &parts.concat())
    }

    fn of_version(version: Option<u8>, extensions: &[Vec<u8>]) -> Vec<u8> {
        let version = version.map(|it| element(VERSION, &element(INTEGER, &[it])));
        let extensions = element(EXTENSIONS, &element(SEQUENCE, &extensions.concat()));
        let signed = [
            version.unwrap_or_default(),
            element(INTEGER, &[7]),
            extensions,
        ];
        element(SEQUENCE, &element(SEQUENCE, &signed.concat()))
    }

    #[test]
    fn who_may_sign_others() {
        let constraints = |parts: &[u8]| of_id(BASIC_CONSTRAINTS, true, &element(SEQUENCE, parts));
        let authority = constraints(&element(BOOLEAN, &[0xff]));
        let usage = |bits: &[u8]| of_id(KEY_USAGE, true, &element(BIT_STRING, bits));
        let v3 = |extensions: &[Vec<u8>]| of_version(Some(VERSION_3), extensions);
        assert!(may_sign(&v3(std::slice::from_ref(&authority))));
        assert!(may_sign(&v3(&[authority.clone(), usage(&[1, 0x06])])));
        assert!(!may_sign(&v3(&[authority.clone(), usage(&[7, 0x80])])));
        assert!(may_sign(&v3(&[authority.clone(), usage(&[0])])));
        for (no_authority, why) in [
            (vec![], "it does not say"),
            (vec![constraints(&[])], "the default"),
            (vec![constraints(&element(BOOLEAN, &[0]))], "it says so"),
            (
                vec![constraints(&element(INTEGER, &[0]))],
                "but a length of paths",
            ),
            (vec![usage(&[1, 0x06])], "a usage alone"),
        ] {
            assert!(!may_sign(&v3(&no_authority)), "{why}");
        }
        assert!(may_sign(&of_version(None, &[])) && may_sign(&of_version(Some(1), &[])));
        let whole = v3(&[authority]);
        for length in 0..whole.len() {
            assert!(!may_sign(&whole[..length]), "{length}");
        }
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
