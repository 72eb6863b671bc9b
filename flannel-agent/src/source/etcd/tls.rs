//! Whom to trust behind https, and who we are there.
//!
//! rustls takes a server's certificate only when a root signed it. Go, and so flanneld, also takes one that *is* among the
//! roots: etcd's self-signed certificate, named as --etcd-cafile. [`Verifier`] takes both.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::error::OptionsError;
use super::options::{ClientIdentity, Tls};
use crate::source::identity;
use crate::source::trusted::Trusted;
use crate::source::usage::may_serve;

/// How to connect to https endpoints. Reads the files.
///
/// # Errors
/// One that cannot be used.
pub(super) fn client_config(files: &Tls) -> Result<Arc<ClientConfig>, OptionsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| OptionsError::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier(files)?));
    let mut config = match &files.identity {
        Some(identity) => builder.with_client_cert_resolver(shown(identity)?),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Files that were named, and are not needed without https, are to be PEM files all the same.
///
/// # Errors
/// One that cannot be read, or is none.
pub(super) fn check(files: &Tls) -> Result<(), OptionsError> {
    if files.ca_file.is_some() {
        verifier(files)?;
    }
    let Some(identity) = &files.identity else {
        return Ok(());
    };
    pem("--etcd-certfile", &identity.cert_file, "CERTIFICATE")?;
    pem("--etcd-keyfile", &identity.key_file, "PRIVATE KEY")?;
    Ok(())
}

fn verifier(files: &Tls) -> Result<Verifier, OptionsError> {
    let Some(file) = &files.ca_file else {
        let roots = rustls_native_certs::load_native_certs().certs;
        return Verifier::new(roots).ok_or(OptionsError::NoRoots);
    };
    let flag = "--etcd-cafile";
    let pem = pem(flag, file, "CERTIFICATE")?;
    // As Go does: what cannot be read is left out.
    let roots = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    let unusable = || OptionsError::NoCertificate {
        flag,
        file: file.to_owned(),
    };
    Verifier::new(roots.collect()).ok_or_else(unusable)
}

fn shown(files: &ClientIdentity) -> Result<Arc<identity::Files>, OptionsError> {
    let (certificate, key) = (&files.cert_file, &files.key_file);
    let unusable = |reason: String| OptionsError::Pair {
        certificate: certificate.clone(),
        key: key.clone(),
        reason,
    };
    let chain = pem("--etcd-certfile", certificate, "CERTIFICATE")?;
    let private = pem("--etcd-keyfile", key, "PRIVATE KEY")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let chain = chain.map_err(|error| unusable(error.to_string()))?;
    // Without the reader's words: nothing of a key goes into a log.
    let private = PrivateKeyDer::from_pem_slice(&private)
        .map_err(|_| unusable("the key cannot be read".to_owned()))?;
    let first = identity::certified(chain, private).map_err(|error| unusable(error.to_string()))?;
    Ok(identity::Files::new(
        certificate.clone(),
        key.clone(),
        first,
    ))
}

/// Reads a PEM file with a block whose label ends in `label`. A file without one would only show
/// later, as a handshake that fails for no visible reason.
fn pem(flag: &'static str, file: &Path, label: &'static str) -> Result<Vec<u8>, OptionsError> {
    let bytes = fs::read(file).map_err(|source| OptionsError::File {
        flag,
        file: file.to_owned(),
        source,
    })?;
    let end = format!("{label}-----");
    let has_block = String::from_utf8_lossy(&bytes)
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&end));
    if !has_block {
        return Err(OptionsError::NoPem {
            flag,
            file: file.to_owned(),
            label,
        });
    }
    Ok(bytes)
}

/// Go's answer to a server's certificate.
#[derive(Debug)]
pub(in crate::source) struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    trusted: Trusted,
}

impl Verifier {
    /// `None`: not one of `roots` can be used.
    pub(in crate::source) fn new(roots: Vec<CertificateDer<'static>>) -> Option<Self> {
        let trusted = Trusted::new(roots);
        let provider = Arc::new(ring::default_provider());
        let builder = WebPkiServerVerifier::builder_with_provider(trusted.roots(), provider);
        let webpki = builder.build().ok()?;
        Some(Self { webpki, trusted })
    }
}

/// Whether `error` is about who signed the certificate, or that it may sign others. webpki says so only of one that is valid
/// now (webpki 0.103, `check_issuer_independent_properties` before `build_chain_inner`).
pub(in crate::source) fn is_about_the_issuer(error: &Error) -> bool {
    let Error::InvalidCertificate(error) = error else {
        return false;
    };
    match error {
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => true,
        CertificateError::Other(other) => {
            other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
        }
        _ => false,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match self.trusted.rightly(verified, end_entity) {
            Err(error) if is_about_the_issuer(&error) && self.trusted.lists(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                if !may_serve(end_entity) {
                    return Err(CertificateError::InvalidPurpose.into());
                }
                Ok(ServerCertVerified::assertion())
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
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
