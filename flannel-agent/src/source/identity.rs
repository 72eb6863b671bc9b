//! Who we are behind TLS: the certificate that is shown to a server which asks for one.
//!
//! rustls's own way parses it, and so refuses X.509 v1, which `openssl x509 -req` makes without a file of extensions. Go's, and so
//! flanneld's, shows it: whom a server takes is the server's to say. etcd's client also reads the files anew for each
//! handshake (`TLSInfo.ClientConfig` in go.etcd.io/etcd/client/pkg), so a certificate may be replaced while flanneld runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, InconsistentKeys, SignatureScheme};

/// A certificate with its key.
///
/// # Errors
/// A key that ring does not know, or one of another certificate.
pub(super) fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, Error> {
    let key = ring::default_provider()
        .key_provider
        .load_private_key(key)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(error) if is_about_the_version(&error) => Ok(certified),
        Err(error) => Err(error),
    }
}

/// webpki reads version 3 alone: the key of another cannot be compared.
pub(super) fn is_about_the_version(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    other.0.downcast_ref() == Some(&webpki::Error::UnsupportedCertVersion)
}

/// Shows what it was given.
#[derive(Debug)]
pub(super) struct Fixed(Arc<CertifiedKey>);

impl Fixed {
    pub(super) fn new(certified: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(Arc::new(certified)))
    }
}

impl ResolvesClientCert for Fixed {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Shows what is in two PEM files when it is asked.
#[derive(Debug)]
pub(super) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// What was read last, and why it could not be read since.
    last: Mutex<(Arc<CertifiedKey>, Option<String>)>,
}

impl Files {
    /// `first`: what they hold now.
    pub(super) fn new(certificate: PathBuf, key: PathBuf, first: CertifiedKey) -> Arc<Self> {
        Arc::new(Self {
            certificate,
            key,
            last: Mutex::new((Arc::new(first), None)),
        })
    }

    fn read(&self) -> Result<CertifiedKey, String> {
        let certificate = self.certificate.display();
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("cannot read {certificate}: {error}"))?;
        if chain.is_empty() {
            return Err(format!("no certificate in {certificate}"));
        }
        // Without the reader's words: nothing of a key goes into a log.
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|_| format!("no private key can be read from {}", self.key.display()))?;
        certified(chain, key).map_err(|error| format!("{certificate} and its key: {error}"))
    }
}

impl ResolvesClientCert for Files {
    /// Files that are just being replaced do not match for a moment.
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let read = self.read();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(now) => *last = (Arc::new(now), None),
            Err(why) => {
                if last.1.as_ref() != Some(&why) {
                    tracing::warn!("{why}; the certificate of before is shown");
                    last.1 = Some(why);
                }
            }
        }
        Some(last.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
