//! A real kube-apiserver in the switch's namespace, with the lab's etcd behind it; nodes reach it over the underlay.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::certificate::{Certificate, Contents};
use crate::lab::{ETCD, Lab};
use crate::netns::Netns;
use crate::network::Network;
use crate::process::Process;
use crate::wait::eventually;

/// It makes its own objects first, and machines are busy.
const UP: Duration = Duration::from_secs(120);
const PORT: u16 = 6443;
/// The first address of its range of Services: its own, for pods.
const SERVICE: &str = "10.96.0.1";

/// Of the test itself, in the group system:masters.
pub(crate) const ADMIN: &str = "admin-token";
/// Of the ServiceAccount that flannel's manifest has.
pub const FLANNEL: &str = "flannel-token";

/// flannel's own, by its manifest.
const ROLE: &str = r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"flannel"},"rules":[
{"apiGroups":[""],"resources":["pods"],"verbs":["get"]},
{"apiGroups":[""],"resources":["nodes"],"verbs":["get","list","watch"]},
{"apiGroups":[""],"resources":["nodes/status"],"verbs":["patch"]}]}"#;
const BINDING: &str = r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"flannel"},
"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"flannel"},
"subjects":[{"kind":"ServiceAccount","name":"flannel","namespace":"kube-flannel"}]}"#;

/// Each PATCH with its body, for `KubeApi::audit`.
const AUDIT: &str = r#"{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[
{"level":"Request","users":["system:serviceaccount:kube-flannel:flannel"]},{"level":"None"}]}"#;

/// One API server.
#[derive(Debug)]
pub struct KubeApi {
    pub(crate) netns: Arc<Netns>,
    pub(crate) folder: PathBuf,
    etcd: String,
    process: Mutex<Option<Process>>,
    pub(crate) ca: PathBuf,
    serves: Serves,
}

/// Whom an API server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serves {
    /// Agents and tests: Nodes and pods are objects that nobody makes true.
    Objects,
    /// Kubelets and controllers.
    Cluster,
}

impl KubeApi {
    /// Starts it and waits until it serves, with flannel's rights in place.
    pub fn start(lab: &Lab) -> Self {
        let api = Self::new(lab, Serves::Objects);
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        api.create(&format!("{rbac}/clusterroles"), ROLE);
        api.create(&format!("{rbac}/clusterrolebindings"), BINDING);
        api
    }

    /// Starts one for a real cluster, whose pods have tokens and reach it by its Service. Nothing of flannel is in place.
    pub fn of_cluster(lab: &Lab) -> Self {
        Self::new(lab, Serves::Cluster)
    }

    fn new(lab: &Lab, serves: Serves) -> Self {
        let folder = lab.folder().join("kube");
        let extensions = format!(
            "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,digitalSignature\n\
             subjectAltName=IP:{ETCD},IP:{SERVICE}"
        );
        let contents = Contents {
            extensions: &extensions,
            expired: false,
        };
        let Certificate { cert_file, .. } = contents.self_signed(&folder, "server");
        std::fs::write(folder.join("audit.json"), AUDIT).expect("write the audit policy");
        let api = Self {
            netns: lab.underlay.switch.clone(),
            folder,
            etcd: lab.etcd().url().to_owned(),
            process: Mutex::default(),
            ca: cert_file,
            serves,
        };
        api.set_token(FLANNEL);
        api.launch();
        api.wait_until_up();
        api
    }

    /// Where nodes reach it.
    pub fn url(&self) -> String {
        format!("https://{ETCD}:{PORT}")
    }

    /// `kill -9`.
    pub fn kill(&self) {
        *self.process.lock().expect("no panic holds it") = None;
    }

    /// Starts it again with the data it had.
    pub fn restart(&self) {
        self.kill();
        self.launch();
        self.wait_until_up();
    }

    /// Answers nobody, and lets nobody know that it does not, until [`Self::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.lock().expect("no panic holds it");
        process.as_ref().expect("it runs").signal(signal);
    }

    fn launch(&self) {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let key = file("server.key");
        let mut command = self.netns.command(&binary());
        command.args([
            &format!("--etcd-servers={}", self.etcd),
            &format!("--bind-address={ETCD}"),
            &format!("--advertise-address={ETCD}"),
            &format!("--secure-port={PORT}"),
            &format!("--tls-cert-file={}", file("server.pem")),
            &format!("--tls-private-key-file={key}"),
            &format!("--token-auth-file={}", file("users.csv")),
            &format!("--cert-dir={}", file("certificates")),
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            &format!("--service-account-signing-key-file={key}"),
            // Of the certificate: a private key it takes in older forms only.
            &format!("--service-account-key-file={}", file("server.pem")),
            &format!("--audit-policy-file={}", file("audit.json")),
            &format!("--audit-log-path={}", file("audit.log")),
            "--audit-log-mode=blocking-strict",
            // Nobody but the test and the daemons: what it does for itself would only cost time.
            "--enable-priority-and-fairness=false",
            "--profiling=false",
            // As kubeadm, and whoever runs kube-proxy.
            "--allow-privileged=true",
        ]);
        command.arg(match self.serves {
            // They need no token.
            Serves::Objects => "--disable-admission-plugins=ServiceAccount",
            // By names it would find no kubelet here.
            Serves::Cluster => "--kubelet-preferred-address-types=InternalIP",
        });
        let process = Process::spawn("kube-apiserver", command, &self.folder.join("log"));
        *self.process.lock().expect("no panic holds it") = Some(process);
    }

    fn wait_until_up(&self) {
        eventually("kube-apiserver is ready", UP, || {
            let mut process = self.process.lock().expect("no panic holds it");
            let process = process.as_mut().expect("it was started");
            if let Some(status) = process.exited() {
                panic!("kube-apiserver ended: {status}\n{}", process.log());
            }
            self.request("GET", "/readyz", None).is_ok()
        });
    }

    /// kubeconfig of flannel's ServiceAccount, with its token in a file that may be replaced.
    pub fn kubeconfig(&self) -> PathBuf {
        let path = self.folder.join("kubeconfig");
        let token = self.folder.join("token");
        let text = self.config(&format!("{{tokenFile: {}}}", token.display()));
        std::fs::write(&path, text).expect("write the kubeconfig");
        path
    }

    /// kubeconfig of the test itself, and of what may do everything.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        let path = self.folder.join("admin");
        let user = format!("{{token: {ADMIN}}}");
        std::fs::write(&path, self.config(&user)).expect("write the kubeconfig");
        path
    }

    fn config(&self, user: &str) -> String {
        let (url, ca) = (self.url(), self.ca.display());
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster:\n    server: {url}\n    \
             certificate-authority: {ca}\ncontexts:\n- name: c\n  context: {{cluster: c, user: u}}\nusers:\n- name: u\n  \
             user: {user}\n"
        )
    }

    /// Where it keeps its certificate, `server.pem`, and the key of tokens, `server.key`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The flags with which flanneld and ours run in Kubernetes; `net` is what net-conf.json says.
    pub fn flags(&self, net: &Network) -> Vec<String> {
        let conf = self.folder.join("net-conf.json");
        std::fs::write(&conf, net.config()).expect("write net-conf.json");
        vec![
            "--kube-subnet-mgr".to_owned(),
            format!("--kubeconfig-file={}", self.kubeconfig().display()),
            format!("--net-config-path={}", conf.display()),
            "--ip-masq".to_owned(),
        ]
    }

    /// What flannel's ServiceAccount shows from the API server's next start on, and what its token file says at once.
    pub fn set_token(&self, token: &str) {
        let account = "system:serviceaccount:kube-flannel:flannel";
        let users = format!(
            "{ADMIN},admin,1,system:masters\n{token},{account},2,\"system:serviceaccounts,system:authenticated\"\n"
        );
        for (name, text) in [("users.csv", &*users), ("token", token)] {
            std::fs::write(self.folder.join(name), text).expect("write a file of the API server");
        }
    }

    /// Lines of the audit log: what flannel's ServiceAccount asked for.
    pub fn audit(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.folder.join("audit.log")).unwrap_or_default();
        let lines = text.lines();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Where it runs.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    pub(crate) fn curl(&self) -> Command {
        self.netns.command("curl")
    }
}

/// Where `cargo xtask setup` put it.
///
/// # Panics
/// If it did not.
fn binary() -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = tests.parent().expect("the repository");
    let api_server = repository.join(".cache/tools/bin/kube-apiserver");
    assert!(
        api_server.exists(),
        "{} is missing: `cargo xtask setup` builds it",
        api_server.display()
    );
    api_server.to_str().expect("a path in UTF-8").to_owned()
}
