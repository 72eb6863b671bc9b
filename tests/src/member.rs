//! A node that takes part in a flannel network, whoever does the work on it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::network::{Network, Subnet};
use crate::node::Node;
use crate::subnet_env::SubnetEnv;

/// A node with a lease. What all kinds have in common is what real flannel shows to others.
pub trait Member: std::fmt::Debug {
    fn node(&self) -> &Node;

    fn net(&self) -> &Network;

    /// Where its `subnet.env` is.
    fn subnet_file(&self) -> PathBuf;

    /// Makes it follow the leases that are in etcd now; returns at once where an agent does that by itself.
    fn follow_leases(&self);

    /// Waits until it has put at a pod's port what it puts there; returns at once where that costs no packet.
    fn settle(&self, _port: &str) {}

    /// What the CNI plugin reads.
    ///
    /// # Panics
    /// If the file is not there.
    fn subnet_env(&self) -> SubnetEnv {
        let file = self.subnet_file();
        SubnetEnv::read(&file).unwrap_or_else(|| panic!("{} is missing", file.display()))
    }

    fn subnet(&self) -> Subnet {
        self.subnet_env().subnet()
    }

    /// Address of flannel's device: the source of traffic from this host to pods of others.
    fn vtep(&self) -> Ipv4Addr {
        self.subnet().base
    }
}

/// Subnets that none of the members holds, for leases that a test writes: agents draw theirs at random.
///
/// # Panics
/// If there are not as many.
pub fn free_subnets<const N: usize>(net: &Network, members: &[&dyn Member]) -> [Subnet; N] {
    let held: Vec<Subnet> = members.iter().map(|member| member.subnet()).collect();
    let mut free = net.subnets().filter(|subnet| !held.contains(subnet));
    std::array::from_fn(|_| free.next().expect("a free subnet"))
}

/// A member of either kind.
pub type AnyMember = Box<dyn Member>;

impl Member for AnyMember {
    fn node(&self) -> &Node {
        (**self).node()
    }

    fn net(&self) -> &Network {
        (**self).net()
    }

    fn subnet_file(&self) -> PathBuf {
        (**self).subnet_file()
    }

    fn follow_leases(&self) {
        (**self).follow_leases();
    }

    fn settle(&self, port: &str) {
        (**self).settle(port);
    }
}
