//! etcd behind https whose own certificate is named as --etcd-cafile: what Go's TLS takes and refuses, ours does.

#![cfg(test)]

use std::path::Path;

use flannel_tests::certificate::{Certificate, Contents};
use flannel_tests::netns::{output, run};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::process::Process;
use flannel_tests::with_daemon;
use rstest::rstest;

const NAME: &str = "subjectAltName=IP:127.0.0.1";
const CA: &str = "basicConstraints=critical,CA:TRUE\nsubjectAltName=IP:127.0.0.1";

fn self_signed(folder: &Path, extensions: &str, expired: bool) -> Certificate {
    let contents = Contents {
        extensions,
        expired,
    };
    contents.self_signed(folder, "etcd")
}

/// A server's certificate that somebody else signed.
fn issued(folder: &Path, extensions: &str) -> (Certificate, Certificate) {
    let authority = Contents {
        extensions: "basicConstraints=critical,CA:TRUE",
        expired: false,
    };
    let authority = authority.self_signed(folder, "authority");
    let contents = Contents {
        extensions,
        expired: false,
    };
    let server = contents.signed_by(&authority, folder, "etcd");
    (server, authority)
}

/// A node with an etcd of its own that shows `server`, and clients must too where `asks`.
struct Stage {
    etcd: Process,
    lab: Lab,
    net: Network,
    node: Node,
    flags: Vec<String>,
}

impl Stage {
    fn new(make: impl Fn(&Path) -> Certificate, asks: bool) -> Self {
        let lab = Lab::new();
        let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
        let node = lab.node("one");
        let folder = node.folder().join("tls");
        let server = make(&folder);
        let (cert, key) = (server.cert_file.display(), server.key_file.display());
        let auth = match asks {
            true => format!(" --client-cert-auth --trusted-ca-file={cert}"),
            false => String::new(),
        };
        let etcd = node.command(&format!(
            "etcd --data-dir={} --listen-client-urls=https://127.0.0.1:2379 \
             --advertise-client-urls=https://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380 \
             --cert-file={cert} --key-file={key}{auth} --logger=zap --log-level=error",
            folder.join("data").display()
        ));
        let etcd = node.spawn("own-etcd", etcd);
        let mut client = node.command("etcdctl --endpoints=https://127.0.0.1:2379");
        client.env("ETCDCTL_API", "3");
        client.args(["--insecure-skip-tls-verify", "--insecure-transport=false"]);
        client.args(["--command-timeout=30s", "--dial-timeout=30s"]);
        client.args([&format!("--cert={cert}"), &format!("--key={key}")]);
        // flanneld uses TLS only with a certificate to show, wanted or not.
        let flags = vec![
            "--etcd-endpoints=https://127.0.0.1:2379".to_owned(),
            format!("--etcd-cafile={cert}"),
            format!("--etcd-certfile={cert}"),
            format!("--etcd-keyfile={key}"),
        ];
        client.args([
            "put",
            &format!("{}/config", net.prefix),
            "--",
            &net.config(),
        ]);
        run(&mut client);
        Self {
            etcd,
            lab,
            net,
            node,
            flags,
        }
    }

    fn spawn(self, kind: Kind, flags: &[&str]) -> (AnyDaemon, Process, Lab) {
        let own: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let others = |flag: &&str| {
            let name = flag.split('=').next().unwrap_or_default();
            !flags.iter().any(|new| new.starts_with(name))
        };
        let kept: Vec<&str> = own.into_iter().filter(others).collect();
        let flags = [&kept[..], flags].concat();
        let daemon = with_daemon::spawn(kind, self.node, &self.net, &flags);
        (daemon, self.etcd, self.lab)
    }

    fn takes(self, kind: Kind) {
        let (mut daemon, _etcd, _lab) = self.spawn(kind, &[]);
        daemon.wait_until_ready();
    }

    /// By us, for a reason that the log names. The control is etcd's own client, with the TLS of Go that flanneld has: flanneld
    /// waits in silence.
    fn refuses(self, kind: Kind, ca: Option<&Certificate>, reason: &str) {
        let flag = ca.map(|ca| format!("--etcd-cafile={}", ca.cert_file.display()));
        let flags: Vec<&str> = flag.iter().map(String::as_str).collect();
        if kind == Kind::Flanneld {
            let folder = self.node.folder().join("tls");
            let own = folder.join("etcd.pem");
            let ca = ca.map_or(&own, |ca| &ca.cert_file);
            let mut client = self.node.command("etcdctl --command-timeout=5s get x");
            client.arg("--endpoints=https://127.0.0.1:2379");
            client.arg(format!("--cacert={}", ca.display()));
            let output = output(&mut client);
            assert!(!output.status.success(), "{output:?}");
            return;
        }
        let (daemon, _etcd, _lab) = self.spawn(kind, &flags);
        eventually(format!("the log says {reason:?}"), SOON, || {
            daemon.log().contains(reason)
        });
        assert!(!daemon.subnet_file().exists(), "{}", daemon.log());
    }
}

#[rstest]
fn the_certificate_of_etcd_itself_is_taken(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(
        CA,
        NAME,
        "basicConstraints=critical,CA:TRUE\nsubjectAltName=IP:127.0.0.1\nextendedKeyUsage=clientAuth,serverAuth",
        "basicConstraints=CA:TRUE\nsubjectAltName=IP:127.0.0.1\nkeyUsage=critical,keyCertSign,cRLSign,digitalSignature"
    )]
    extensions: &str,
    #[values(false, true)] asks: bool,
) {
    // Go's server checks what clients show for the usage.
    let usage = match asks && extensions == NAME {
        true => "\nextendedKeyUsage=clientAuth,serverAuth",
        false => "",
    };
    let extensions = format!("{extensions}{usage}");
    Stage::new(|folder| self_signed(folder, &extensions, false), asks).takes(kind);
}

/// Who needs no certificate to show, shows none. flanneld would speak http.
#[rstest]
fn without_a_certificate_of_ours(#[values(CA, NAME)] extensions: &str) {
    let mut stage = Stage::new(|folder| self_signed(folder, extensions, false), false);
    stage
        .flags
        .retain(|flag| !flag.contains("file=") || flag.contains("cafile="));
    stage.takes(Kind::Ours);
}

/// The leaf alone, without whoever signed it.
#[rstest]
fn one_that_an_unknown_authority_signed_is_taken_when_it_is_named_itself(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(NAME, CA)] extensions: &str,
) {
    Stage::new(|folder| issued(folder, extensions).0, false).takes(kind);
}

#[rstest]
#[case::name(
    "basicConstraints=critical,CA:TRUE\nsubjectAltName=IP:192.0.2.1,DNS:etcd",
    false,
    "not valid for"
)]
#[case::no_name("basicConstraints=critical,CA:TRUE", false, "not valid for")]
#[case::expired(CA, true, "xpired")]
#[case::expired_leaf(NAME, true, "xpired")]
#[case::purpose(
    "basicConstraints=critical,CA:TRUE\nsubjectAltName=IP:127.0.0.1\nextendedKeyUsage=clientAuth",
    false,
    "urpose"
)]
fn what_is_wrong_with_it_still_counts(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[case] extensions: &str,
    #[case] expired: bool,
    #[case] reason: &str,
) {
    let stage = Stage::new(|folder| self_signed(folder, extensions, expired), false);
    stage.refuses(kind, None, reason);
}

/// Of the same name, but another key.
#[rstest]
fn another_one_is_refused(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(CA, NAME)] extensions: &str,
) {
    let stage = Stage::new(|folder| self_signed(folder, extensions, false), false);
    let other = self_signed(&stage.node.folder().join("other"), extensions, false);
    stage.refuses(kind, Some(&other), "ertificate");
}
