//! One etcd with a network, servers before it, and whoever asks them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions, PutOptions};
use flannel_agent::base::mac::MacAddr;
use flannel_agent::base::options::Authorize;
use flannel_agent::flannel::config::NetworkConfig;
use flannel_agent::flannel::lease::{LeaseAttrs, Leases, OwnLease};
use flannel_agent::flannel::remote::Watched;
use flannel_agent::server::Server;
use flannel_agent::settings::remote::{Listen, ServerOptions};
use flannel_agent::source::LeaseSource;
use flannel_agent::source::etcd::EtcdOptions;
use flannel_agent::source::remote::{RemoteOptions, RemoteSource, RemoteTls};
use flannel_tests::etcd::Etcd;
use flannel_tests::free_port::free_port;
use flannel_tests::wait::SOON;
use ipnet::Ipv4Net;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const PREFIX: &str = "/coreos.com/network";
pub(crate) const CONFIG: &str = r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// An etcd with a network without a name.
pub(crate) struct Net {
    pub(crate) etcd: Etcd,
    pub(crate) client: Client,
    pub(crate) config: NetworkConfig,
}

impl Net {
    pub(crate) async fn new() -> Self {
        Self::with(CONFIG).await
    }

    pub(crate) async fn with(config: &str) -> Self {
        let etcd = Etcd::start();
        let client = connect(&etcd).await;
        let net = Self {
            config: NetworkConfig::parse(config).unwrap(),
            client,
            etcd,
        };
        net.put("config", config).await;
        net
    }

    pub(crate) fn options(&self) -> EtcdOptions {
        EtcdOptions::new(vec![self.etcd.url()], PREFIX)
    }

    /// A server of its own on a free port.
    pub(crate) async fn server(&self) -> Served {
        // Nobody else gets it while a server is started again.
        let address = format!("127.0.0.1:{}", free_port());
        Served::start(&self.options(), options(&address)).await
    }

    /// Writes a key below the prefix that nothing ends.
    pub(crate) async fn put(&self, key: &str, value: &str) {
        let key = format!("{PREFIX}/{key}");
        self.client.clone().put(key, value, None).await.unwrap();
    }

    pub(crate) async fn put_lease(&self, third: u8, node: u8) {
        let key = format!("subnets/10.3.{third}.0-24");
        self.put(&key, &attrs(node).to_json().unwrap()).await;
    }

    /// The same for so many seconds.
    pub(crate) async fn put_lease_for(&self, third: u8, node: u8, seconds: i64) {
        let mut client = self.client.clone();
        let granted = client.lease_grant(seconds, None).await.unwrap();
        let options = PutOptions::new().with_lease(granted.id());
        let key = format!("{PREFIX}/subnets/10.3.{third}.0-24");
        let value = attrs(node).to_json().unwrap();
        client.put(key, value, Some(options)).await.unwrap();
    }

    pub(crate) async fn delete(&self, key: &str) {
        let key = format!("{PREFIX}/{key}");
        self.client.clone().delete(key, None).await.unwrap();
    }

    /// All keys of leases, without what is in front, with whether something ends them.
    pub(crate) async fn leases(&self) -> BTreeMap<String, (String, bool)> {
        let options = GetOptions::new().with_prefix();
        let folder = format!("{PREFIX}/subnets/");
        let mut client = self.client.clone();
        let answer = client.get(folder.as_str(), Some(options)).await.unwrap();
        let kvs = answer.kvs().iter();
        kvs.map(|kv| {
            let key = kv.key_str().unwrap()[folder.len()..].to_owned();
            (key, (kv.value_str().unwrap().to_owned(), kv.lease() != 0))
        })
        .collect()
    }
}

impl Net {
    /// How many watches etcd has open, by its own count.
    pub(crate) async fn watchers(&self) -> u64 {
        self.counted("etcd_debugging_mvcc_watcher_total").await
    }

    /// How often etcd was asked for keys.
    pub(crate) async fn reads(&self) -> u64 {
        self.counted("etcd_mvcc_range_total").await
    }

    async fn counted(&self, what: &str) -> u64 {
        let text = tokio::task::spawn_blocking({
            let (host, port) = self.etcd.address();
            move || {
                use std::io::{Read as _, Write as _};
                let mut stream = std::net::TcpStream::connect((host, port)).unwrap();
                let ask = b"GET /metrics HTTP/1.0\r\nHost: etcd\r\n\r\n";
                stream.write_all(ask).unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                text
            }
        });
        let text = text.await.unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
        line.expect("etcd counts it").parse().unwrap()
    }
}

/// A client of an etcd that was started anew.
pub(crate) async fn reconnected(net: &Net) -> Client {
    connect(&net.etcd).await
}

async fn connect(etcd: &Etcd) -> Client {
    eventually("etcd answers", || async {
        let mut client = Client::connect([etcd.url()], None).await.ok()?;
        client.get("x", None).await.ok()?;
        Some(client)
    })
    .await
}

pub(crate) fn options(address: &str) -> ServerOptions {
    ServerOptions {
        listen: Listen::Address(address.to_owned()),
        tls: None,
        authorize: Authorize::None,
        connections: 1000,
    }
}

/// A server that runs.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Served {
    pub(crate) async fn start(etcd: &EtcdOptions, options: ServerOptions) -> Self {
        let server = eventually("the port is free", || async {
            Server::bind(etcd, &options).await.ok()
        })
        .await;
        let address = server.address().unwrap();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(server.serve(cancel.clone()));
        Self {
            address,
            cancel,
            task,
        }
    }

    /// Ends it, with all that is connected.
    pub(crate) async fn stop(self) -> SocketAddr {
        self.cancel.cancel();
        self.task.await.unwrap();
        self.address
    }

    /// Host and port for `--remote`.
    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn source(&self) -> RemoteSource {
        source(&[self.name()])
    }

    /// Status and body of one request, as an old client makes it.
    pub(crate) async fn call(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        call(self.address, method, target, body).await
    }

    pub(crate) async fn get(&self, target: &str) -> (u16, String) {
        self.call("GET", target, "").await
    }

    /// All leases, and the cursor.
    pub(crate) async fn snapshot(&self) -> Watched {
        let (status, body) = self.get("/v1/_/leases").await;
        assert_eq!(status, 200, "{body}");
        Watched::from_json(body.as_bytes()).unwrap()
    }
}

pub(crate) fn source(servers: &[String]) -> RemoteSource {
    source_with(servers, None)
}

pub(crate) fn source_with(servers: &[String], tls: Option<RemoteTls>) -> RemoteSource {
    let options = RemoteOptions {
        tls,
        ..RemoteOptions::new(servers.to_vec())
    };
    RemoteSource::new(&options).unwrap()
}

pub(crate) async fn call(
    address: SocketAddr,
    method: &str,
    target: &str,
    body: &str,
) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The old protocol version: an answer without chunks, and the connection ends with it.
    let head = format!(
        "{method} {target} HTTP/1.0\r\nHost: server\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

pub(crate) fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

pub(crate) fn public_ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

/// What node `n` publishes.
pub(crate) fn attrs(n: u8) -> LeaseAttrs {
    LeaseAttrs::vxlan(public_ip(n), 1, MacAddr([2, 0, 0, 0, 0, n]))
}

/// The same as an old client writes it.
pub(crate) fn attrs_json(n: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.0.2.{n}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{n:02x}"}}}}"#
    )
}

/// Polls until `check` gives something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    check: impl Fn() -> F,
) -> T {
    eventually_within(SOON, what, check).await
}

pub(crate) async fn eventually_within<T, F: Future<Output = Option<T>>>(
    deadline: Duration,
    what: &str,
    check: impl Fn() -> F,
) -> T {
    let poll = async {
        loop {
            if let Some(value) = check().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(deadline, poll).await {
        Ok(value) => value,
        Err(_) => panic!("not within {deadline:?}: {what}"),
    }
}

/// Waits until the newest value on the channel is as wanted.
pub(crate) async fn settled<T: Clone + std::fmt::Debug>(
    what: &str,
    receiver: &mut watch::Receiver<T>,
    wanted: impl FnMut(&T) -> bool,
) -> T {
    let waited = tokio::time::timeout(SOON, receiver.wait_for(wanted)).await;
    let value = waited.map(|value| value.expect("the sender lives").clone());
    value.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}; now {:?}", *receiver.borrow()))
}

/// A node that follows and keeps, as the daemon does.
pub(crate) struct Running {
    pub(crate) leases: watch::Receiver<Leases>,
    pub(crate) own: watch::Receiver<OwnLease>,
    pub(crate) attrs: watch::Sender<LeaseAttrs>,
    _guard: DropGuard,
}

impl Running {
    pub(crate) fn start(source: impl Into<Arc<RemoteSource>>, own: OwnLease, net: &Net) -> Self {
        let source = source.into();
        let (attrs, attrs_receiver) = watch::channel(own.attrs.clone());
        let (own_sender, own) = watch::channel(own);
        let (leases_sender, leases) = watch::channel(Leases::default());
        let cancel = CancellationToken::new();
        tokio::spawn({
            let (source, own, cancel) = (Arc::clone(&source), own.clone(), cancel.clone());
            async move {
                let known = Leases::default();
                source.follow(own, known, &leases_sender, &cancel).await
            }
        });
        tokio::spawn({
            let (config, cancel) = (net.config.clone(), cancel.clone());
            async move {
                source
                    .keep(&config, &own_sender, attrs_receiver, &cancel)
                    .await
            }
        });
        Self {
            leases,
            own,
            attrs,
            _guard: cancel.drop_guard(),
        }
    }

    /// Waits until the others' leases are these: third byte of the subnet, last of the PublicIP.
    pub(crate) async fn others(&mut self, expected: &[(u8, u8)]) {
        let what = format!("leases {expected:?}");
        settled(&what, &mut self.leases, |leases| pairs(leases) == expected).await;
    }
}

pub(crate) fn pairs(leases: &Leases) -> Vec<(u8, u8)> {
    leases
        .iter()
        .map(|(subnet, attrs)| (subnet.network().octets()[2], attrs.public_ip.octets()[3]))
        .collect()
}
