//! TLS between client and server: whom a client trusts and who it is, and the files of either side.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, WantsVersions};

use super::error::RemoteOptionsError;
use super::options::RemoteTls;
use crate::source::etcd::tls::Verifier;
use crate::source::identity::{Files, certified};

pub(super) const CA: &str = "--remote-cafile";
pub(super) const CERTIFICATE: &str = "--remote-certfile";
pub(super) const KEY: &str = "--remote-keyfile";

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
            let pems = [read(CERTIFICATE, certificate)?, read(KEY, key)?];
            let (chain, private) = identity((certificate, &pems[0]), (key, &pems[1]))?;
            let first = certified(chain, private).map_err(|error| pair(certificate, &error))?;
            let shown = Files::new(certificate.clone(), key.clone(), first);
            builder.with_client_cert_resolver(shown)
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

#[expect(
    clippy::expect_used,
    reason = "ring knows every version that rustls has"
)]
pub(super) fn versions<S: rustls::ConfigSide>(
    builder: impl FnOnce(Arc<rustls::crypto::CryptoProvider>) -> ConfigBuilder<S, WantsVersions>,
) -> ConfigBuilder<S, rustls::WantsVerifier> {
    builder(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has TLS 1.2 and 1.3")
}

/// Of what is in two files.
pub(super) fn identity(
    (certificate, chain): (&Path, &[u8]),
    (key, private): (&Path, &[u8]),
) -> Result<Identity, RemoteOptionsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.unwrap_or_default();
    if chain.is_empty() {
        return Err(unusable(CERTIFICATE, certificate, "certificate"));
    }
    // Without the reader's words: nothing of a key goes into a log.
    let private = PrivateKeyDer::from_pem_slice(private);
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

pub(super) fn read(flag: &'static str, file: &Path) -> Result<Vec<u8>, RemoteOptionsError> {
    fs::read(file).map_err(|source| RemoteOptionsError::File {
        flag,
        file: file.to_owned(),
        source,
    })
}

pub(super) fn unusable(flag: &'static str, file: &Path, what: &'static str) -> RemoteOptionsError {
    RemoteOptionsError::Unusable {
        flag,
        file: file.to_owned(),
        what,
    }
}

pub(super) fn pair(file: &Path, error: &rustls::Error) -> RemoteOptionsError {
    RemoteOptionsError::Pair {
        file: file.to_owned(),
        reason: error.to_string(),
    }
}
