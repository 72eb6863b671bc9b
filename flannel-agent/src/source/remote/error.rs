//! What can go wrong between us and the servers, in words an operator can act on.

use std::path::PathBuf;

/// The options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RemoteOptionsError {
    #[error("cannot read {file} ({flag}): {source}; give a PEM file the agent may read")]
    File {
        flag: &'static str,
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("{file} ({flag}) holds no {what} that can be used: give a PEM file that does")]
    Unusable {
        flag: &'static str,
        file: PathBuf,
        what: &'static str,
    },
    #[error("{file} ({flag}) ends in the middle of a PEM block: somebody is writing it")]
    Half { flag: &'static str, file: PathBuf },
    #[error("{file} (--remote-certfile) and its key do not fit: {reason}")]
    Pair { file: PathBuf, reason: String },
    #[error("this machine trusts no certificate authority: name the server's with --remote-cafile")]
    NoRoots,
    #[error("server {server:?}: {problem}; write it in --remote like 10.0.0.3:8888")]
    Server {
        server: String,
        problem: &'static str,
    },
}

/// A question to the servers failed.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// Passes when one of them is back.
    #[error(
        "cannot {what}: no server answers ({failures}): check --remote and that flannel-agent --listen runs there"
    )]
    Unreachable { what: String, failures: String },
    /// One answered with a refusal.
    #[error("the server {server} refuses to {what}: {reason}")]
    Refused {
        server: String,
        what: String,
        code: u16,
        reason: String,
    },
    #[error("the server {server}: the answer cannot be read: {reason}")]
    Answer { server: String, reason: String },
    /// A long poll broke, as it does when a server ends.
    #[error("the server {server} ended the watch: {reason}")]
    WatchEnded { server: String, reason: String },
}

impl RemoteError {
    /// Whether somebody else has what we want to write.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code: 409, .. })
    }
}
