//! What a server shows, and whom it lets in: as its files are when a client connects.
//!
//! All of them are read together, and a change makes a configuration of its own: so certificate and key fit, and nobody comes in
//! by a session of before (RFC 8446, 2.2) whose authority is not among them any more.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::clients::Clients;
use super::error::RemoteOptionsError;
use super::options::RemoteTls;
use super::tls::{CA, CERTIFICATE, KEY, identity, pair, read, unusable, versions};
use crate::source::identity::certified;

/// TLS of a server.
#[derive(Debug)]
pub struct ServerTls {
    files: RemoteTls,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What the files held when they were last usable.
    pems: Pems,
    config: Arc<ServerConfig>,
    /// Why they are not now.
    trouble: Option<String>,
}

impl ServerTls {
    /// # Errors
    /// A file that cannot be used.
    pub fn new(files: &RemoteTls) -> Result<Self, RemoteOptionsError> {
        let pems = Pems::read(files)?;
        let config = pems.config(files)?;
        Ok(Self {
            files: files.clone(),
            state: Mutex::new(State {
                pems,
                config,
                trouble: None,
            }),
        })
    }

    /// How to take the next connection. Files that are being replaced do not fit for a moment: what fitted last counts until then.
    #[must_use]
    pub fn now(&self) -> Arc<ServerConfig> {
        let fresh = Pems::read(&self.files);
        let mut state = self.state();
        let made = fresh.and_then(|pems| {
            if pems == state.pems {
                return Ok(None);
            }
            pems.require_whole(&self.files)?;
            let config = pems.config(&self.files)?;
            Ok(Some((pems, config)))
        });
        match made {
            Ok(None) => state.trouble = None,
            Ok(Some((pems, config))) => {
                tracing::info!(
                    "the files of certificates have changed: new connections go by them"
                );
                *state = State {
                    pems,
                    config,
                    trouble: None,
                };
            }
            Err(error) => {
                let why = error.to_string();
                if state.trouble.as_ref() != Some(&why) {
                    tracing::warn!("{why}; connections go by what the files held before");
                    state.trouble = Some(why);
                }
            }
        }
        Arc::clone(&state.config)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is in the files.
#[derive(PartialEq, Eq)]
struct Pems {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Option<Vec<u8>>,
}

/// Nothing of a key goes into a log.
impl fmt::Debug for Pems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pems").finish_non_exhaustive()
    }
}

impl Pems {
    fn read(files: &RemoteTls) -> Result<Self, RemoteOptionsError> {
        let Some((certificate, key)) = &files.identity else {
            return Err(unusable(CERTIFICATE, Path::new(""), "certificate"));
        };
        let authority = files.ca_file.as_ref().map(|file| read(CA, file));
        Ok(Self {
            certificate: read(CERTIFICATE, certificate)?,
            key: read(KEY, key)?,
            authority: authority.transpose()?,
        })
    }

    /// A file that somebody is writing ends anywhere. What is no certificate is left out, as Go does, but half of one is not.
    fn require_whole(&self, files: &RemoteTls) -> Result<(), RemoteOptionsError> {
        let identity = files.identity.iter();
        let identity = identity.flat_map(|(certificate, key)| {
            [
                (CERTIFICATE, certificate, &self.certificate),
                (KEY, key, &self.key),
            ]
        });
        let authority = files.ca_file.iter().zip(&self.authority);
        let authority = authority.map(|(file, pem)| (CA, file, pem));
        for (flag, file, pem) in identity.chain(authority) {
            if !is_whole(pem) {
                let file = file.clone();
                return Err(RemoteOptionsError::Half { flag, file });
            }
        }
        Ok(())
    }

    fn config(&self, files: &RemoteTls) -> Result<Arc<ServerConfig>, RemoteOptionsError> {
        let builder = versions(ServerConfig::builder_with_provider);
        let builder = match files.ca_file.as_ref().zip(self.authority.as_ref()) {
            Some((file, pem)) => {
                // As Go does: what cannot be read is left out.
                let listed = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
                let clients = Clients::of(listed.collect());
                let clients = clients.ok_or_else(|| unusable(CA, file, "certificate"))?;
                builder.with_client_cert_verifier(clients)
            }
            None => builder.with_no_client_auth(),
        };
        let Some((certificate, key)) = &files.identity else {
            return Err(unusable(CERTIFICATE, Path::new(""), "certificate"));
        };
        let (chain, private) = identity((certificate, &self.certificate), (key, &self.key))?;
        let shown = certified(chain, private).map_err(|error| pair(certificate, &error))?;
        Ok(Arc::new(
            builder.with_cert_resolver(Arc::new(Shown(Arc::new(shown)))),
        ))
    }
}

/// Whether every block that begins also ends, and the last line is not half a mark. Between blocks can be anything: `openssl s_client`
/// writes lines of dashes.
fn is_whole(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    let (mut begun, mut ended, mut in_a_mark) = (0, 0, false);
    for line in text.split_inclusive('\n') {
        let mark = line.trim().strip_suffix("-----");
        let begins = mark.is_some_and(|mark| mark.starts_with("-----BEGIN "));
        let ends = mark.is_some_and(|mark| mark.starts_with("-----END "));
        begun += usize::from(begins);
        ended += usize::from(ends);
        in_a_mark = !begins && !ends && line.starts_with('-') && !line.ends_with('\n');
    }
    begun > 0 && begun == ended && !in_a_mark
}

/// The same to everybody. rustls's own way would look into the certificate, and so refuse version 1.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_ends_anywhere_is_not_whole() {
        let one = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let two = format!("# what for\n{one}\n{one}# the end\n");
        assert!(is_whole(one.as_bytes()) && is_whole(two.as_bytes()));
        let shown =
            format!("Certificate chain\n 0 s:CN=a\n{one}---\nServer certificate\n{one}---\n");
        assert!(is_whole(shown.as_bytes()), "openssl s_client -showcerts");
        let is_end = |text: &str| text.trim_end().ends_with("-----END CERTIFICATE-----");
        for length in 0..two.len() - "# the end\n".len() {
            let part = &two[..length];
            // Between two of them nobody sees that another is to come.
            assert_eq!(is_whole(part.as_bytes()), is_end(part), "{part:?}");
        }
    }
}
