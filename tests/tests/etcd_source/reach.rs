//! Reaching etcd: several endpoints, dead ones, a login, TLS.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flannel_agent::source::LeaseSource;
use flannel_agent::source::etcd::{ClientIdentity, EtcdOptions, EtcdSource, Login};
use flannel_tests::etcd::{Etcd, ServerTls};
use flannel_tests::gate::Gate;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::{Net, PREFIX, follow, request};

/// A port on which nobody listens, and which nobody else gets meanwhile.
fn dead_endpoint() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

async fn config_through(endpoints: Vec<String>) -> anyhow::Result<()> {
    let source = EtcdSource::new(&EtcdOptions::new(endpoints, PREFIX)).unwrap();
    // Several calls: each would meet the dead endpoint if it were asked again.
    for _ in 0..4 {
        source.read_network_config().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let net = Net::new().await;
    let (listener, dead) = dead_endpoint();
    drop(listener);
    for endpoints in [[dead.clone(), net.etcd.url()], [net.etcd.url(), dead]] {
        config_through(endpoints.into()).await.unwrap();
    }
}

#[tokio::test]
async fn an_endpoint_that_never_answers_is_passed_over() {
    let net = Net::new().await;
    // The kernel completes the connection; nobody ever reads from it.
    let (_listener, silent) = dead_endpoint();
    config_through(vec![silent, net.etcd.url()]).await.unwrap();
}

#[tokio::test]
async fn without_any_endpoint_the_error_names_them_all() {
    let (listener, one) = dead_endpoint();
    let (other_listener, other) = dead_endpoint();
    drop((listener, other_listener));
    let error = config_through(vec![one.clone(), other.clone()])
        .await
        .unwrap_err();
    let error = format!("{error:#}");
    for part in [
        one.as_str(),
        &other,
        "onnection refused",
        "--etcd-endpoints",
    ] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[tokio::test]
async fn a_watch_moves_on_to_the_next_endpoint() {
    let net = Net::new().await;
    let gate = Gate::to(net.etcd.address()).await;
    let options = EtcdOptions::new(vec![gate.url(), net.etcd.url()], PREFIX);
    let mut node = follow(EtcdSource::new(&options).unwrap(), "10.3.1.0/24");
    net.put_lease("10.3.2.0-24", 2).await;
    node.others(&[(2, 2)]).await;
    gate.close();
    net.put_lease("10.3.3.0-24", 3).await;
    node.others(&[(2, 2), (3, 3)]).await;
}

#[tokio::test]
async fn a_watch_at_an_endpoint_that_fell_silent_moves_on() {
    let net = Net::new().await;
    let gate = Gate::to(net.etcd.address()).await;
    let options = EtcdOptions::new(vec![gate.url(), net.etcd.url()], PREFIX);
    let mut node = follow(EtcdSource::new(&options).unwrap(), "10.3.1.0/24");
    net.put_lease("10.3.2.0-24", 2).await;
    node.others(&[(2, 2)]).await;
    gate.freeze();
    net.put_lease("10.3.3.0-24", 3).await;
    // Only missing keep-alives and calls without an answer tell: both have time limits.
    let limits = Duration::from_secs(60);
    node.others_within(limits, &[(2, 2), (3, 3)]).await;
}

#[tokio::test]
async fn a_login_that_ran_out_is_renewed_by_a_node_that_only_follows() {
    let mut net = Net::new().await;
    net.client.user_add("root", "secret", None).await.unwrap();
    net.client.user_grant_role("root", "root").await.unwrap();
    net.client.auth_enable().await.unwrap();
    let mut options = net.options();
    login(&mut options, "root", "secret");
    let mut node = follow(EtcdSource::new(&options).unwrap(), "10.3.1.0/24");
    node.others(&[]).await;
    // etcd keeps simple tokens in memory only.
    net.etcd.restart();
    let source = EtcdSource::new(&options).unwrap();
    let cancel = CancellationToken::new();
    let request = request(2, Some("10.3.2.0/24"));
    source
        .acquire(&net.config, &request, &cancel)
        .await
        .unwrap();
    node.others(&[(2, 2)]).await;
}

#[tokio::test]
async fn bare_host_and_port_and_an_untidy_prefix() {
    let net = Net::new().await;
    let (host, port) = net.etcd.address();
    let options = EtcdOptions::new(vec![format!("{host}:{port}")], "//coreos.com/network//");
    let source = EtcdSource::new(&options).unwrap();
    assert_eq!(source.read_network_config().await.unwrap(), net.config);
}

fn login(options: &mut EtcdOptions, username: &str, password: &str) {
    options.login = Some(Login {
        username: username.to_owned(),
        password: password.to_owned(),
    });
}

#[tokio::test]
async fn a_login_is_used_and_a_wrong_one_is_named() {
    let mut net = Net::new().await;
    let mut options = net.options();
    login(&mut options, "root", "secret");
    // Before etcd asks for one, a login does no harm.
    let source = EtcdSource::new(&options).unwrap();
    source.read_network_config().await.unwrap();

    net.client.user_add("root", "secret", None).await.unwrap();
    net.client.user_grant_role("root", "root").await.unwrap();
    net.client.auth_enable().await.unwrap();

    let source = EtcdSource::new(&options).unwrap();
    let cancel = CancellationToken::new();
    let own = source
        .acquire(&net.config, &request(1, Some("10.3.5.0/24")), &cancel)
        .await
        .unwrap();
    assert_eq!(own.subnet.to_string(), "10.3.5.0/24");
    let mut node = follow(EtcdSource::new(&options).unwrap(), "10.3.1.0/24");
    node.others(&[(5, 1)]).await;

    login(&mut options, "root", "wrong");
    let wrong = EtcdSource::new(&options).unwrap();
    let error = wrong.read_network_config().await.unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("--etcd-password"), "{error}");

    let without = net.source();
    let error = without
        .acquire(&net.config, &request(2, None), &cancel)
        .await
        .unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("--etcd-username"), "{error}");
}

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
        pki.sign("server", "subjectAltName=IP:127.0.0.1");
        pki.sign("client", "extendedKeyUsage=clientAuth");
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
    let mut options = EtcdOptions::new(vec![etcd.url()], PREFIX);
    options.tls.ca_file = Some(pki.file("ca.pem"));
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
    let mut options = EtcdOptions::new(vec![etcd.url()], PREFIX);
    options.tls.ca_file = Some(pki.file("ca.pem"));
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
