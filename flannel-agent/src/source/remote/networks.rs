//! Which networks there are at the servers, by long polls.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::client::{Client, Line};
use super::error::{RemoteError, RemoteOptionsError};
use super::options::RemoteOptions;
use crate::flannel::remote::{NetworkEvent, Networks};
use crate::source::RESTORED;
use crate::source::etcd::patience::Patience;
use crate::source::etcd::told::until;
use crate::source::networks::{Found, Roll, name_missing};

/// Before a server is asked again that has told all anew.
const AGAIN: Duration = Duration::from_secs(1);

/// The networks that some servers have.
#[derive(Debug)]
pub struct RemoteNetworks {
    api: Api,
}

impl RemoteNetworks {
    /// Prepares connections; none is made before the first use.
    ///
    /// # Errors
    /// When a server is no host and port, or a certificate file cannot be used.
    pub fn new(options: &RemoteOptions) -> Result<Self, RemoteOptionsError> {
        Ok(Self {
            api: Api::new(Client::new(options)?, None),
        })
    }

    /// Keeps `found` equal to what the servers say until cancelled. While none answers, what is known stays known.
    pub async fn follow(&self, found: &watch::Sender<Found>, cancel: &CancellationToken) {
        let follower = Follower {
            api: &self.api,
            found,
            roll: Roll::default(),
            cursor: None,
            settled: None,
        };
        cancel.run_until_cancelled(follower.run()).await;
    }
}

struct Follower<'a> {
    api: &'a Api,
    found: &'a watch::Sender<Found>,
    roll: Roll,
    cursor: Option<String>,
    /// When what is missing is given up.
    settled: Option<Instant>,
}

impl Follower<'_> {
    /// Never returns; drop it to end it.
    async fn run(mut self) -> Infallible {
        let mut patience = Patience::growing_with("the server");
        loop {
            let Err(error) = self.follow(&mut patience).await;
            patience.lost("following the networks", &error).await;
        }
    }

    async fn follow(&mut self, patience: &mut Patience) -> Result<Infallible, RemoteError> {
        let mut line = Line::default();
        loop {
            let cursor = self.cursor.clone();
            let networks = tokio::select! {
                polled = self.api.poll_networks(cursor.as_deref(), &mut line) => polled?,
                () = until(self.settled) => {
                    let networks = self.api.networks().await?;
                    self.settled = None;
                    line = Line::default();
                    self.apply(networks);
                    self.give_up();
                    continue;
                }
            };
            patience.over();
            let again = cursor.is_some() && networks.events.is_empty();
            self.apply(networks);
            if again {
                sleep(AGAIN.mul_f64(rand::random_range(0.9..1.1))).await;
            }
        }
    }

    fn apply(&mut self, networks: Networks) {
        self.cursor = Some(networks.cursor);
        if networks.events.is_empty() {
            let missing = self.roll.list(networks.snapshot.into_iter().collect());
            if !missing.is_empty() {
                name_missing("the server", &missing);
                self.settled = Some(Instant::now() + RESTORED);
            }
        }
        for event in networks.events {
            match event {
                NetworkEvent::Added(name) => self.roll.change(name, true),
                NetworkEvent::Removed(name) => self.roll.change(name, false),
            }
        }
        self.roll.publish(self.found);
    }

    /// What is missing still, unless it is so since now.
    fn give_up(&mut self) {
        if self.settled.is_none() && self.roll.give_up() {
            self.roll.publish(self.found);
        }
    }
}
