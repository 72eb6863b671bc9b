//! Client–server mode on the command line.

use rstest::rstest;

use super::{config, read_with};
use crate::cli::notices;
use crate::settings::remote::Listen;

#[rstest]
#[case("0.0.0.0:8888", Listen::Address("0.0.0.0:8888".to_owned()))]
#[case::as_go_does(":8888", Listen::Address(":8888".to_owned()))]
#[case("[::]:8888", Listen::Address("[::]:8888".to_owned()))]
#[case("fd://", Listen::Socket(None))]
#[case("fd://5", Listen::Socket(Some(5)))]
fn where_a_server_listens(#[case] text: &str, #[case] listen: Listen) {
    let server = config(&[&format!("--listen={text}")]).unwrap().server;
    assert_eq!(server.unwrap().listen, listen);
}

#[test]
fn a_server_takes_so_many_connections() {
    let connections = |argv: &[&str]| config(argv).map(|it| it.server.unwrap().connections);
    assert_eq!(connections(&["--listen=:1"]), Ok(20_000));
    assert_eq!(
        connections(&["--listen=:1", "--remote-connections=7"]),
        Ok(7)
    );
    assert!(read_with(&["--listen=:1", "--remote-connections=0"], &[]).is_err());
}

#[test]
fn several_servers_may_be_named() {
    let config = config(&["--remote=10.0.0.3:8888, 10.0.0.4:8888,"]).unwrap();
    assert_eq!(
        config.remote.as_ref().unwrap().servers,
        ["10.0.0.3:8888", "10.0.0.4:8888"]
    );
    assert_eq!(config.source(), "remote");
    assert!(config.server.is_none());
}

#[rstest]
#[case(&["--remote=10.0.0.3"], "--remote=10.0.0.3: there is no port")]
#[case(&["--remote=a:1,b"], "--remote=b: there is no port")]
#[case(&["--remote=a:1", "--kube-subnet-mgr"], "--remote=a:1: the leases come from a server or from Kubernetes")]
#[case(&["--listen=:1", "--remote=a:1"], "--listen=:1: a server takes its leases from etcd, and --remote")]
#[case(&["--listen=:1", "--kube-subnet-mgr"], "--listen=:1: a server takes its leases from etcd, and --kube")]
#[case(&["--listen=8888"], "--listen=8888: there is no port")]
#[case(&["--listen=a:b"], "--listen=a:b: that is no port")]
#[case(&["--listen=fd://1"], "--listen=fd://1: systemd numbers")]
#[case(&["--listen=:1", "--remote-certfile=/c"], "--remote-certfile=/c: a certificate without its key")]
#[case(&["--remote=a:1", "--remote-keyfile=/k"], "--remote-keyfile=/k: a key without its certificate")]
#[case(&["--listen=:1", "--remote-cafile=/a"], "--remote-cafile=/a: a server without a certificate")]
#[case(&["--listen=:1", "--remote-authorize=public-ip"], "--remote-authorize=public-ip: without client certificates")]
#[case(&["--remote=a:1", "--remote-authorize=public-ip"], "--remote-authorize=public-ip: only a server")]
fn what_does_not_go_together_is_refused(#[case] argv: &[&str], #[case] why: &str) {
    let error = config(argv).unwrap_err();
    assert!(error.starts_with(why), "{error}");
}

#[rstest]
#[case(&["--remote=a:1", "--etcd-cafile=/c"], &["--etcd-cafile", "--remote"])]
#[case(&["--remote-cafile=/c"], &["--remote-cafile", "--listen"])]
#[case(&["--remote=a:1", "--kube-api-url=x"], &["--kube-api-url"])]
#[case(&["--remote=a:1", "--remote-cafile=/c", "--subnet-lease-renew-margin=30"], &[])]
#[case(&["--listen=:1", "--etcd-cafile=/c"], &[])]
#[case(&["--remote=a:1", "--remote-connections=5"], &["--remote-connections", "--listen"])]
#[case(&["--listen=:1", "--remote-connections=5"], &[])]
fn flags_of_the_other_kind_have_no_effect(#[case] argv: &[&str], #[case] parts: &[&str]) {
    let read = read_with(argv, &[]).unwrap();
    let notices = notices::notices(&read.cli.flags, &read.origins);
    assert_eq!(notices.is_empty(), parts.is_empty(), "{notices:?}");
    for part in parts {
        assert!(notices[0].contains(part), "{notices:?}");
    }
}
