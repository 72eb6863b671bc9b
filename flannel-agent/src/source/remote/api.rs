//! The calls of the protocol, for one network.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hyper::Method;
use ipnet::Ipv4Net;

use super::client::{Answer, Ask, Client, Line};
use super::error::RemoteError;
use crate::flannel::lease::{LeaseAttrs, OwnLease};
use crate::flannel::remote::{
    FOREVER, Lease, Networks, UNNAMED, Watched, attrs_value, lease_value, segment,
};

const NETWORKS: &str = "/v1/";

/// One network at the servers.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) client: Client,
    /// `/v1/_`
    base: String,
}

impl Api {
    /// `None`: the network without a name.
    pub(super) fn new(client: Client, network: Option<&str>) -> Self {
        let name = network.unwrap_or(UNNAMED);
        Self {
            client,
            base: format!("/v1/{name}"),
        }
    }

    fn leases(&self) -> String {
        format!("{}/leases", self.base)
    }

    pub(super) async fn config(&self) -> Result<String, RemoteError> {
        let path = format!("{}/config", self.base);
        let answer = self
            .client
            .ask(get("read the network configuration", &path))
            .await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// The same of each server.
    pub(super) async fn configs(&self) -> Vec<(String, Result<Answer, RemoteError>)> {
        let path = format!("{}/config", self.base);
        self.client
            .ask_each(get("read the network configuration", &path))
            .await
    }

    /// All leases of now, and the time at the server.
    pub(super) async fn list(&self) -> Result<(Watched, Answer), RemoteError> {
        let path = self.leases();
        let answer = self.client.ask(get("read the leases", &path)).await?;
        Ok((watched(&answer)?, answer))
    }

    /// What has changed since `cursor`, when it has, and in which etcd.
    pub(super) async fn poll(
        &self,
        cursor: Option<&str>,
        line: &mut Line,
    ) -> Result<(Watched, Option<String>), RemoteError> {
        let path = since(&self.leases(), cursor);
        let answer = self
            .client
            .poll(get("follow the leases", &path), line)
            .await?;
        Ok((watched(&answer)?, answer.cluster))
    }

    /// Which networks there are, whichever this is.
    pub(super) async fn networks(&self) -> Result<Networks, RemoteError> {
        let ask = get("list the networks", NETWORKS);
        networks(&self.client.ask(ask).await?)
    }

    /// What has changed of that since `cursor`, when it has.
    pub(super) async fn poll_networks(
        &self,
        cursor: Option<&str>,
        line: &mut Line,
    ) -> Result<Networks, RemoteError> {
        let path = since(NETWORKS, cursor);
        let ask = get("follow the networks", &path);
        networks(&self.client.poll(ask, line).await?)
    }

    /// Ends the lease of `holder`, which old servers do not look at.
    pub(super) async fn revoke(
        &self,
        subnet: Ipv4Net,
        holder: Ipv4Addr,
    ) -> Result<(), RemoteError> {
        let path = format!("{}/{}?was={holder}", self.leases(), segment(subnet));
        let ask = Ask {
            what: "end this node's lease",
            method: &Method::DELETE,
            path: &path,
            body: "",
        };
        self.client.ask(ask).await.map(drop)
    }

    /// `previous` is no part of flannel 0.7's protocol: its servers do not look at it.
    pub(super) async fn acquire(
        &self,
        attrs: &LeaseAttrs,
        previous: Option<Ipv4Net>,
    ) -> Result<OwnLease, RemoteError> {
        let previous = previous.map_or_else(String::new, |subnet| {
            format!("?previous={}", segment(subnet))
        });
        // No slash behind `leases`: for flanneld 0.7's server that is another path, where there is nothing.
        let path = format!("{}{previous}", self.leases());
        let ask = Ask {
            what: "give this node a lease",
            method: &Method::POST,
            path: &path,
            body: &attrs_value(attrs).to_string(),
        };
        own(&self.client.ask(ask).await?, attrs)
    }

    /// `was`, where the lease names another address until now, is none either.
    pub(super) async fn renew(
        &self,
        subnet: Ipv4Net,
        attrs: &LeaseAttrs,
        was: Option<Ipv4Addr>,
    ) -> Result<OwnLease, RemoteError> {
        let was = was.map_or_else(String::new, |was| format!("?was={was}"));
        let path = format!("{}/{}{was}", self.leases(), segment(subnet));
        let ask = Ask {
            what: "renew this node's lease",
            method: &Method::PUT,
            path: &path,
            body: &lease_value(subnet, attrs, None).to_string(),
        };
        let answer = self.client.ask(ask).await?;
        let own = own(&answer, attrs)?;
        match own.subnet == subnet {
            true => Ok(own),
            false => Err(unreadable(&answer, format!("it is about {}", own.subnet))),
        }
    }
}

fn get<'a>(what: &'a str, path: &'a str) -> Ask<'a> {
    Ask {
        what,
        method: &Method::GET,
        path,
        body: "",
    }
}

fn since(path: &str, cursor: Option<&str>) -> String {
    match cursor {
        Some(cursor) => format!("{path}?next={cursor}"),
        None => path.to_owned(),
    }
}

fn networks(answer: &Answer) -> Result<Networks, RemoteError> {
    Networks::from_json(&answer.body).map_err(|error| unreadable(answer, error.to_string()))
}

fn watched(answer: &Answer) -> Result<Watched, RemoteError> {
    let watched =
        Watched::from_json(&answer.body).map_err(|error| unreadable(answer, error.to_string()))?;
    for why in &watched.unread {
        tracing::warn!(server = answer.server, "{why}");
    }
    Ok(watched)
}

fn unreadable(answer: &Answer, reason: String) -> RemoteError {
    RemoteError::Answer {
        server: answer.server.clone(),
        reason,
    }
}

fn own(answer: &Answer, attrs: &LeaseAttrs) -> Result<OwnLease, RemoteError> {
    let lease = Lease::from_json(&answer.body);
    let lease = lease.map_err(|error| unreadable(answer, error.to_string()))?;
    Ok(OwnLease {
        subnet: lease.subnet,
        attrs: attrs.clone(),
        expires: expiry(&lease, answer),
    })
}

/// When a lease ends, by the server's clock; `None`: never.
pub(super) fn expiry(lease: &Lease, answer: &Answer) -> Option<Instant> {
    let left = lease.expires?.unix().saturating_sub(answer.date.unix());
    // See `FOREVER`: as long is never.
    let ends = left < FOREVER - Duration::from_hours(24);
    ends.then(|| Instant::now() + left)
}
