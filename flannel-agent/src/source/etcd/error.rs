//! What can go wrong between us and etcd, in words an operator can act on.

use std::error::Error;
use std::path::PathBuf;

use crate::base::causes;
use crate::flannel::config::NetworkConfig;

/// The options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error("no etcd endpoint: give at least one with --etcd-endpoints")]
    NoEndpoint,
    #[error(
        "etcd endpoint {endpoint:?}: {problem}; write it in --etcd-endpoints like http://192.0.2.1:2379"
    )]
    Endpoint {
        endpoint: String,
        problem: &'static str,
    },
    #[error(
        "etcd endpoint {endpoint:?}: {reason}; check it and the files of --etcd-certfile and --etcd-keyfile"
    )]
    Unusable { endpoint: String, reason: String },
    #[error(
        "{certificate} (--etcd-certfile) and {key} (--etcd-keyfile): {reason}; give a certificate and its own key",
        certificate = certificate.display(), key = key.display()
    )]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        reason: String,
    },
    #[error("TLS: {0}")]
    Tls(String),
    #[error("this machine trusts no certificate authority: name etcd's with --etcd-cafile")]
    NoRoots,
    #[error("cannot read {file} ({flag}): {source}; give a PEM file the agent may read")]
    File {
        flag: &'static str,
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("{file} ({flag}) holds no certificate that can be used: give a PEM file that does")]
    NoCertificate { flag: &'static str, file: PathBuf },
    #[error("{file} ({flag}) holds no {label} block: give a PEM file that does")]
    NoPem {
        flag: &'static str,
        file: PathBuf,
        label: &'static str,
    },
}

/// A server that refuses a certificate just ends the connection (TLS 1.3 tells after the handshake).
fn of_certificates(failures: &str) -> &'static str {
    if failures.contains("https://") {
        "; where a connection ends at once, that etcd accepts the certificate (--etcd-certfile) and that it has not expired"
    } else {
        ""
    }
}

/// An operation on etcd failed.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// Passes when etcd is back; worth waiting for.
    #[error(
        "cannot {what}: no etcd endpoint answers ({failures}): check --etcd-endpoints and that etcd runs there{}",
        of_certificates(failures)
    )]
    Unreachable { what: String, failures: String },
    /// etcd answered with a refusal.
    #[error("etcd at {endpoint} refuses to {what}: {reason}")]
    Refused {
        endpoint: String,
        what: String,
        reason: String,
        code: Code,
        /// Nobody else was asked before, who may have done it all the same.
        surely: bool,
    },
    #[error("etcd at {endpoint} ended the watch: {reason}")]
    WatchEnded { endpoint: String, reason: String },
    /// Not a fault: history up to here is gone, so the leases must be listed anew.
    #[error("etcd compacted its history up to revision {0}")]
    Compacted(i64),
    #[error(
        "no free subnet: every /{subnet_len} from {min} to {max} overlaps a lease; widen SubnetMin and SubnetMax or remove leases of nodes that are gone"
    )]
    OutOfSubnets {
        subnet_len: u8,
        min: std::net::Ipv4Addr,
        max: std::net::Ipv4Addr,
    },
    #[error("cannot write the lease as JSON: {0}")]
    Value(#[from] serde_json::Error),
}

impl EtcdError {
    /// Whether it is put right at etcd, and ends by itself here. What else is too much of something (a message, what a proxy allows) is not.
    pub(super) fn is_worth_waiting(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, reason, .. } => code.is_no_space(reason),
            _ => false,
        }
    }

    /// Whether etcd has surely done nothing of what it was asked.
    pub(super) fn did_nothing(&self) -> bool {
        match self {
            Self::Refused { code, surely, .. } => *surely && code.comes_before_a_write(),
            Self::Value(_) => true,
            _ => false,
        }
    }

    pub(super) const fn out_of_subnets(config: &NetworkConfig) -> Self {
        Self::OutOfSubnets {
            subnet_len: config.subnet_len,
            min: config.subnet_min,
            max: config.subnet_max,
        }
    }
}

/// A gRPC status code (grpc.io, "Status codes and their use in gRPC").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(i32);

impl Code {
    pub const INVALID_ARGUMENT: Self = Self(3);
    pub const NOT_FOUND: Self = Self(5);
    pub const ALREADY_EXISTS: Self = Self(6);
    pub const PERMISSION_DENIED: Self = Self(7);
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    pub const FAILED_PRECONDITION: Self = Self(9);
    pub const OUT_OF_RANGE: Self = Self(11);
    pub const UNIMPLEMENTED: Self = Self(12);
    pub const UNAUTHENTICATED: Self = Self(16);

    /// Codes by which a healthy etcd says no; any other endpoint of the cluster would say the same.
    const REFUSALS: [Self; 9] = [
        Self::INVALID_ARGUMENT,
        Self::NOT_FOUND,
        Self::ALREADY_EXISTS,
        Self::PERMISSION_DENIED,
        Self::RESOURCE_EXHAUSTED,
        Self::FAILED_PRECONDITION,
        Self::OUT_OF_RANGE,
        Self::UNIMPLEMENTED,
        Self::UNAUTHENTICATED,
    ];

    /// Whether etcd answers so before it writes. Out of space it also says after a write that was the last to fit (quotaApplierV3.Txn
    /// in go.etcd.io/etcd/server/etcdserver).
    const fn comes_before_a_write(self) -> bool {
        matches!(
            self,
            Self::PERMISSION_DENIED | Self::UNAUTHENTICATED | Self::INVALID_ARGUMENT
        )
    }

    fn is_no_space(self, said: &str) -> bool {
        self == Self::RESOURCE_EXHAUSTED && said.contains(NO_SPACE)
    }

    /// What an operator can do about a refusal.
    fn fix(self, said: &str) -> &'static str {
        match self {
            Self::PERMISSION_DENIED | Self::UNAUTHENTICATED | Self::INVALID_ARGUMENT => {
                ": check --etcd-username and --etcd-password, and that the user may read and write below --etcd-prefix"
            }
            _ if self.is_no_space(said) => ": compact and defragment etcd, or raise its quota",
            _ => "",
        }
    }
}

/// Of `ErrGRPCTooManyRequests` (go.etcd.io/etcd/api/v3rpc/rpctypes): this member lags behind, as all do for a moment when a herd of clients
/// is back; another may not.
const TOO_MANY: &str = "too many requests";
/// Of `ErrGRPCNoSpace`.
const NO_SPACE: &str = "database space exceeded";

/// The refusal in `error`, when it is one and not a failure of the endpoint.
pub(super) fn refusal(error: &etcd_client::Error) -> Option<(Code, String)> {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return None;
    };
    let code = Code(status.code().into());
    let said = status.message();
    let is_busy = code == Code::RESOURCE_EXHAUSTED && said.contains(TOO_MANY);
    (Code::REFUSALS.contains(&code) && !is_busy)
        .then(|| (code, format!("{said}{}", code.fix(said))))
}

/// `ErrGRPCUserEmpty` and `ErrGRPCAuthOldRevision` (go.etcd.io/etcd/api/v3rpc/rpctypes): etcd asks for a login since we connected, or users
/// and roles have changed since a JWT was given.
const LOGIN_IS_OLD: [&str; 2] = [
    "etcdserver: user name is empty",
    "etcdserver: revision of auth store is old",
];

/// Whether a login made now would help. For an invalid token etcd-client makes one itself.
pub(super) fn wants_login(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return false;
    };
    LOGIN_IS_OLD.iter().any(|said| status.message() == *said)
}

/// The innermost causes of a failure; the outer ones only say "transport error".
pub(super) fn describe(error: &etcd_client::Error) -> String {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            causes::append(status.message().to_owned(), status.source())
        }
        etcd_client::Error::TransportError(error) => {
            causes::append(error.to_string(), error.source())
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tonic::Status;

    use super::*;

    #[rstest]
    #[case::a_member_that_lags("etcdserver: too many requests", false)]
    #[case::no_room("etcdserver: mvcc: database space exceeded", true)]
    fn what_another_member_may_take_is_no_refusal(#[case] said: &str, #[case] refused: bool) {
        let error = etcd_client::Error::GRpcStatus(Status::resource_exhausted(said));
        assert_eq!(refusal(&error).is_some(), refused);
    }

    #[rstest]
    #[case::no_room(
        Status::resource_exhausted("etcdserver: mvcc: database space exceeded"),
        true
    )]
    #[case::a_large_message(
        Status::resource_exhausted("grpc: received message larger than max (5000000 vs. 4194304)"),
        false
    )]
    #[case::what_a_proxy_allows(Status::resource_exhausted("rate limited"), false)]
    #[case::may_not(Status::permission_denied("etcdserver: permission denied"), false)]
    fn no_room_alone_is_waited_for_and_has_its_fix(#[case] said: Status, #[case] waits: bool) {
        let (code, reason) = refusal(&etcd_client::Error::GRpcStatus(said)).unwrap();
        assert_eq!(reason.contains("defragment"), waits, "{reason}");
        let error = EtcdError::Refused {
            endpoint: "http://192.0.2.1:2379".to_owned(),
            what: "write /a".to_owned(),
            reason,
            code,
            surely: true,
        };
        assert_eq!(error.is_worth_waiting(), waits, "{error}");
    }

    #[rstest]
    #[case::may_not(Code::PERMISSION_DENIED, true, true)]
    #[case::nobody_knows_it(Code::UNAUTHENTICATED, true, true)]
    #[case::stale_rights(Code::INVALID_ARGUMENT, true, true)]
    #[case::somebody_was_asked_before(Code::PERMISSION_DENIED, false, false)]
    #[case::full_or_full_by_this(Code::RESOURCE_EXHAUSTED, true, false)]
    #[case::anything_else(Code::FAILED_PRECONDITION, true, false)]
    fn what_surely_did_nothing(#[case] code: Code, #[case] surely: bool, #[case] nothing: bool) {
        let error = EtcdError::Refused {
            endpoint: "http://192.0.2.1:2379".to_owned(),
            what: "write /a".to_owned(),
            reason: "no".to_owned(),
            code,
            surely,
        };
        assert_eq!(error.did_nothing(), nothing);
    }
}
