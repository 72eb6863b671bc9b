//! extension: what a tunnel needs is done by commands of the operator's, which flannel's configuration names. A lease says what the first
//! of them printed.

mod command;

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::excerpt::excerpt;
use crate::flannel::lease::LeaseAttrs;

pub use command::CommandLine;

pub(super) const NAME: &str = "extension";

/// The commands; `None`: nothing is to be done then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionOptions {
    /// Before this node has a lease. What it prints is in that.
    pub pre_startup: Option<CommandLine>,
    /// Once it has.
    pub post_startup: Option<CommandLine>,
    pub subnet_add: Option<CommandLine>,
    pub subnet_remove: Option<CommandLine>,
}

impl LeaseAttrs {
    /// The lease of a node whose first command printed `data`; `None` without one.
    #[must_use]
    pub fn extension(public_ip: Ipv4Addr, data: Option<String>) -> Self {
        Self {
            backend_type: NAME.to_owned(),
            backend_data: data.map(Value::String).map(Into::into),
            ..Self::host_gw(public_ip)
        }
    }

    /// What the first command of that node printed.
    ///
    /// # Errors
    /// The lease is of another backend, or says something else.
    pub fn extension_data(&self) -> Result<&str, String> {
        if self.backend_type != NAME {
            return Err(format!(
                "BackendType is {:?}, not \"extension\": all nodes of a network must use one backend",
                excerpt(&self.backend_type)
            ));
        }
        match self.backend_data.as_deref() {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(data)) => Ok(data),
            Some(other) => {
                let other = excerpt(&other.to_string());
                Err(format!("BackendData is {other}: no text"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);

    #[test]
    fn own_lease_to_the_byte() {
        let lease = |data: Option<&str>| {
            let attrs = LeaseAttrs::extension(IP, data.map(str::to_owned));
            attrs.to_json().unwrap()
        };
        assert_eq!(
            lease(None),
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"extension"}"#
        );
        assert_eq!(
            lease(Some("a <b>&\"c\"\nd")),
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"extension","BackendData":"a \u003cb\u003e\u0026\"c\"\nd"}"#
        );
    }

    #[test]
    fn what_a_peer_says() {
        let said = LeaseAttrs::extension(IP, Some("02:00".to_owned()));
        assert_eq!(said.extension_data(), Ok("02:00"));
        assert_eq!(LeaseAttrs::extension(IP, None).extension_data(), Ok(""));
        let other = LeaseAttrs::host_gw(IP).extension_data().unwrap_err();
        assert!(other.contains("\"host-gw\""), "{other}");
        let number = LeaseAttrs {
            backend_data: Some(Value::from(7).into()),
            ..LeaseAttrs::extension(IP, None)
        };
        assert_eq!(
            number.extension_data().unwrap_err(),
            "BackendData is 7: no text"
        );
    }

    #[test]
    fn errors_show_the_beginning_of_what_is_long() {
        let long = "x".repeat(1 << 20);
        let other = LeaseAttrs {
            backend_type: long.clone(),
            ..LeaseAttrs::host_gw(IP)
        };
        let list = LeaseAttrs {
            backend_data: Some(Value::from(vec![long]).into()),
            ..LeaseAttrs::extension(IP, None)
        };
        for lease in [other, list] {
            let error = lease.extension_data().unwrap_err();
            assert!(
                error.contains("xxx…") && error.len() < 400,
                "{}",
                error.len()
            );
        }
    }
}
