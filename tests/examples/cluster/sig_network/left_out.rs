//! Which of Kubernetes' own network tests do not run here, each with the reason. What is not in this list runs, and is to pass.

/// A part of their full names, and why.
pub(super) type LeftOut = (&'static str, &'static str);

const NO_INTERNET: &str = "asks servers of the internet";
const IPV4_ONLY: &str = "IPv6 is not served yet, and the cluster has none";

/// In the order in which a reason is looked for.
const ALWAYS: &[LeftOut] = &[
    (
        "[Feature:LoadBalancer]",
        "no cloud here gives addresses to load balancers",
    ),
    ("[Feature:IPv6DualStack]", IPV4_ONLY),
    ("[Feature:Networking-IPv6]", IPV4_ONLY),
    ("[Feature:Networking-IPv4]", NO_INTERNET),
    ("[Feature:Networking-DNS]", NO_INTERNET),
    (
        "[Feature:SCTPConnectivity]",
        "kernels of small machines have no SCTP",
    ),
    (
        "[Feature:KubeProxyNFAcct]",
        "kernels of small machines have no nfacct",
    ),
    (
        "[Feature:Networking-Performance]",
        "measures, and nothing here says how fast is fast enough",
    ),
    (
        "[Feature:PerformanceDNS]",
        "measures, and nothing here says how fast is fast enough",
    ),
    (
        "[Feature:Ingress]",
        "there is no controller of Ingress here",
    ),
    ("[Feature:OffByDefault]", "its feature is off by default"),
    ("[Provider:GCE]", "asks for names of one cloud"),
    ("[Disruptive]", "breaks what the tests beside it stand on"),
    ("[Serial]", "wants the cluster for itself"),
    ("[Slow]", "takes more than five minutes"),
    (
        "should be rejected for evicted pods",
        "the nodes' kubelet does not part local storage, so the pod that is to be evicted is never started",
    ),
];

const POLICIES: LeftOut = (
    "[Feature:NetworkPolicy]",
    "needs an engine for NetworkPolicy: --netpol",
);

/// Those of NetworkPolicy need an engine, and are alone then.
pub(super) fn list(netpol: bool) -> Vec<LeftOut> {
    let mut list = ALWAYS.to_vec();
    if !netpol {
        list.push(POLICIES);
    }
    list
}

/// What the names of those have in common that `--netpol` is for.
pub(super) const OF_NETPOL: &str = POLICIES.0;
