//! TLS, and who may write.

use std::path::Path;
use std::process::Command;

use flannel_agent::base::options::Authorize;
use flannel_agent::source::remote::{RemoteSource, RemoteTls};
use flannel_agent::source::{LeaseRequest, LeaseSource};
use flannel_tests::certificate::{Certificate, Contents};
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use crate::limits::server_at;
use crate::support::{Net, Served, attrs, options, source_with};

/// An authority, and certificates that it signed.
struct Pki {
    folder: tempfile::TempDir,
    authority: Certificate,
}

impl Pki {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Contents {
            extensions: "basicConstraints=critical,CA:true",
            expired: false,
        };
        let authority = authority.self_signed(folder.path(), "authority");
        Self { folder, authority }
    }

    fn signed(&self, name: &str, extensions: &str) -> Certificate {
        let contents = Contents {
            extensions,
            expired: false,
        };
        contents.signed_by(&self.authority, self.folder.path(), name)
    }

    fn server(&self) -> Certificate {
        self.signed("server", "subjectAltName=IP:127.0.0.1")
    }

    /// What node `n` shows.
    fn node(&self, n: u8) -> Certificate {
        let extensions = format!("subjectAltName=IP:192.0.2.{n}\nextendedKeyUsage=clientAuth");
        self.signed(&format!("node{n}"), &extensions)
    }

    fn tls(&self, identity: Option<&Certificate>, asks: bool) -> RemoteTls {
        let file = |path: &Path| path.to_owned();
        RemoteTls {
            ca_file: asks.then(|| file(&self.authority.cert_file)),
            identity: identity.map(|it| (file(&it.cert_file), file(&it.key_file))),
        }
    }
}

async fn serve(net: &Net, tls: RemoteTls, authorize: Authorize) -> Served {
    let mut options = options("127.0.0.1:0");
    options.tls = Some(tls);
    options.authorize = authorize;
    Served::start(&net.options(), options).await
}

async fn acquire(source: &RemoteSource, net: &Net, n: u8, previous: &str) -> Result<(), String> {
    let request = LeaseRequest {
        attrs: attrs(n),
        previous: Some(crate::support::net(previous)),
    };
    let cancel = CancellationToken::new();
    let acquired = source.acquire(&net.config, &request, &cancel).await;
    acquired.map(drop).map_err(|error| format!("{error:#}"))
}

#[tokio::test]
async fn a_client_trusts_the_authority_it_was_told() {
    let net = Net::new().await;
    let pki = Pki::new();
    let server = serve(&net, pki.tls(Some(&pki.server()), false), Authorize::None).await;
    let trusting = source_with(&[server.name()], Some(pki.tls(None, true)));
    acquire(&trusting, &net, 1, "10.3.1.0/24").await.unwrap();
    let other = Pki::new();
    let doubting = source_with(&[server.name()], Some(other.tls(None, true)));
    let error = format!("{:#}", doubting.read_network_config().await.unwrap_err());
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_server_with_an_authority_asks_for_certificates() {
    let net = Net::new().await;
    let pki = Pki::new();
    let server = serve(&net, pki.tls(Some(&pki.server()), true), Authorize::None).await;
    let known = source_with(&[server.name()], Some(pki.tls(Some(&pki.node(1)), true)));
    // Without --remote-authorize any certificate will do.
    acquire(&known, &net, 2, "10.3.2.0/24").await.unwrap();
    let stranger = Pki::new();
    let forged = stranger.tls(Some(&stranger.node(1)), false);
    let forged = RemoteTls {
        ca_file: pki.tls(None, true).ca_file,
        ..forged
    };
    for tls in [pki.tls(None, true), forged] {
        let source = source_with(&[server.name()], Some(tls));
        assert!(source.read_network_config().await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_write_the_lease_of_its_own_address_only() {
    let net = Net::new().await;
    let pki = Pki::new();
    let tls = pki.tls(Some(&pki.server()), true);
    let server = serve(&net, tls, Authorize::PublicIp).await;
    let as_node = |n| {
        let tls = pki.tls(Some(&pki.node(n)), true);
        source_with(&[server.name()], Some(tls))
    };
    let (one, two) = (as_node(1), as_node(2));
    acquire(&one, &net, 1, "10.3.1.0/24").await.unwrap();
    let error = acquire(&one, &net, 2, "10.3.2.0/24").await.unwrap_err();
    assert!(error.contains("PublicIP is 192.0.2.2"), "{error}");
    acquire(&two, &net, 2, "10.3.2.0/24").await.unwrap();
    // By which an operator keeps a subnet from everybody.
    net.put("subnets/10.3.8.0-24", r#"{"PublicIP":"0.0.0.0"}"#)
        .await;
    net.put_lease(7, 7).await;
    let before = net.leases().await;
    // By each call that writes, and also by saying that the address is a new one of the same node.
    let (own, foreign) = ("10.3.1.0-24", "10.3.2.0-24");
    let lease = |key: &str, n: u8| {
        let attrs = crate::support::attrs_json(n);
        let subnet = key.replace("-24", "/24");
        format!(r#"{{"Subnet":"{subnet}","Attrs":{attrs}}}"#)
    };
    let node = pki.node(1);
    for (method, path, body) in [
        ("PUT", format!("leases/{foreign}"), lease(foreign, 2)),
        (
            "PUT",
            format!("leases/{foreign}?was=192.0.2.2"),
            lease(foreign, 1),
        ),
        ("PUT", format!("leases/{own}?was=192.0.2.1"), lease(own, 2)),
        ("DELETE", format!("leases/{foreign}"), String::new()),
        (
            "POST",
            "reservations".to_owned(),
            r#"{"Subnet":"10.3.9.0/24","PublicIP":"192.0.2.2"}"#.to_owned(),
        ),
        (
            "DELETE",
            "reservations/10.3.7.0-24".to_owned(),
            String::new(),
        ),
        (
            "DELETE",
            "reservations/10.3.8.0-24".to_owned(),
            String::new(),
        ),
    ] {
        let said = curl(&pki, &node, &server, method, &path, &body);
        assert!(said.ends_with("403"), "{method} {path}: {said}");
    }
    assert_eq!(net.leases().await, before);
    let said = curl(&pki, &node, &server, "DELETE", &format!("leases/{own}"), "");
    assert!(said.ends_with("200"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_not_have_all_subnets() {
    let net = Net::new().await;
    let pki = Pki::new();
    let tls = pki.tls(Some(&pki.server()), true);
    let server = serve(&net, tls, Authorize::PublicIp).await;
    let one = source_with(&[server.name()], Some(pki.tls(Some(&pki.node(1)), true)));
    acquire(&one, &net, 1, "10.3.1.0/24").await.unwrap();
    let node = pki.node(1);
    let reserve = |third: u8| {
        let body = format!(r#"{{"Subnet":"10.3.{third}.0/24","PublicIP":"192.0.2.1"}}"#);
        curl(&pki, &node, &server, "POST", "reservations", &body)
    };
    // At the same time, and one of them for the next start.
    let said: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> = (2..8).map(|n| scope.spawn(move || reserve(n))).collect();
        asked.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let given = said.iter().filter(|said| said.ends_with("200")).count();
    assert_eq!(given, 1, "{said:?}");
    assert!(
        said.iter()
            .any(|it| it.contains("192.0.2.1 has 2 subnets already") && it.ends_with("409"))
    );
    assert_eq!(net.leases().await.len(), 2);
    // Nor by writing a lease, or a reservation of before that became one.
    let attrs = crate::support::attrs_json(1);
    let lease = format!(r#"{{"Subnet":"10.3.9.0/24","Attrs":{attrs}}}"#);
    let said = curl(&pki, &node, &server, "PUT", "leases/10.3.9.0-24", &lease);
    assert!(said.ends_with("409"), "{said}");
    let leases = net.leases().await;
    let reserved = leases.iter().find(|(_, (_, ends))| !ends).unwrap().0;
    let path = format!("reservations/{reserved}");
    let said = curl(&pki, &node, &server, "DELETE", &path, "");
    assert!(said.ends_with("200"), "{said}");
    let said = reserve(10);
    assert!(said.ends_with("409"), "{said}");
    // What it has it may keep.
    acquire(&one, &net, 1, "10.3.1.0/24").await.unwrap();
    assert_eq!(net.leases().await.len(), 2);
}

/// What openssl makes without a file of extensions. etcd takes it, too: `etcd_source/tls.rs`.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_version_1_is_shown_and_taken(
    #[values(&["--tlsv1.3"], &["--tls-max", "1.2"])] version: &[&str],
) {
    let net = Net::new().await;
    let pki = Pki::new();
    let (server, old) = (pki.server(), pki.signed("old", ""));
    let text = openssl(&["x509", "-noout", "-text", "-in"], &old.cert_file);
    assert!(text.contains("Version: 1 "), "{text}");
    let served = serve(&net, pki.tls(Some(&server), true), Authorize::None).await;
    let ask =
        |identity: &Certificate| curl_by(&pki, identity, &served, version, "GET", "config", "");
    assert!(ask(&old).ends_with("200"), "{}", ask(&old));
    let client = source_with(&[served.name()], Some(pki.tls(Some(&old), true)));
    acquire(&client, &net, 1, "10.3.1.0/24").await.unwrap();

    // Another authority of the same name, one that is over, and one whose key the client has not.
    let stranger = Pki::new();
    assert!(!ask(&stranger.signed("old", "")).ends_with("200"));
    let expired = Contents {
        extensions: "",
        expired: true,
    };
    let expired = expired.signed_by(&pki.authority, pki.folder.path(), "expired");
    assert!(!ask(&expired).ends_with("200"));
    let stolen = Certificate {
        cert_file: old.cert_file.clone(),
        key_file: pki.node(1).key_file,
    };
    assert!(!ask(&stolen).ends_with("200"));
    // One that names no authority's: it is itself in the file.
    let alone = Contents {
        extensions: "",
        expired: false,
    };
    let alone = alone.self_signed(pki.folder.path(), "alone");
    assert!(!ask(&alone).ends_with("200"));
    let tls = RemoteTls {
        ca_file: Some(alone.cert_file.clone()),
        ..pki.tls(Some(&server), true)
    };
    let trusting = serve(&net, tls, Authorize::None).await;
    let said = curl_by(&pki, &alone, &trusting, version, "GET", "config", "");
    assert!(said.ends_with("200"), "{said}");

    // It names no address.
    let tls = pki.tls(Some(&server), true);
    let strict = serve(&net, tls, Authorize::PublicIp).await;
    let said = curl_by(
        &pki,
        &old,
        &strict,
        version,
        "POST",
        "leases",
        &crate::support::attrs_json(2),
    );
    assert!(
        said.contains("the certificate does not name") && said.ends_with("403"),
        "{said}"
    );
}

/// As with Go: one that is itself among the authorities, and only to connect.
#[tokio::test]
async fn a_certificate_that_is_among_the_authorities_is_taken() {
    let net = Net::new().await;
    let pki = Pki::new();
    let own = |name: &str, extensions: &str| {
        let contents = Contents {
            extensions,
            expired: false,
        };
        contents.self_signed(pki.folder.path(), name)
    };
    let authority = "basicConstraints=critical,CA:true\nsubjectAltName=IP:127.0.0.1";
    let signs = own("signs", authority);
    let serves = own(
        "serves",
        &format!("{authority}\nextendedKeyUsage=serverAuth"),
    );
    for (own, is_taken) in [(signs, true), (serves, false)] {
        let tls = RemoteTls {
            ca_file: Some(own.cert_file.clone()),
            identity: Some((own.cert_file.clone(), own.key_file.clone())),
        };
        let server = serve(&net, pki.tls(Some(&pki.server()), true), Authorize::None).await;
        let stranger = source_with(
            &[server.name()],
            Some(RemoteTls {
                ca_file: pki.tls(None, true).ca_file,
                ..tls.clone()
            }),
        );
        assert!(stranger.read_network_config().await.is_err());
        let tls_of_server = RemoteTls {
            ca_file: Some(own.cert_file.clone()),
            ..pki.tls(Some(&pki.server()), true)
        };
        let server = serve(&net, tls_of_server, Authorize::None).await;
        let known = source_with(
            &[server.name()],
            Some(RemoteTls {
                ca_file: pki.tls(None, true).ca_file,
                ..tls
            }),
        );
        let read = known.read_network_config().await;
        assert_eq!(read.is_ok(), is_taken, "{read:?}");
    }
}

/// As with Go: one that is no authority is trusted itself, and nobody whom it has signed, be it a client or a server.
#[rstest]
#[tokio::test]
async fn who_is_signed_by_one_that_is_no_authority_is_a_stranger(
    #[values(false, true)] beside_an_authority: bool,
) {
    let net = Net::new().await;
    let pki = Pki::new();
    let contents = |extensions: &'static str| Contents {
        extensions,
        expired: false,
    };
    let leaf = contents("subjectAltName=IP:127.0.0.1").self_signed(pki.folder.path(), "leaf");
    let forged = contents("subjectAltName=IP:127.0.0.1");
    let forged = forged.signed_by(&leaf, pki.folder.path(), "forged");
    let mut listed = std::fs::read(&leaf.cert_file).unwrap();
    if beside_an_authority {
        listed.extend(std::fs::read(&pki.authority.cert_file).unwrap());
    }
    let file = pki.folder.path().join("listed.pem");
    std::fs::write(&file, listed).unwrap();

    for (shown, is_taken) in [(&leaf, true), (&forged, false)] {
        let to_listed = RemoteTls {
            ca_file: Some(file.clone()),
            ..pki.tls(Some(&pki.server()), true)
        };
        let server = serve(&net, to_listed, Authorize::None).await;
        let client = source_with(&[server.name()], Some(pki.tls(Some(shown), true)));
        let read = client.read_network_config().await;
        assert_eq!(read.is_ok(), is_taken, "a client: {read:?}");

        let server = serve(&net, pki.tls(Some(shown), false), Authorize::None).await;
        let trusts_listed = RemoteTls {
            ca_file: Some(file.clone()),
            identity: None,
        };
        let client = source_with(&[server.name()], Some(trusts_listed));
        let read = client.read_network_config().await;
        assert_eq!(read.is_ok(), is_taken, "a server: {read:?}");
    }
}

/// The files of a server, as whoever renews them writes them.
#[tokio::test]
async fn the_server_s_files_are_read_anew() {
    let net = Net::new().await;
    let [before, after] = [Pki::new(), Pki::new()];
    let (folder, log) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| folder.path().join(name);
    let put = |certificate: &Certificate, authority: &Certificate| {
        std::fs::copy(&certificate.cert_file, at("cert")).unwrap();
        std::fs::copy(&certificate.key_file, at("key")).unwrap();
        std::fs::copy(&authority.cert_file, at("ca")).unwrap();
    };
    put(&before.server(), &before.authority);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let flags = ["ca", "cert", "key"].map(|it| format!("--remote-{it}file={}", at(it).display()));
    let process = server_at(&net, &listener, &log.path().join("log"), &flags);
    let is_served = async |pki: &Pki| {
        let source = source_with(
            std::slice::from_ref(&address),
            Some(pki.tls(Some(&pki.node(1)), true)),
        );
        source.read_network_config().await.is_ok()
    };
    crate::support::eventually("it serves", || async {
        is_served(&before).await.then_some(())
    })
    .await;
    assert!(!is_served(&after).await);

    // Half of each new file, one after the other.
    let new = after.server();
    let whole = std::fs::read(&new.cert_file).unwrap();
    std::fs::write(at("cert"), &whole[..whole.len() / 2]).unwrap();
    assert!(is_served(&before).await && is_served(&before).await);
    std::fs::write(at("cert"), &whole).unwrap();
    assert!(is_served(&before).await, "the key is the old one's");
    let bundle =
        [&before.authority, &after.authority].map(|it| std::fs::read(&it.cert_file).unwrap());
    let bundle = bundle.concat();
    std::fs::copy(&new.key_file, at("key")).unwrap();
    std::fs::write(at("ca"), &bundle[..bundle.len() - 100]).unwrap();
    assert!(is_served(&before).await, "half an authority");
    std::fs::remove_file(at("ca")).unwrap();
    assert!(is_served(&before).await, "none");

    put(&new, &after.authority);
    assert!(is_served(&after).await);
    assert!(!is_served(&before).await);
    let said = process.log();
    let half = format!(
        "{} (--remote-certfile) ends in the middle",
        at("cert").display()
    );
    assert_eq!(
        said.matches("what the files held before").count(),
        4,
        "{said}"
    );
    assert_eq!(said.matches(&half).count(), 1, "{said}");
    assert_eq!(
        said.matches("the files of certificates have changed")
            .count(),
        1,
        "{said}"
    );
    assert!(!said.contains("PRIVATE KEY"), "{said}");
}

/// The answer's body, with the status behind it.
fn curl(
    pki: &Pki,
    identity: &Certificate,
    server: &Served,
    method: &str,
    path: &str,
    body: &str,
) -> String {
    curl_by(pki, identity, server, &[], method, path, body)
}

fn curl_by(
    pki: &Pki,
    identity: &Certificate,
    server: &Served,
    flags: &[&str],
    method: &str,
    path: &str,
    body: &str,
) -> String {
    let (mine, authority) = (identity, &pki.authority);
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--write-out", "%{http_code}"])
        .args(flags)
        .args(["--request", method, "--data", body])
        .arg("--cert")
        .arg(&mine.cert_file)
        .arg("--key")
        .arg(&mine.key_file)
        .arg("--cacert")
        .arg(&authority.cert_file)
        .arg(format!("https://{}/v1/_/{path}", server.name()))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr)
}

fn openssl(words: &[&str], file: &Path) -> String {
    let output = Command::new("openssl").args(words).arg(file).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}
