//! The calls of the protocol, for one network.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hyper::Method;
use ipnet::Ipv4Net;

use super::client::{Answer, Ask, Client, Line};
use super::error::RemoteError;
use crate::flannel::lease::{LeaseAttrs, OwnLease};
use crate::flannel::remote::{FOREVER, Lease, UNNAMED, Watched, attrs_value, lease_value, segment};

/// One network at the servers.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) client: Client,
    /// `/v1/_`
    base: String,
}

impl Api {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            base: format!("/v1/{UNNAMED}"),
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

    /// What has changed since `cursor`, when it has.
    pub(super) async fn poll(
        &self,
        cursor: Option<&str>,
        line: &mut Line,
    ) -> Result<Watched, RemoteError> {
        let path = match cursor {
            Some(cursor) => format!("{}?next={cursor}", self.leases()),
            None => self.leases(),
        };
        let answer = self
            .client
            .poll(get("follow the leases", &path), line)
            .await?;
        watched(&answer)
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
        let path = format!("{}/{previous}", self.leases());
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

fn watched(answer: &Answer) -> Result<Watched, RemoteError> {
    Watched::from_json(&answer.body).map_err(|error| unreadable(answer, error.to_string()))
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
