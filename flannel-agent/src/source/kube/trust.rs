//! Whom to trust behind https, and which certificate is ours.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::access::{Access, Bytes};
use super::error::AccessError;
use crate::source::etcd::tls::Verifier;
use crate::source::identity;

/// Reads the files anew: they may have been replaced.
pub(super) fn config(
    access: &Access,
    identity: Option<(Vec<u8>, Vec<u8>)>,
) -> Result<Arc<ClientConfig>, AccessError> {
    let tls = |problem: String| AccessError::Tls(problem);
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match &access.authority {
        _ if access.insecure => Arc::new(Anybody(provider.clone())),
        authority => {
            let roots = roots(authority.as_ref())?;
            let verifier = Verifier::new(roots);
            Arc::new(verifier.ok_or_else(|| {
                tls("no certificate authority that can be used; name the cluster's in the kubeconfig file".to_owned())
            })?)
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
            let chain = chain.map_err(|error| tls(format!("client-certificate: {error}")))?;
            // Without the reader's words: nothing of a key goes into a log.
            let key = PrivateKeyDer::from_pem_slice(&key)
                .map_err(|_| tls("client-key holds no private key".to_owned()))?;
            let certified = identity::certified(chain, key)
                .map_err(|error| tls(format!("client-certificate and client-key: {error}")))?;
            builder.with_client_cert_resolver(identity::Fixed::new(certified))
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(authority: Option<&Bytes>) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let Some(authority) = authority else {
        return Ok(rustls_native_certs::load_native_certs().certs);
    };
    let pem = authority.read()?;
    // As Go does: what cannot be read is left out.
    Ok(CertificateDer::pem_slice_iter(&pem)
        .filter_map(Result::ok)
        .collect())
}

/// `insecure-skip-tls-verify`: the operator's own decision.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
