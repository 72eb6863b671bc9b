//! TLS between client and server, for either side: whom to trust, and who we are.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVersions};

use super::error::RemoteOptionsError;
use super::options::RemoteTls;
use crate::source::etcd::tls::Verifier;
use crate::source::identity::{Files, certified};

const CA: &str = "--remote-cafile";
const CERTIFICATE: &str = "--remote-certfile";
const KEY: &str = "--remote-keyfile";

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// How a client connects.
pub(super) fn client_config(tls: &RemoteTls) -> Result<Arc<ClientConfig>, RemoteOptionsError> {
    let roots = match &tls.ca_file {
        Some(file) => certificates(CA, file)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let verifier = Verifier::new(roots).ok_or_else(|| match &tls.ca_file {
        Some(file) => unusable(CA, file, "certificate"),
        None => RemoteOptionsError::NoRoots,
    })?;
    let builder = versions(ClientConfig::builder_with_provider)
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match &tls.identity {
        Some((certificate, key)) => {
            let (chain, private) = identity(certificate, key)?;
            let first = certified(chain, private).map_err(|error| pair(certificate, &error))?;
            let shown = Files::new(certificate.clone(), key.clone(), first);
            builder.with_client_cert_resolver(shown)
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// How a server takes connections; with an authority only from those who show a certificate of it.
///
/// # Errors
/// A file that cannot be used.
pub fn server_config(tls: &RemoteTls) -> Result<Arc<ServerConfig>, RemoteOptionsError> {
    let builder = versions(ServerConfig::builder_with_provider);
    let builder = match &tls.ca_file {
        Some(file) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(CA, file)?);
            let provider = Arc::new(ring::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.build();
            builder
                .with_client_cert_verifier(verifier.map_err(|_| unusable(CA, file, "certificate"))?)
        }
        None => builder.with_no_client_auth(),
    };
    let Some((certificate, key)) = &tls.identity else {
        return Err(unusable(CERTIFICATE, Path::new(""), "certificate"));
    };
    let (chain, key) = identity(certificate, key)?;
    let config = builder.with_single_cert(chain, key);
    Ok(Arc::new(config.map_err(|error| pair(certificate, &error))?))
}

#[expect(
    clippy::expect_used,
    reason = "ring knows every version that rustls has"
)]
fn versions<S: rustls::ConfigSide>(
    builder: impl FnOnce(Arc<rustls::crypto::CryptoProvider>) -> ConfigBuilder<S, WantsVersions>,
) -> ConfigBuilder<S, rustls::WantsVerifier> {
    builder(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has TLS 1.2 and 1.3")
}

fn identity(certificate: &Path, key: &Path) -> Result<Identity, RemoteOptionsError> {
    let chain = certificates(CERTIFICATE, certificate)?;
    if chain.is_empty() {
        return Err(unusable(CERTIFICATE, certificate, "certificate"));
    }
    let pem = read(KEY, key)?;
    let private = PrivateKeyDer::from_pem_slice(&pem);
    Ok((
        chain,
        private.map_err(|_| unusable(KEY, key, "private key"))?,
    ))
}

fn certificates(
    flag: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, RemoteOptionsError> {
    let pem = read(flag, file)?;
    // As Go does: what cannot be read is left out.
    let read = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    Ok(read.collect())
}

fn read(flag: &'static str, file: &Path) -> Result<Vec<u8>, RemoteOptionsError> {
    fs::read(file).map_err(|source| RemoteOptionsError::File {
        flag,
        file: file.to_owned(),
        source,
    })
}

fn unusable(flag: &'static str, file: &Path, what: &'static str) -> RemoteOptionsError {
    RemoteOptionsError::Unusable {
        flag,
        file: file.to_owned(),
        what,
    }
}

fn pair(file: &Path, error: &rustls::Error) -> RemoteOptionsError {
    RemoteOptionsError::Pair {
        file: file.to_owned(),
        reason: error.to_string(),
    }
}
