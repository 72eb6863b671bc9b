//! The socket by which the kernel is asked. One that breaks is opened again: whoever asks next finds it whole.

use std::sync::{Mutex, PoisonError};

use tokio::task::JoinHandle;

use super::error::NetError;

#[derive(Debug)]
pub(super) struct Connection {
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    handle: rtnetlink::Handle,
    /// Reads the answers, for as long as the kernel lets it and somebody has the handle.
    reader: JoinHandle<()>,
    given_up: bool,
}

impl Connection {
    /// In the calling thread's network namespace, and the current runtime.
    pub(super) fn open() -> Result<Self, NetError> {
        let open = Mutex::new(Open::new()?);
        Ok(Self { open })
    }

    /// For one request: the next may be made by another socket.
    pub(super) fn handle(&self) -> rtnetlink::Handle {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.given_up || open.reader.is_finished() {
            match Open::new() {
                Ok(new) => {
                    tracing::warn!("the netlink socket broke: opened another one");
                    *open = new;
                }
                // The request says that it cannot be made.
                Err(error) => tracing::error!("the netlink socket broke: {error}"),
            }
        }
        open.handle.clone()
    }

    /// The next request is made by another socket.
    pub(super) fn give_up(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.given_up = true;
    }
}

impl Open {
    fn new() -> Result<Self, NetError> {
        let (connection, handle, _unsolicited) =
            rtnetlink::new_connection_with_strict_check().map_err(NetError::Open)?;
        Ok(Self {
            handle,
            reader: tokio::spawn(connection),
            given_up: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use crate::node::net::Netlink;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_given_up_with_its_socket() {
        let net = Netlink::open().unwrap();
        net.in_time(pending::<Result<(), _>>()).await.unwrap_err();
        assert!(net.connection.open.lock().unwrap().given_up);
        tokio::time::resume();
        assert!(net.link("lo").await.unwrap().is_some());
        assert!(!net.connection.open.lock().unwrap().given_up);
    }

    #[tokio::test]
    async fn a_socket_that_broke_is_opened_again() {
        let net = Netlink::open().unwrap();
        assert!(net.link("lo").await.unwrap().is_some());
        net.connection.open.lock().unwrap().reader.abort();
        while !net.connection.open.lock().unwrap().reader.is_finished() {
            tokio::task::yield_now().await;
        }
        assert!(net.link("lo").await.unwrap().is_some());
    }
}
