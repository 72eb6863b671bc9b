//! Calls to a cluster: one endpoint at a time, the next when it fails, or is silent while something is read.
//!
//! etcd-client's own balancing would send every second call to a dead endpoint, and one of flannel's
//! two default endpoints is dead on every machine.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, WatchOptions, WatchResponse, WatchStream};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;

use super::endpoint::Endpoint;
use super::error::{EtcdError, OptionsError, describe, refusal, wants_login};
use super::options::EtcdOptions;

/// etcd itself gives up on a request after 5 s and two election timeouts.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Who has been silent for so long may hang, and the next endpoint is asked as well.
const HANGS: Duration = Duration::from_secs(2);

/// The endpoints of one cluster.
#[derive(Debug)]
pub(super) struct Session {
    endpoints: Vec<Endpoint>,
    /// The one that answered last; it is asked first.
    current: AtomicUsize,
    /// Told when what is connected is dead.
    dead: watch::Sender<()>,
}

/// An open watch.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) endpoint: String,
    pub(super) stream: WatchStream,
    dead: watch::Receiver<()>,
}

/// Why a call or a watch was given up.
const MOVED: &str = "this node's address has changed: connecting anew";

impl Watch {
    /// The next message, or why there is none any more.
    pub(super) async fn message(&mut self) -> Result<WatchResponse, String> {
        tokio::select! {
            message = self.stream.message() => match message {
                Ok(Some(response)) => Ok(response),
                Ok(None) => Err("the stream is closed".to_owned()),
                Err(error) => Err(describe(&error)),
            },
            Ok(()) = self.dead.changed() => Err(MOVED.to_owned()),
        }
    }
}

impl Session {
    pub(super) fn new(options: &EtcdOptions) -> Result<Self, OptionsError> {
        Ok(Self {
            endpoints: Endpoint::all(options)?,
            current: AtomicUsize::new(0),
            dead: watch::Sender::default(),
        })
    }

    /// Gives up all connections, and what is under way on them: what comes from an address that this node no longer has is
    /// answered by nobody, and refused by nobody.
    pub(super) fn reconnect(&self) {
        self.endpoints.iter().for_each(Endpoint::forget);
        self.dead.send_replace(());
    }

    /// Runs `call`, on each endpoint at most once, until one answers. `what` completes "cannot …".
    pub(super) async fn call<T, F>(
        &self,
        what: &str,
        call: impl Fn(Client) -> F + Sync,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let answered = self.call_at(what, None, call).await;
        answered.map(|(_, answer)| answer)
    }

    /// The same for what changes nothing, and may be asked of several: an endpoint that hangs costs [`HANGS`], not [`CALL_TIMEOUT`].
    pub(super) async fn read<T, F>(
        &self,
        what: &str,
        call: impl Fn(Client) -> F + Sync,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let answered = self.call_at(what, Some(HANGS), call).await;
        answered.map(|(_, answer)| answer)
    }

    /// Watches `key` from `revision` on; `prefix` also what is below it.
    pub(super) async fn watch(
        &self,
        key: &str,
        prefix: bool,
        revision: i64,
    ) -> Result<Watch, EtcdError> {
        // Not fragmented: a response would then no longer be complete up to its revision.
        let options = WatchOptions::new()
            .with_start_revision(revision)
            .with_progress_notify();
        let options = if prefix {
            options.with_prefix()
        } else {
            options
        };
        let what = format!("watch {key}");
        let dead = self.dead.subscribe();
        let (endpoint, stream) = self
            .call_at(&what, Some(HANGS), |client| {
                let options = options.clone();
                async move {
                    client
                        .watch_client()
                        .max_decoding_message_size(usize::MAX)
                        .watch(key, Some(options))
                        .await
                }
            })
            .await?;
        Ok(Watch {
            endpoint: endpoint.to_owned(),
            stream,
            dead,
        })
    }

    /// Runs `call` until an endpoint answers, on each at most once: on the next when one fails, and `pause` after the last was
    /// asked.
    async fn call_at<T, F>(
        &self,
        what: &str,
        pause: Option<Duration>,
        call: impl Fn(Client) -> F + Sync,
    ) -> Result<(&str, T), EtcdError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut failures = Vec::new();
        let mut dead = self.dead.subscribe();
        let first = self.current.load(Ordering::Relaxed);
        let count = self.endpoints.len();
        let mut turns = (first..first + count).map(|turn| turn % count);
        let call = &call;
        let ask = |index: usize| async move {
            let endpoint = &self.endpoints[index];
            let attempt = async {
                let (client, used) = endpoint.client().await?;
                match call(client).await {
                    Err(error) if endpoint.has_login() && wants_login(&error) => {
                        endpoint.forget_that(&used);
                        call(endpoint.client().await?.0).await
                    }
                    answer => answer,
                }
            };
            (index, tokio::time::timeout(CALL_TIMEOUT, attempt).await)
        };
        let mut asked = FuturesUnordered::new();
        loop {
            if let Some(index) = turns.next() {
                asked.push(ask(index));
            }
            let (index, answer) = tokio::select! {
                answered = asked.next() => match answered {
                    Some(answered) => answered,
                    None => break,
                },
                () = after(pause), if turns.len() > 0 => continue,
                // Whether the call arrived, nobody knows: whoever made it looks again.
                Ok(()) = dead.changed() => {
                    failures.push(format!("{}: {MOVED}", self.endpoints[first % count].url()));
                    break;
                }
            };
            let endpoint = &self.endpoints[index];
            let reason = match answer {
                Ok(Ok(answer)) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok((endpoint.url(), answer));
                }
                Ok(Err(error)) => match refusal(&error) {
                    Some((code, reason)) => {
                        return Err(EtcdError::Refused {
                            endpoint: endpoint.url().to_owned(),
                            what: what.to_owned(),
                            reason,
                            code,
                            surely: failures.is_empty(),
                        });
                    }
                    None => describe(&error),
                },
                Err(_) => format!("no answer in {} s", CALL_TIMEOUT.as_secs()),
            };
            failures.push(format!("{}: {reason}", endpoint.url()));
        }
        Err(EtcdError::Unreachable {
            what: what.to_owned(),
            failures: failures.join("; "),
        })
    }
}

async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
