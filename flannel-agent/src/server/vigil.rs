//! Whether the server can answer its clients: not before etcd has answered once, nor while it has been silent for long.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::base::logging::describe;
use crate::daemon::health::Ready;
use crate::source::etcd::registry::Registry;

/// Between two questions while nobody waits for the answer, and while somebody does.
const REST: Duration = Duration::from_secs(10);
const HASTE: Duration = Duration::from_secs(1);
/// An etcd that elects a leader, or is started anew, is soon back: whoever takes us out of a balancer for that has gained nothing.
const LONG: Duration = Duration::from_secs(60);

/// Asks etcd now and then, and tells `ready`; `first` when it has answered once. Never ends.
pub(super) async fn keep(
    registry: Registry,
    ready: Ready,
    first: oneshot::Sender<()>,
) -> Infallible {
    let mut first = Some(first);
    let mut heard: Option<Instant> = None;
    loop {
        let asked = Instant::now();
        let rest = match registry.revision().await {
            Ok(_) => {
                heard = Some(asked);
                ready.set(true);
                if let Some(first) = first.take() {
                    // Who waits for it may have ended.
                    let _ = first.send(());
                }
                REST
            }
            Err(error) => {
                if heard.is_none_or(|heard| heard.elapsed() >= LONG) {
                    ready.hinder(describe(&error.into()));
                }
                HASTE
            }
        };
        sleep(rest).await;
    }
}
