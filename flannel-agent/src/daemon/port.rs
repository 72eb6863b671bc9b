//! The VXLAN port: the agent's socket there, or the word of who has it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::dataplane::by_stack::Lent;
use crate::dataplane::rescue::{Options, Rescue, RescueError};
use crate::node::net::Netlink;

/// The socket's task. Ends with the node, by being dropped.
#[derive(Debug, Default)]
pub(super) struct Port {
    task: Option<AbortOnDropHandle<()>>,
    /// The task's socket, where others send by it.
    sender: Option<Arc<OwnedFd>>,
    busy: Option<String>,
}

impl Port {
    /// Takes the port, once the kernel's own device does not hold it any more. Whoever else has it keeps fragments and
    /// other packets that the programs leave to the socket from arriving, but no node from its network: any process may bind
    /// the port of an agent that is away. It is named once, and asked for again each time.
    pub(super) async fn hold(
        &mut self,
        net: &Netlink,
        options: &Options,
    ) -> Result<(), RescueError> {
        if self.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        self.sender = None;
        let socket = match Rescue::open(net.clone(), options).await {
            Ok(socket) => socket,
            Err(error @ RescueError::Busy { .. }) => {
                self.name(&error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if self.busy.take().is_some() {
            tracing::info!("UDP port {} is ours now", options.port);
        }
        self.sender = socket.sender()?.map(Arc::new);
        self.task = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = socket.run(&CancellationToken::new()).await {
                tracing::warn!("the socket on the VXLAN port broke: {error}");
            }
        })));
        Ok(())
    }

    /// What is sent from the port, where that has to be its source.
    pub(super) fn lend(&self) -> Option<Lent> {
        self.sender.as_ref().map(Lent::new)
    }

    pub(super) fn release(&mut self) {
        *self = Self::default();
    }

    /// Who has it instead.
    pub(super) fn complaint(&self) -> Option<String> {
        self.busy.clone()
    }

    fn name(&mut self, error: &RescueError) {
        let text = error.to_string();
        if self.busy.as_ref() != Some(&text) {
            tracing::error!("{text}; until then fragmented tunnel packets are lost");
            self.busy = Some(text);
        }
    }
}
