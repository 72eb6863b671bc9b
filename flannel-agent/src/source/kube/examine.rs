//! The datastore as `plan` and `doctor` look at it: nothing is written.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use hyper::Method;
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::json;

use super::client::Ask;
use super::lease::{address, annotations, attrs, missing, subnet};
use super::names::Name;
use super::table::{Own, Scope, Table};
use super::{Identity, KubeError, KubeSource, UNASSIGNED};
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, OwnLease};
use crate::source::etcd::{LeaseChange, LeasePreview};

/// What our Node says before anything is done.
#[derive(Debug)]
pub struct Place {
    pub lease: Option<OwnLease>,
    /// An admin's annotation node-public-ip.
    pub public_ip: Option<Ipv4Addr>,
}

/// What a look at the API server gives.
#[derive(Debug, Default)]
pub struct Examined {
    /// Of the API server, and the time there.
    pub version: String,
    pub date: Option<String>,
    /// What we may not do, as verb and object.
    pub forbidden: Vec<String>,
    /// Our Node's name, podCIDR and annotation public-ip.
    pub node: String,
    pub subnet: Option<Ipv4Net>,
    pub public_ip: Option<String>,
    /// And public-ipv6, which flanneld asks of each Node where IPv6 is enabled.
    pub public_ipv6: Option<String>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default, rename = "gitVersion")]
    git_version: String,
}

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    status: ReviewStatus,
}

#[derive(Deserialize, Default)]
struct ReviewStatus {
    #[serde(default)]
    allowed: bool,
}

impl KubeSource {
    /// Our Node's part in the network so far, asked for once.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn find_place(&self) -> Result<Place, KubeError> {
        let node = self.node().await?;
        let public_ip = node.as_ref().and_then(|node| node.get(Name::NodePublicIp));
        Ok(Place {
            public_ip: public_ip.and_then(|text| address(text).ok()),
            lease: node.as_ref().and_then(Self::published),
        })
    }

    /// What a start would write, and everybody else's leases; writes nothing.
    ///
    /// # Errors
    /// When the API server does not answer, or has no podCIDR for us.
    pub async fn preview(
        &self,
        config: &NetworkConfig,
        wanted: &LeaseAttrs,
    ) -> anyhow::Result<LeasePreview> {
        let name = self.name().await?;
        let node = self.api.node(name).await?;
        let node = node.with_context(|| format!("there is no Node {name}"))?;
        let own = subnet(&node)?.context(UNASSIGNED)?;
        if !config.network.contains(&own) {
            anyhow::bail!("{}", super::outside(own, config));
        }
        let change = match missing(&node, annotations(&node, wanted)).is_empty() {
            true => LeaseChange::None,
            false => LeaseChange::Rewrite(attrs(&node).ok().map(Box::new)),
        };
        let mut table = Table::new(
            name.to_owned(),
            Own {
                subnet: own,
                public_ip: wanted.public_ip,
            },
            Scope::of(config),
        );
        let mut from = None;
        loop {
            let page = self.api.page(from.as_deref()).await?;
            for node in &page.nodes {
                table.put(node);
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        Ok(LeasePreview {
            subnet: own,
            given_up: Vec::new(),
            change,
            others: table.others().into(),
        })
    }

    /// Asks for all that a start needs, and for the right to it.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn examine(&self) -> Result<Examined, KubeError> {
        let ask = Ask::get("ask for the version", "/version");
        let answer = self.api.client.send(&ask).await?;
        let version: Option<Version> = serde_json::from_slice(&answer.body).ok();
        let mut examined = Examined {
            version: version
                .map(|version| version.git_version)
                .unwrap_or_default(),
            date: answer.date,
            ..Examined::default()
        };
        for (verb, resource, part) in self.rights() {
            if !self.may(verb, resource, part).await? {
                let part = if part.is_empty() { "" } else { "/status" };
                examined.forbidden.push(format!("{verb} {resource}{part}"));
            }
        }
        examined.node = self.name().await?.to_owned();
        if let Some(node) = self.node().await? {
            examined.subnet = subnet(&node).ok().flatten();
            examined.public_ip = node.get(Name::PublicIp).map(str::to_owned);
            examined.public_ipv6 = node.get(Name::PublicIpv6).map(str::to_owned);
        }
        Ok(examined)
    }

    /// Verb, resource and part of it.
    fn rights(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        let mut rights = vec![
            ("get", "nodes", ""),
            ("list", "nodes", ""),
            ("watch", "nodes", ""),
            ("patch", "nodes", "status"),
        ];
        if matches!(self.identity, Identity::Pod { .. }) {
            rights.push(("get", "pods", ""));
        }
        rights
    }

    async fn may(&self, verb: &str, resource: &str, part: &str) -> Result<bool, KubeError> {
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": { "verb": verb, "resource": resource, "subresource": part } },
        })
        .to_string();
        let ask = Ask {
            what: "create selfsubjectaccessreviews",
            method: Method::POST,
            path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            body: Some(("application/json", &body)),
        };
        let answer = self.api.client.send(&ask).await?;
        let review: Option<Review> = serde_json::from_slice(&answer.body).ok();
        Ok(review.is_some_and(|review| review.status.allowed))
    }
}
