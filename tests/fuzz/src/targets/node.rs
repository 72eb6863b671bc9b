//! Files on the node that others may have written.

use flannel_agent::flannel::subnet_env;

/// A subnet that is read from the file is a network address.
pub(super) fn subnet_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let previous = subnet_env::parse(text);
    for cidr in [previous.network, previous.subnet].into_iter().flatten() {
        assert_eq!(cidr, cidr.trunc());
    }
}
