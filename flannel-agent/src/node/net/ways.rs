//! Many ways at once: one `sendmsg` carries a hundred questions. One by one, those to thousands of peers take a tenth of a second, in
//! which a change of leases waits.

use std::io;
use std::net::Ipv4Addr;
use std::sync::PoisonError;

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;

use super::Netlink;
use super::batch::{AT_ONCE, Numbered};
use super::error::NetError;
use super::way::{self, RouteTo, Sender};

impl Netlink {
    /// The ways to many destinations, in their order; an error where there is none.
    pub async fn ways(
        &self,
        destinations: impl IntoIterator<Item = Ipv4Addr>,
        sender: Sender,
    ) -> Vec<(Ipv4Addr, Result<RouteTo, NetError>)> {
        let destinations: Vec<Ipv4Addr> = destinations.into_iter().collect();
        crate::base::counters::looked_up(destinations.len());
        let mut ways = Vec::with_capacity(destinations.len());
        for chunk in destinations.chunks(AT_ONCE) {
            let answers = {
                let socket = self.routes.socket.lock();
                let mut socket = socket.unwrap_or_else(PoisonError::into_inner);
                socket.look_up(chunk, sender)
            };
            let doing = |to: Ipv4Addr| format!("find a route to {to}");
            match answers {
                Ok(answers) => ways.extend(chunk.iter().zip(answers).map(|(to, answer)| {
                    (
                        *to,
                        answer.map_err(|errno| NetError::refused(doing(*to), errno)),
                    )
                })),
                Err(error) => {
                    let failed = |to: &Ipv4Addr| (*to, Err(NetError::io(doing(*to), &error)));
                    ways.extend(chunk.iter().map(failed));
                }
            }
            // The kernel works in our own thread; others have their turn.
            tokio::task::yield_now().await;
        }
        ways
    }
}

impl Numbered {
    fn look_up(
        &mut self,
        destinations: &[Ipv4Addr],
        sender: Sender,
    ) -> io::Result<Vec<Result<RouteTo, Errno>>> {
        let questions = destinations.iter().map(|to| {
            let question = way::question(*to, sender);
            (RouteNetlinkMessage::GetRoute(question), 0)
        });
        // To what gets no answer, not even that there is no route.
        let mut answers = vec![Err(Errno::ENODATA); destinations.len()];
        self.exchange(questions, |at, answer| {
            let found = match answer {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(message)) => {
                    Some(Ok(way::parse(&message)))
                }
                NetlinkPayload::Error(error) => {
                    let code = error.code;
                    code.map(|code| Err(Errno::from_raw(-code.get())))
                }
                _ => None,
            };
            if let (Some(place), Some(found)) = (answers.get_mut(at), found) {
                *place = found;
            }
        })?;
        Ok(answers)
    }
}
