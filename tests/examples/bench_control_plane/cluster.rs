//! The other nodes of the cluster, which exist as leases only.

use std::net::Ipv4Addr;

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use flannel_common::Mac;
use flannel_tests::network::Subnet;
use flannel_tests::prelude::*;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

/// flannel's leases live for a day.
const TTL: i64 = 24 * 60 * 60;
/// etcd takes no more operations in one transaction (`--max-txn-ops`).
const BATCH: usize = 128;

/// Lease `n` belongs to the `n`-th subnet, its node to the `n`-th address of 172.16.0.0/12.
#[derive(Debug)]
pub(crate) struct Cluster<'a> {
    node: &'a Node,
    net: Network,
    subnets: Vec<Subnet>,
    lease: i64,
}

impl<'a> Cluster<'a> {
    /// Writes `leases` leases as flannel does, by way of `node`.
    pub(crate) fn write(node: &'a Node, net: &Network, leases: u32) -> Self {
        let subnets: Vec<Subnet> = net.subnets().take(leases as usize).collect();
        assert_eq!(
            subnets.len(),
            leases as usize,
            "{} has that many subnets",
            net.cidr
        );
        let mut cluster = Self {
            node,
            net: net.clone(),
            subnets,
            lease: 0,
        };
        cluster.lease = cluster.write_all();
        cluster
    }

    pub(crate) fn leases(&self) -> u32 {
        u32::try_from(self.subnets.len()).expect("checked when they were written")
    }

    pub(crate) fn subnet(&self, n: u32) -> Subnet {
        self.subnets[n as usize]
    }

    fn write_all(&self) -> i64 {
        self.with_client(|runtime, client| {
            runtime.block_on(async {
                let lease = client.lease_grant(TTL, None).await.expect("a lease").id();
                let options = PutOptions::new().with_lease(lease);
                let puts: Vec<TxnOp> = (0..self.leases())
                    .map(|n| {
                        TxnOp::put(self.key(n), self.value(n, mac(n, 0)), Some(options.clone()))
                    })
                    .collect();
                for batch in puts.chunks(BATCH) {
                    client
                        .txn(Txn::new().and_then(batch))
                        .await
                        .expect("write leases");
                }
                lease
            })
        })
    }

    /// Hands out a way to rewrite single leases: `(n, generation)` gives lease `n` another MAC.
    pub(crate) fn rewriting<T: Send>(
        &self,
        work: impl FnOnce(&mut dyn FnMut(u32, u8)) -> T + Send,
    ) -> T {
        self.with_client(|runtime, client| {
            work(&mut |n, generation| {
                let options = PutOptions::new().with_lease(self.lease);
                let value = self.value(n, mac(n, generation));
                let put = client.put(self.key(n), value, Some(options));
                runtime.block_on(put).expect("rewrite a lease");
            })
        })
    }

    /// The client's sockets must be made inside the node.
    fn with_client<T: Send>(&self, work: impl FnOnce(&Runtime, &mut Client) -> T + Send) -> T {
        self.node.netns().enter(|| {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            let mut client = runtime
                .block_on(Client::connect([self.node.etcd()], None))
                .expect("connect to etcd");
            work(&runtime, &mut client)
        })
    }

    fn key(&self, n: u32) -> String {
        self.net.lease_key(self.subnet(n))
    }

    fn value(&self, n: u32, mac: Mac) -> String {
        let public_ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + n);
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        json!({
            "PublicIP": public_ip,
            "PublicIPv6": null,
            "BackendType": "vxlan",
            "BackendData": {"VNI": self.net.vni, "VtepMAC": mac},
        })
        .to_string()
    }
}

/// A locally administered address of its own for every lease and generation.
pub(crate) fn mac(n: u32, generation: u8) -> Mac {
    let [_, a, b, c] = n.to_be_bytes();
    [2, generation, 0, a, b, c]
}
