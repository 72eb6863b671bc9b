//! etcd behind TLS, with certificates made for the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flannel_agent::source::etcd::{ClientIdentity, EtcdOptions, EtcdSource};
use flannel_tests::etcd::{Etcd, ServerTls};
use tempfile::TempDir;

use crate::support::{Net, PREFIX};

/// Extensions of the two kinds of certificate.
const SERVER: &str = "subjectAltName=IP:127.0.0.1";
const CLIENT: &str = "extendedKeyUsage=clientAuth";

/// A certificate authority with one server and one client certificate.
struct Pki {
    folder: TempDir,
}

impl Pki {
    fn new() -> Self {
        let pki = Self {
            folder: TempDir::with_prefix("flannel-pki-").unwrap(),
        };
        pki.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=ca",
            "-days",
            "2",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        pki.sign("server", SERVER);
        pki.sign("client", CLIENT);
        pki
    }

    fn sign(&self, name: &str, extension: &str) {
        let (key, csr, pem) = (
            format!("{name}.key"),
            format!("{name}.csr"),
            format!("{name}.pem"),
        );
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            &key,
            "-out",
            &csr,
        ]);
        std::fs::write(self.file("ext"), extension).unwrap();
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "ext",
            "-out",
            &pem,
        ]);
    }

    /// Signs the request of `name` anew, for a time that is over.
    fn expire(&self, name: &str, extension: &str) {
        std::fs::write(self.file("ext"), extension).unwrap();
        let config = "[ca]\ndefault_ca = it\n[it]\ndatabase = index\nserial = numbers\nnew_certs_dir = .\n\
                      default_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n";
        std::fs::write(self.file("ca.conf"), config).unwrap();
        std::fs::write(self.file("index"), "").unwrap();
        std::fs::write(self.file("numbers"), "01\n").unwrap();
        let (csr, pem) = (format!("{name}.csr"), format!("{name}.pem"));
        self.openssl(&[
            "ca",
            "-batch",
            "-config",
            "ca.conf",
            "-cert",
            "ca.pem",
            "-keyfile",
            "ca.key",
            "-startdate",
            "200101000000Z",
            "-enddate",
            "200102000000Z",
            "-extfile",
            "ext",
            "-in",
            &csr,
            "-out",
            &pem,
            "-notext",
        ]);
    }

    fn openssl(&self, args: &[&str]) {
        let output = Command::new("openssl")
            .args(args)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "openssl {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }

    fn server(&self, asks_clients: bool) -> Etcd {
        Etcd::start_tls(ServerTls {
            cert_file: self.file("server.pem"),
            key_file: self.file("server.key"),
            client_ca_file: asks_clients.then(|| self.file("ca.pem")),
        })
    }

    /// To reach `etcd` and trust it.
    fn options(&self, etcd: &Etcd) -> EtcdOptions {
        let mut options = EtcdOptions::new(vec![etcd.url()], PREFIX);
        options.tls.ca_file = Some(self.file("ca.pem"));
        options
    }

    fn identity(&self) -> ClientIdentity {
        ClientIdentity {
            cert_file: self.file("client.pem"),
            key_file: self.file("client.key"),
        }
    }
}

/// Whether etcd answers through these options; an empty one says that there is no config.
async fn reached(options: &EtcdOptions) -> Result<(), String> {
    let source = EtcdSource::new(options).unwrap();
    let error = format!("{:#}", source.read_network_config().await.unwrap_err());
    if error.contains("does not exist") {
        Ok(())
    } else {
        Err(error)
    }
}

#[tokio::test]
async fn tls_with_a_client_certificate() {
    let pki = Pki::new();
    let etcd = pki.server(true);
    let mut options = pki.options(&etcd);
    options.tls.identity = Some(pki.identity());
    reached(&options).await.unwrap();

    options.tls.identity = None;
    let error = reached(&options).await.unwrap_err();
    assert!(error.contains(&etcd.url()), "{error}");
}

#[tokio::test]
async fn tls_with_a_server_certificate_only() {
    let pki = Pki::new();
    let etcd = pki.server(false);
    let mut options = pki.options(&etcd);
    reached(&options).await.unwrap();

    // Not trusted by the system.
    options.tls.ca_file = None;
    let error = reached(&options).await.unwrap_err();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn http_endpoints_work_although_certificates_are_given() {
    let pki = Pki::new();
    let net = Net::new().await;
    let mut options = net.options();
    options.tls.ca_file = Some(pki.file("ca.pem"));
    options.tls.identity = Some(pki.identity());
    let source = EtcdSource::new(&options).unwrap();
    assert_eq!(source.read_network_config().await.unwrap(), net.config);
}

#[tokio::test]
async fn an_expired_certificate_of_the_server_is_named() {
    let pki = Pki::new();
    pki.expire("server", SERVER);
    let etcd = pki.server(false);
    let error = reached(&pki.options(&etcd)).await.unwrap_err();
    assert!(
        error.contains(&etcd.url()) && error.contains("xpired"),
        "{error}"
    );
}

#[tokio::test]
async fn an_expired_certificate_of_ours_is_refused_and_etcd_named() {
    let pki = Pki::new();
    pki.expire("client", CLIENT);
    let etcd = pki.server(true);
    let mut options = pki.options(&etcd);
    options.tls.identity = Some(pki.identity());
    let error = reached(&options).await.unwrap_err();
    assert!(
        error.contains(&etcd.url()) && error.contains("ertificate"),
        "{error}"
    );
}

/// `openssl x509 -req` without extensions makes version 1. Go shows it, and etcd takes it.
#[tokio::test]
async fn a_certificate_of_ours_may_be_of_version_1() {
    let pki = Pki::new();
    pki.openssl(&[
        "x509",
        "-req",
        "-in",
        "client.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        "client.pem",
    ]);
    pki.openssl(&["x509", "-in", "client.pem", "-text", "-out", "client.txt"]);
    let text = std::fs::read_to_string(pki.file("client.txt")).unwrap();
    assert!(text.contains("Version: 1 "), "{text}");
    let etcd = pki.server(true);
    let mut options = pki.options(&etcd);
    options.tls.identity = Some(pki.identity());
    reached(&options).await.unwrap();
}

/// As etcd's own client does, and so flanneld.
#[tokio::test]
async fn a_certificate_that_was_replaced_is_shown_from_the_next_connection_on() {
    let pki = Pki::new();
    pki.expire("client", CLIENT);
    let mut etcd = pki.server(true);
    let mut options = pki.options(&etcd);
    options.tls.identity = Some(pki.identity());
    let source = EtcdSource::new(&options).unwrap();
    let said = async || format!("{:#}", source.read_network_config().await.unwrap_err());
    let refused = said().await;
    assert!(refused.contains("ertificate"), "{refused}");
    pki.sign("client", CLIENT);
    let answer = said().await;
    assert!(answer.contains("does not exist"), "{answer}");

    // Half of it, while somebody writes it: the one of before.
    std::fs::write(pki.file("client.pem"), "").unwrap();
    let other = EtcdSource::new(&options).unwrap_err().to_string();
    assert!(other.contains("--etcd-certfile"), "{other}");
    etcd.kill();
    etcd.restart();
    // The connection of before ends first.
    let answered = async {
        while !said().await.contains("does not exist") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let answered = tokio::time::timeout(Duration::from_secs(30), answered).await;
    answered.expect("the certificate of before is shown");
}

#[test]
fn a_key_of_another_certificate_is_named_at_the_start() {
    let pki = Pki::new();
    let mut options = EtcdOptions::new(vec!["https://192.0.2.1:2379".to_owned()], PREFIX);
    options.tls.ca_file = Some(pki.file("ca.pem"));
    options.tls.identity = Some(ClientIdentity {
        key_file: pki.file("server.key"),
        ..pki.identity()
    });
    let error = EtcdSource::new(&options).unwrap_err().to_string();
    for named in ["client.pem", "server.key", "KeyMismatch"] {
        assert!(error.contains(named), "{error}");
    }
}
