//! One measurement of one kind of traffic through one dataplane.

use crate::job::{Job, Side, TcpCounters, Traffic};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Seconds a transaction or a datagram, or bytes a second.
    pub(crate) value: f64,
    /// CPU seconds a transaction, a datagram received, or a byte: both sides and `ksoftirqd`.
    pub(crate) cpu: f64,
    /// UDP one way: share of the datagrams that did not arrive.
    pub(crate) loss: f64,
    pub(crate) tcp: TcpCounters,
}

impl Sample {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(crate) fn new(job: &Job, client: &Side, server: &Side, softirq: f64) -> Self {
        let (value, units, loss) = match job.traffic {
            Traffic::TcpStream(_) => (server.bytes_per_second, server.bytes, 0.0),
            Traffic::UdpOneWay(_) => {
                let received = server.count as f64;
                (
                    (server.last - client.first) / received,
                    server.count,
                    1.0 - received / client.count as f64,
                )
            }
            _ => (client.seconds / client.count as f64, client.count, 0.0),
        };
        let (c, s) = (client.tcp, server.tcp);
        Self {
            value,
            cpu: (client.cpu + server.cpu + softirq) / units as f64,
            loss,
            tcp: TcpCounters {
                reordered: c.reordered + s.reordered,
                out_of_order: c.out_of_order + s.out_of_order,
                retransmitted: c.retransmitted + s.retransmitted,
            },
        }
    }
}
