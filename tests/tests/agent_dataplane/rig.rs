//! A node with an uplink, its own bpffs, and leases to follow.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use flannel_agent::base::mac::MacAddr;
use flannel_agent::base::options::{FastPath, Mode, SourceCheck};
use flannel_agent::dataplane::{AttachMode, Options};
use flannel_agent::flannel::config::NetworkConfig;
use flannel_agent::flannel::lease::LeaseAttrs;
use flannel_agent::node::direct::Direct;
use flannel_agent::node::uplink::{self, Memory, Uplink};
use flannel_agent::reconcile::desired::{Desired, Facts, Inputs, Sought, SourceNat};
use flannel_agent::reconcile::{Dataplane, Report};
use flannel_tests::netns::Netns;
use flannel_tests::sweep;

pub(crate) const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub(crate) const NETWORK: &str = "coreos_com_network";

/// The node: `eth0` 192.168.0.1/24 with a far end `far0`, subnet 10.244.1.0/24.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) netns: Netns,
    folder: PathBuf,
    pub(crate) leases: BTreeMap<ipnet::Ipv4Net, LeaseAttrs>,
    pub(crate) iface: &'static str,
    pub(crate) attach: AttachMode,
    /// Off, unless a test is about it.
    pub(crate) fast_path: FastPath,
    /// Off, unless a test is about it.
    pub(crate) snat: Option<SourceNat>,
    pub(crate) flow_entries: u32,
    pub(crate) subnet: &'static str,
    /// The network's config.
    pub(crate) config: &'static str,
    _turn: Turn,
}

/// Those who may run beside others, and those who have to be alone.
static TURNS: RwLock<()> = RwLock::new(());

#[derive(Debug)]
enum Turn {
    Beside(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

impl Rig {
    pub(crate) fn new() -> Self {
        let turn = TURNS.read().unwrap_or_else(PoisonError::into_inner);
        Self::made(Turn::Beside(turn))
    }

    /// While no other test of this binary runs. All namespaces share one lock for changes of devices and routes
    /// (`rtnl_mutex`), and to take one away keeps it for milliseconds.
    pub(crate) fn alone() -> Self {
        let turn = TURNS.write().unwrap_or_else(PoisonError::into_inner);
        Self::made(Turn::Alone(turn))
    }

    fn made(turn: Turn) -> Self {
        let name = sweep::unique_name();
        let netns = Netns::create(&name);
        netns.run("ip link add eth0 type veth peer name far0");
        netns.run("ip addr add 192.168.0.1/24 dev eth0");
        for link in ["eth0", "far0"] {
            netns.run(&format!("ip link set {link} up"));
        }
        let folder = sweep::folder(&name);
        std::fs::create_dir_all(folder.join("bpf")).unwrap();
        let peer = LeaseAttrs::vxlan(Ipv4Addr::new(192, 168, 0, 2), 1, PEER_MAC);
        Self {
            netns,
            folder,
            leases: BTreeMap::from([("10.244.2.0/24".parse().unwrap(), peer)]),
            iface: "eth0",
            attach: AttachMode::Auto,
            fast_path: FastPath {
                mode: Mode::Off,
                ..FastPath::default()
            },
            snat: None,
            flow_entries: 8192,
            subnet: "10.244.1.0/24",
            config: r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#,
            _turn: turn,
        }
    }

    /// Moves the uplink's far end into a node that runs the kernel's vxlan as flanneld sets it up:
    /// 192.168.0.2, subnet 10.244.2.0/24.
    pub(crate) fn kernel_peer(&self) -> Netns {
        let peer = Netns::create(&sweep::unique_name());
        self.netns
            .run(&format!("ip link set far0 netns {}", peer.name()));
        for line in [
            "ip link set far0 up",
            "ip addr add 192.168.0.2/24 dev far0",
            "ip link add flannel.1 address 02:00:00:00:00:02 type vxlan id 1 local 192.168.0.2 \
             dstport 8472 nolearning",
            "ip link set flannel.1 up mtu 1450",
            "ip addr add 10.244.2.0/32 dev flannel.1",
            "ip neigh replace 10.244.1.0 lladdr 02:00:00:00:00:01 nud permanent dev flannel.1",
            "bridge fdb replace 02:00:00:00:00:01 dev flannel.1 dst 192.168.0.1 self permanent",
            "ip route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
        ] {
            peer.run(line);
        }
        peer
    }

    /// One life of the agent.
    pub(crate) fn agent<T: Send>(&self, life: impl AsyncFnOnce(&mut Agent<'_>) -> T + Send) -> T {
        self.netns.block_on(async || {
            let dataplane = Dataplane::open(&Options {
                bpffs: self.bpffs(),
                network: NETWORK.to_owned(),
                ebpf_object: None,
                attach: self.attach,
                state_dir: self.state_dir(),
                flow_entries: self.flow_entries,
                snat_entries: self.snat.as_ref().map(|_| 8192),
            });
            let mut agent = Agent {
                rig: self,
                dataplane: dataplane.unwrap(),
            };
            life(&mut agent).await
        })
    }

    pub(crate) fn bpffs(&self) -> PathBuf {
        self.folder.join("bpf")
    }

    /// Its `/run/flannel`.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Our folder in bpffs.
    pub(crate) fn pins(&self) -> PathBuf {
        self.bpffs().join("flannel").join(NETWORK)
    }

    pub(crate) fn map_pin(&self, name: &str) -> PathBuf {
        let layout = format!("v{}/maps", flannel_common::maps::LAYOUT_VERSION);
        self.pins().join(layout).join(name)
    }

    /// The only pin of a program's link.
    pub(crate) fn link_pin(&self, program: &str) -> PathBuf {
        let mut found: Vec<_> = std::fs::read_dir(self.pins().join("links"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                name.rsplit_once('-').unwrap().0 == program
            })
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        sweep::remove_folder(&self.folder);
    }
}

pub(crate) struct Agent<'a> {
    pub(crate) rig: &'a Rig,
    pub(crate) dataplane: Dataplane,
}

impl Agent<'_> {
    pub(crate) async fn uplink(&self) -> Uplink {
        let choice = flannel_agent::base::options::UplinkChoice {
            interfaces: vec![self.rig.iface.to_owned()],
            ..Default::default()
        };
        uplink::find(self.dataplane.netlink(), &choice, &Memory::default(), None)
            .await
            .unwrap()
    }

    pub(crate) async fn desired_for(
        &self,
        leases: &BTreeMap<ipnet::Ipv4Net, LeaseAttrs>,
    ) -> Desired {
        let uplink = self.uplink().await;
        let leases = Arc::new(leases.clone());
        let fast_path = &self.rig.fast_path;
        let config = NetworkConfig::parse(self.rig.config).unwrap();
        let sought = Sought {
            config: &config,
            uplink: &uplink,
            leases: &leases,
            fast_path,
            sysctls: self.dataplane.sysctls(),
            network: NETWORK,
        };
        let facts = Facts::gather(self.dataplane.netlink(), sought)
            .await
            .unwrap();
        let subnet = self.rig.subnet.parse().unwrap();
        let direct = Direct::new(&config, subnet, &leases, &uplink, &facts.on_link);
        Desired::new(&Inputs {
            network: NETWORK,
            config: &config,
            subnet,
            leases: &leases,
            uplink: &uplink,
            direct: &direct.routes,
            vtep_mac: MAC,
            public_key: None,
            facts: &facts,
            source_check: SourceCheck::Lease,
            fast_path,
            snat: self.rig.snat.as_ref(),
        })
        .unwrap()
    }

    pub(crate) async fn desired(&self) -> Desired {
        self.desired_for(&self.rig.leases).await
    }

    /// Reconciles, and expects every action to work.
    pub(crate) async fn reconcile(&mut self) -> Vec<String> {
        let desired = self.desired().await;
        words(&self.dataplane.reconcile(&desired).await.unwrap())
    }

    /// As [`Self::reconcile`], to this state.
    pub(crate) async fn reconcile_to(&mut self, desired: &Desired) -> Vec<String> {
        words(&self.dataplane.reconcile(desired).await.unwrap())
    }

    /// Reconciles, which cannot be done; says why.
    pub(crate) async fn refusal(&mut self) -> String {
        let desired = self.desired().await;
        let error = self.dataplane.reconcile(&desired).await.unwrap_err();
        error.to_string()
    }

    /// Reconciles; afterwards nothing may be left to do.
    pub(crate) async fn converge(&mut self) -> Vec<String> {
        let did = self.reconcile().await;
        assert_eq!(self.reconcile().await, <[&str; 0]>::default(), "left to do");
        did
    }
}

pub(crate) fn words(report: &Report) -> Vec<String> {
    assert_eq!(report.failed, [], "everything works here");
    report.done.iter().map(ToString::to_string).collect()
}

/// Runs something slow while the agent's tasks go on.
pub(crate) async fn meanwhile<T: Send + 'static>(slow: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(slow).await.unwrap()
}

/// Runs a command in the namespace of the calling thread.
#[track_caller]
pub(crate) fn sh(line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = std::process::Command::new(words.next().unwrap());
    flannel_tests::netns::run(command.args(words))
}
