//! Why a packet went where it went: the one list behind counters, metrics and events.

/// What a reason means for the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Handled by us.
    Forward,
    /// Left to the next program and the stack (`TC_ACT_UNSPEC`).
    Pass,
    /// Dropped.
    Drop,
}

macro_rules! reasons {
    ($($number:literal $variant:ident $name:ident $class:ident $meaning:literal $advice:literal;)*) => {
        /// A reason, numbered as its slot in [`crate::count::Counters`]. Numbers are never reused.
        #[repr(u32)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason {
            $(#[doc = $meaning] $variant = $number,)*
        }

        impl Reason {
            /// Every reason, in the order of the list.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word used in metrics, events, dumps and documentation.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($name)),* }
            }

            pub const fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class),* }
            }

            /// One sentence: what happened.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),* }
            }

            /// One sentence: what an operator does about it.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice),* }
            }
        }

        /// One counter per reason, as named fields so that a map dump prints the words.
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct Counters {
            $(pub $name: crate::count::Count,)*
        }

        impl Counters {
            /// The counter of one reason.
            pub const fn get(&self, reason: Reason) -> crate::count::Count {
                match reason { $(Reason::$variant => self.$name),* }
            }
        }
    };
}

reasons! {
    0 Encap encap Forward "encapsulated and sent to the peer" "nothing: this is the work";
    1 DecapGro decap_gro Forward "decapsulated and merged by GRO on the way to the stack" "nothing: this is the work";
    2 DecapDirect decap_direct Forward "decapsulated and handed straight to the stack: nothing that GRO could merge" "nothing: this is the work";
    3 NotIpv4 not_ipv4 Pass "not IPv4" "nothing, unless pods are meant to speak another protocol over the overlay";
    4 Truncated truncated Pass "shorter than its headers say" "find the sender: the packet is malformed";
    5 OuterOptions outer_options Pass "outer IPv4 header has options" "nothing: the VXLAN socket or the anchor delivers it, slowly";
    6 OuterFragment outer_fragment Pass "outer packet is a fragment" "raise the underlay's MTU or lower the overlay's: fragments take the slow socket path";
    7 OtherVni other_vni Pass "VXLAN of another network" "nothing, if another network runs on this node; else compare the VNI of the config on both nodes";
    8 LengthMismatch length_mismatch Pass "outer and inner lengths disagree" "switch rx-gro-list and rx-udp-gro-forwarding off on the uplink if this grows";
    9 EncapRefused encap_refused Pass "the kernel refused to grow the packet before changing it" "nothing: it comes back segmented through flgro";
    10 DecapRefused decap_refused Pass "the kernel refused to shrink the packet before changing it" "nothing: the VXLAN socket delivers it, slowly";
    11 NoPeer no_peer Drop "no lease covers the destination" "check that the destination's node holds a lease";
    12 UnknownVtep unknown_vtep Drop "outer source is not the address of any lease, and the frame does not carry the VTEP MAC of the lease it claims" "status names the sender: find out who it is, or compare the VtepMAC of its lease with its device";
    13 SpoofedSource spoofed_source Drop "inner source belongs to another node's subnet, and the frame does not carry that node's VTEP MAC" "status names the sender: look for a pod or node that forges addresses";
    14 BadVxlanFlags bad_vxlan_flags Drop "VXLAN flags or reserved bits other than 0x08, or with GBP than its own" "switch GPE off on the sender; GBP is the whole network's, or nobody's";
    15 EcnCe ecn_ce Drop "outer congestion mark on a packet that cannot carry it (RFC 6040)" "nothing, unless it grows: then a router marks packets that are not ECN-capable";
    16 NotUnicast not_unicast Drop "inner destination is multicast or broadcast, which the overlay does not carry" "nothing: flannel does not carry it either";
    17 Mangled mangled Drop "the kernel failed after the packet was changed" "report it, with the kernel version";
    18 UnhandledTx unhandled_tx Drop "could not be encapsulated even after software segmentation" "report it, with the protocol";
    19 FastTx fast_tx Forward "verified: from the pod to the uplink, past the stack" "nothing: this is the work";
    20 FastRx fast_rx Forward "verified: from the uplink to the pod, past the stack" "nothing: this is the work";
    21 FastRxGro fast_rx_gro Forward "verified bulk: merged by GRO, then to the pod, past the stack" "nothing: this is the work";
    22 Verified verified Pass "the stack let it through unchanged, which proves its flow" "nothing: this is how flows become fast";
    23 Unverified unverified Pass "its flow is not proven, so the stack decides" "nothing, unless a long flow never becomes fast: then a rule translates or drops it";
    24 Refresh refresh Pass "its flow is proven, but a packet each five seconds renews the proof (with those behind it, until it has come out), and one of each pod in a tenth of a second shows the bridge where it is" "nothing";
    25 TcpControl tcp_control Pass "SYN, FIN or RST, which conntrack must see" "nothing";
    26 OtherProtocol other_protocol Pass "neither TCP nor UDP" "nothing";
    27 InnerOptions inner_options Pass "IPv4 header with options" "nothing";
    28 InnerFragment inner_fragment Pass "a fragment, which conntrack must reassemble" "lower the sender's datagram size if this grows";
    29 TtlExpiring ttl_expiring Pass "TTL at its end: the stack answers with an ICMP error" "nothing: traceroute does this";
    30 OverMtu over_mtu Pass "longer than the overlay MTU: the stack fragments or answers" "set the pods' MTU to FLANNEL_MTU of subnet.env";
    31 UdpGso udp_gso Pass "several UDP datagrams in one packet" "nothing";
    32 FlowTableFull flow_table_full Pass "no room for its flow" "raise --flow-entries";
    33 XdpDecap xdp_decap Forward "outer headers taken off by the driver" "nothing: this is the work";
    34 FastRxXdp fast_rx_xdp Forward "verified: from the driver to the pod, past the stack" "nothing: this is the work";
    35 Snat snat Forward "left under the node's address" "nothing: this is the work";
    36 SnatReply snat_reply Forward "a reply to the node's address found its pod" "nothing: this is the work";
    37 SnatError snat_error Forward "an ICMP error was translated with the packet inside it" "nothing: this is the work";
    38 SnatKept snat_kept Pass "kept its source: exempt, part of a connection that came in, or said to the cluster outside of any flow" "nothing";
    39 SnatExhausted snat_exhausted Drop "no free port towards this remote port" "widen --snat-ports, or look for a pod that opens connections without end";
    40 SnatFull snat_full Drop "no room in the SNAT table" "raise --snat-entries";
    41 SnatNoFlow snat_no_flow Drop "a reset, an answer or an ICMP error to the outside that belongs to no flow; it must not leave under a pod's address" "nothing, unless it grows: then flows are lost early, see --snat-entries";
    42 SnatMalformed snat_malformed Drop "too short to be translated" "find the sender: the packet is malformed";
    43 SnatUnready snat_unready Drop "part of the SNAT programs is missing" "restart the agent, and report it";
    44 PastBridge past_bridge Forward "let through by the stack and sent to the pod's port whole, past the bridge, which would cut it up" "nothing: this is the work";
    45 PairGone pair_gone Pass "the pair of devices is gone: the packet is left to whoever serves the network now" "nothing, if flanneld took the node over (`flannel-agent cleanup` removes what is left of ours); else start the agent";
    46 NoRoute no_route Drop "no route leads to the peer, or one forbids" "look at the way that the kernel takes: ip route get PEER from UPLINK_ADDRESS ipproto udp dport PORT";
    47 ToAnchor to_anchor Pass "the kernel takes the outer headers off, and the anchor hands it back (--gro=anchor)" "nothing: anchor_rx counts it next";
    48 PodTunnel pod_tunnel Drop "a pod made a tunnel packet itself, for a node of the cluster; or it came to another address of this node than peers send to" "find the pod: it tries to get into the network past the node";
    49 SnatRedirect snat_redirect Drop "an ICMP redirect about a translated flow: who follows it would send past the translation" "nothing: a router on the way that should not send them, or somebody who tries";
    50 ByStack by_stack Pass "the node's own stack has it to judge: IPsec or a rule about tunnel packets concerns this peer" "nothing: `flannel-agent peers` says which (`stack`); it is slow";
    51 SnatShare snat_share Drop "the pod has more unanswered flows than others, or half of the SNAT table, and there is no place for one more" "`flannel-agent status` names the pod: find out what it opens connections to; raise --snat-entries if it is meant to";
    52 TtlExpired ttl_expired Drop "its last hop was in the tunnel, where nobody is told of it (backend udp)" "nothing: traceroute does this";
}
