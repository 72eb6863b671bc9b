//! One measurement of one kind of traffic through one dataplane.

use crate::job::{Job, Side, TcpCounters, Traffic};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Seconds a transaction or a datagram, or bytes a second.
    pub(crate) value: f64,
    /// CPU seconds a transaction, a datagram received, or a byte: both sides and `ksoftirqd`. On one core this
    /// is what the value would be on a machine with nothing else to do.
    pub(crate) cpu: f64,
    /// UDP one way: share of the datagrams that did not arrive.
    pub(crate) loss: f64,
    pub(crate) tcp: TcpCounters,
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(crate) fn new(job: &Job, client: &Side, server: &Side) -> Self {
        let (sent, received) = (client.count as f64, server.count as f64);
        let (value, cpu, loss) = match job.traffic {
            Traffic::TcpStream(_) => (
                server.bytes_per_second,
                (client.cpu + server.cpu) / server.bytes as f64,
                0.0,
            ),
            Traffic::UdpOneWay(_) => (
                (server.last - client.first) / received,
                (client.cpu + server.cpu) / received,
                1.0 - received / sent,
            ),
            _ => (
                client.seconds / sent,
                client.cpu / sent + server.cpu / received,
                0.0,
            ),
        };
        let (c, s) = (client.tcp, server.tcp);
        Self {
            value,
            cpu,
            loss,
            tcp: TcpCounters {
                reordered: c.reordered + s.reordered,
                out_of_order: c.out_of_order + s.out_of_order,
                retransmitted: c.retransmitted + s.retransmitted,
            },
        }
    }
}
