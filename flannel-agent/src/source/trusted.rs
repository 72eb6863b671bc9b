//! Certificates that an operator trusts: authorities, and such as are only trusted themselves.
//!
//! webpki lets each of its roots sign others. Go, and so flanneld, does not: one that is no authority can be in the file, and is then taken
//! itself.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, DistinguishedName, Error, RootCertStore};

use super::usage::may_sign;

/// What is in a file of them.
#[derive(Debug)]
pub(super) struct Trusted {
    /// As they were configured, to the byte.
    listed: Vec<CertificateDer<'static>>,
    all: Arc<RootCertStore>,
    authorities: Arc<RootCertStore>,
}

impl Trusted {
    pub(super) fn new(listed: Vec<CertificateDer<'static>>) -> Self {
        let all = store(listed.iter());
        let authorities = store(listed.iter().filter(|it| may_sign(it)));
        Self {
            listed,
            all,
            authorities,
        }
    }

    /// Whether it is one of them.
    pub(super) fn lists(&self, certificate: &CertificateDer<'_>) -> bool {
        self.listed.contains(certificate)
    }

    pub(super) fn authorities(&self) -> &RootCertStore {
        &self.authorities
    }

    pub(super) fn subjects(&self) -> Vec<DistinguishedName> {
        self.all.subjects()
    }

    /// What webpki verifies by, which wants one root at least: see [`Self::rightly`].
    pub(super) fn roots(&self) -> Arc<RootCertStore> {
        match self.authorities.is_empty() {
            true => Arc::clone(&self.all),
            false => Arc::clone(&self.authorities),
        }
    }

    /// What webpki said by [`Self::roots`]: where there is no authority, nobody but those that are listed is signed by one.
    pub(super) fn rightly<T>(
        &self,
        verified: Result<T, Error>,
        end_entity: &CertificateDer<'_>,
    ) -> Result<T, Error> {
        let verified = verified?;
        if self.authorities.is_empty() && !self.lists(end_entity) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        Ok(verified)
    }
}

fn store<'a>(listed: impl Iterator<Item = &'a CertificateDer<'static>>) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(listed.cloned());
    Arc::new(store)
}
