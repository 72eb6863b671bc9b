//! Which client certificates a server takes: what Go's does, and so flanneld's of 0.7, and not only what rustls does.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::old_certificate::OldCertificate;
use crate::source::etcd::tls::is_about_the_issuer;
use crate::source::identity::is_about_the_version;
use crate::source::trusted::Trusted;
use crate::source::usage::may_connect;

/// Those of some authorities.
#[derive(Debug)]
pub(super) struct Clients {
    webpki: Arc<dyn ClientCertVerifier>,
    trusted: Trusted,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Clients {
    /// `None`: not one of `listed` can be used.
    pub(super) fn of(listed: Vec<CertificateDer<'static>>) -> Option<Arc<Self>> {
        let trusted = Trusted::new(listed);
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let webpki = WebPkiClientVerifier::builder_with_provider(trusted.roots(), provider);
        Some(Arc::new(Self {
            webpki: webpki.build().ok()?,
            hints: trusted.subjects(),
            trusted,
            algorithms,
        }))
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .webpki
            .verify_client_cert(end_entity, intermediates, now);
        match self.trusted.rightly(verified, end_entity) {
            Err(error) if is_about_the_version(&error) => {
                let old =
                    OldCertificate::parse(end_entity).map_err(|_| CertificateError::BadEncoding)?;
                old.verify(self.trusted.authorities(), self.algorithms, now)?;
                Ok(ClientCertVerified::assertion())
            }
            Err(error) if is_about_the_issuer(&error) && self.trusted.lists(end_entity) => {
                match may_connect(end_entity) {
                    true => Ok(ClientCertVerified::assertion()),
                    false => Err(CertificateError::InvalidPurpose.into()),
                }
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match OldCertificate::parse(cert) {
            Err(_) => self.webpki.verify_tls12_signature(message, cert, dss),
            Ok(old) if old.has_signed(message, dss, self.algorithms) => {
                Ok(HandshakeSignatureValid::assertion())
            }
            Ok(_) => Err(CertificateError::BadSignature.into()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match OldCertificate::parse(cert) {
            Err(_) => self.webpki.verify_tls13_signature(message, cert, dss),
            Ok(old) => {
                verify_tls13_signature_with_raw_key(message, old.key(), dss, &self.algorithms)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
