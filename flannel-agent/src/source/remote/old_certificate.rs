//! Certificates of X.509 before version 3, which have no extensions: `openssl x509 -req` without a file of them makes version 1.
//!
//! webpki reads none. Go, and so a server of flannel 0.7, takes them from clients: a certificate that says nothing of what it is
//! for may be shown by anybody. It names no address, and signs no other.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore};
use webpki::RawPublicKeyEntity;

use crate::source::der::{
    BIT_STRING, Damaged, Der, GENERALIZED_TIME, INTEGER, SEQUENCE, UTC_TIME, sequence,
};

/// `[0] EXPLICIT` of TBSCertificate: without it the version is 1, which DER writes as 0.
const VERSION: u8 = 0xa0;
/// As DER writes it.
const VERSION_2: u8 = 1;

const DAY: i64 = 24 * 60 * 60;

/// What is in one.
pub(super) struct OldCertificate<'a> {
    /// What the issuer has signed.
    signed: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    issuer: &'a [u8],
    /// Seconds since 1970, both included.
    valid: (i64, i64),
    key: SubjectPublicKeyInfoDer<'a>,
}

impl<'a> OldCertificate<'a> {
    /// # Errors
    /// Of version 3, or no certificate.
    pub(super) fn parse(certificate: &'a [u8]) -> Result<Self, Damaged> {
        let mut outer = Der(certificate);
        let mut certificate = Der(outer.expect(SEQUENCE)?);
        let signed = certificate.expect_element(SEQUENCE)?;
        let algorithm = certificate.expect(SEQUENCE)?;
        // The byte in front: how many bits of the last one do not count.
        let Some((0, signature)) = certificate.expect(BIT_STRING)?.split_first() else {
            return Err(Damaged);
        };
        let mut fields = Der(signed.content);
        match fields.next()?.ok_or(Damaged)? {
            (VERSION, version) if matches!(Der(version).expect(INTEGER)?, [0..=VERSION_2]) => {
                fields.expect(INTEGER)?;
            }
            // The serial number.
            (INTEGER, _) => {}
            _ => return Err(Damaged),
        }
        if fields.expect(SEQUENCE)? != algorithm {
            return Err(Damaged);
        }
        let issuer = fields.expect(SEQUENCE)?;
        let mut validity = Der(fields.expect(SEQUENCE)?);
        let valid = (time(&mut validity)?, time(&mut validity)?);
        let _subject = fields.expect(SEQUENCE)?;
        let key = fields.expect_element(SEQUENCE)?.whole;
        Ok(Self {
            signed: signed.whole,
            algorithm,
            signature,
            issuer,
            valid,
            key: key.into(),
        })
    }

    /// Whether one of `roots` has signed it, and it is valid now. Those that others sign, which roots sign, are not looked for.
    pub(super) fn verify(
        &self,
        roots: &RootCertStore,
        algorithms: WebPkiSupportedAlgorithms,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < self.valid.0 {
            return Err(CertificateError::NotValidYet);
        }
        if now > self.valid.1 {
            return Err(CertificateError::Expired);
        }
        let mut issuers = roots.roots.iter();
        let issuers = issuers.by_ref().filter(|it| *it.subject == *self.issuer);
        let mut refusal = CertificateError::UnknownIssuer;
        for issuer in issuers {
            let key = sequence(&issuer.subject_public_key_info);
            let key = SubjectPublicKeyInfoDer::from(key);
            let mut fitting = algorithms.all.iter().copied();
            let fitting = fitting
                .by_ref()
                .filter(|it| *it.signature_alg_id() == *self.algorithm);
            if is_signed(&key, fitting, self.signed, self.signature) {
                return Ok(());
            }
            refusal = CertificateError::BadSignature;
        }
        Err(refusal)
    }

    /// Whether its key has signed `message`, as TLS 1.2 does: the scheme says nothing of the curve.
    pub(super) fn has_signed(
        &self,
        message: &[u8],
        by: &DigitallySignedStruct,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> bool {
        let mut mapping = algorithms.mapping.iter();
        let fitting = mapping.find(|(scheme, _)| *scheme == by.scheme);
        let fitting = fitting.map_or(&[][..], |(_, fitting)| fitting);
        is_signed(&self.key, fitting.iter().copied(), message, by.signature())
    }

    pub(super) fn key(&self) -> &SubjectPublicKeyInfoDer<'a> {
        &self.key
    }
}

fn is_signed<'a>(
    key: &SubjectPublicKeyInfoDer<'_>,
    mut algorithms: impl Iterator<Item = &'a dyn SignatureVerificationAlgorithm>,
    message: &[u8],
    signature: &[u8],
) -> bool {
    RawPublicKeyEntity::try_from(key)
        .is_ok_and(|key| algorithms.any(|it| key.verify_signature(it, message, signature).is_ok()))
}

/// Seconds since 1970. RFC 5280 (4.1.2.5) knows one way to write each kind.
fn time(validity: &mut Der<'_>) -> Result<i64, Damaged> {
    let (tag, text) = validity.next()?.ok_or(Damaged)?;
    let digits = text.strip_suffix(b"Z").ok_or(Damaged)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(Damaged);
    }
    let number = |digits: &[u8]| {
        digits
            .iter()
            .fold(0, |sum, it| sum * 10 + i64::from(it - b'0'))
    };
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => match number(&digits[..2]) {
            year @ 50.. => (1900 + year, &digits[2..]),
            year => (2000 + year, &digits[2..]),
        },
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return Err(Damaged),
    };
    let parts: Vec<i64> = rest.chunks(2).map(number).collect();
    let &[
        month @ 1..=12,
        day @ 1..=31,
        hour @ 0..=23,
        minute @ 0..=59,
        second @ 0..=60,
    ] = &*parts
    else {
        return Err(Damaged);
    };
    Ok(days(year, month, day) * DAY + (hour * 60 + minute) * 60 + second)
}

/// From 1970 to a day of the Gregorian calendar. Years that begin in March have their odd day at the end.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let month = (month + 9) % 12;
    let leap_days = year / 4 - year / 100 + year / 400;
    // From the first of March of the year 0 to 1970.
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(tag: u8, text: &str) -> Result<i64, Damaged> {
        let length = u8::try_from(text.len()).unwrap();
        time(&mut Der(&[&[tag, length], text.as_bytes()].concat()))
    }

    #[rstest]
    #[case(UTC_TIME, "700101000000Z", 0)]
    #[case(UTC_TIME, "000229235959Z", 951_868_799)]
    #[case(UTC_TIME, "491231235959Z", 2_524_607_999)]
    #[case(UTC_TIME, "500101000000Z", -631_152_000)]
    #[case(GENERALIZED_TIME, "20500301000001Z", 2_529_705_601)]
    #[case(GENERALIZED_TIME, "99991231235959Z", 253_402_300_799)]
    fn times(#[case] tag: u8, #[case] text: &str, #[case] seconds: i64) {
        assert_eq!(read(tag, text), Ok(seconds));
    }

    #[rstest]
    #[case(UTC_TIME, "20500301000001Z")]
    #[case(GENERALIZED_TIME, "500301000001Z")]
    #[case(UTC_TIME, "700101000000")]
    #[case(UTC_TIME, "7001010000Z")]
    #[case(UTC_TIME, "701301000000Z")]
    #[case(UTC_TIME, "70010100000+Z")]
    #[case(INTEGER, "700101000000Z")]
    fn what_is_no_time(#[case] tag: u8, #[case] text: &str) {
        assert_eq!(read(tag, text), Err(Damaged));
    }
}
