//! A node as a machine: namespaces for mounts, processes and names beside that of its network, and cgroups of its own.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flannel_tests::netns::run;
use flannel_tests::prelude::*;
use flannel_tests::process::die_with_parent;

const SCRIPTS: [(&str, &str); 3] = [
    ("boot.sh", include_str!("boot.sh")),
    ("init.sh", include_str!("init.sh")),
    ("containerd.toml", include_str!("containerd.toml")),
];
const KUBELET: &str = include_str!("kubelet.yaml");
const KUBE_PROXY: &str = include_str!("kube-proxy.yaml");

/// Its processes take a moment to go, and their cgroups with them.
const GONE: Duration = Duration::from_secs(30);

/// One node, running.
#[derive(Debug)]
pub(crate) struct Machine {
    node: Node,
    lab: String,
    images: Vec<PathBuf>,
    init: Option<Child>,
}

impl Machine {
    /// `images` are what its containerd knows; `mode` is kube-proxy's.
    pub(crate) fn boot(
        lab: &Lab,
        name: &str,
        kubeconfig: &Path,
        images: &[PathBuf],
        mode: &str,
    ) -> Self {
        let node = lab.node(name);
        let folder = node.folder().display().to_string();
        let write = |name: &str, text: &str| {
            fs::write(node.folder().join(name), text).expect("write a file of the node");
        };
        for (name, text) in SCRIPTS {
            write(name, text);
        }
        write("kubelet.yaml", KUBELET);
        let proxy = KUBE_PROXY.replace("MODE", mode).replace("NODE", name);
        write("kube-proxy.yaml", &proxy.replace("FOLDER", &folder));
        fs::copy(kubeconfig, node.folder().join("kubeconfig")).expect("copy the kubeconfig");
        let lab = lab.folder().file_name().and_then(OsStr::to_str);
        let mut machine = Self {
            lab: lab.expect("the lab's name").to_owned(),
            node,
            images: images.to_vec(),
            init: None,
        };
        machine.start();
        machine
    }

    fn start(&mut self) {
        let folder = self.node.folder();
        let text = |path: &Path| path.display().to_string();
        let mut command = self.node.netns().command("bash");
        command.args([&text(&folder.join("boot.sh")), &self.lab, self.name()]);
        command.args([&self.address().to_string(), &text(folder), &tools()]);
        command.args(&self.images);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        die_with_parent(&mut command);
        self.init = Some(command.spawn().expect("start a node"));
    }

    /// Waits until its programs are started.
    pub(crate) fn wait_until_up(&mut self) {
        let name = self.node.name().to_owned();
        let init = self.init.as_mut().expect("it was started");
        let stdout = init.stdout.take().expect("its output");
        let mut said = String::new();
        let _ = BufReader::new(stdout).read_line(&mut said);
        assert_eq!(said.trim(), "up", "node {name} does not come up");
    }

    /// What a power cut and a boot do: processes, mounts, programs of the kernel, devices and rules are gone, the disk stays.
    pub(crate) fn reboot(&mut self) {
        self.power_off();
        let links = self.node.exec("ip -brief link");
        let names = links
            .lines()
            .filter_map(|line| line.split([' ', '@']).next());
        for name in names.filter(|name| ![Node::UPLINK, "lo"].contains(name)) {
            // One end of a pair takes the other along.
            let _ = self.node.try_exec(&format!("ip link del {name}"));
        }
        self.node.exec("nft flush ruleset");
        self.start();
    }

    fn power_off(&mut self) {
        let Some(mut init) = self.init.take() else {
            return;
        };
        let _ = init.kill();
        let _ = init.wait();
        let name = self.node.name().to_owned();
        let cgroups = cgroups(&self.lab);
        let cgroups: Vec<PathBuf> = cgroups.iter().map(|path| path.join(&name)).collect();
        // The last process of a namespace leaves its cgroup after `wait` has returned.
        eventually(format!("the processes of {name} are gone"), GONE, || {
            cgroups.iter().all(|path| remove(path))
        });
    }

    pub(crate) fn name(&self) -> &str {
        self.node.name()
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.node.address()
    }

    /// In its network's namespace alone.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }
    /// The ends of its logs, for who has to find out.
    pub(crate) fn logs(&self) -> String {
        let logs = ["import", "containerd", "kubelet", "kube-proxy"];
        let end = |name: &&str| {
            let path = self.node.folder().join(format!("{name}.log"));
            let text = run(Command::new("tail").args(["-n", "25"]).arg(path));
            format!("---- {name} on {}\n{text}", self.name())
        };
        logs.iter().map(end).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let Some(mut init) = self.init.take() else {
            return;
        };
        let _ = init.kill();
        let _ = init.wait();
        for _ in 0..100 {
            if cgroups(&self.lab).iter().all(|path| remove(path)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Where `cargo xtask setup` puts programs.
pub(crate) fn tools() -> String {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/tools/bin");
    let tools = tools.canonicalize().expect("`cargo xtask setup` makes it");
    tools.display().to_string()
}

/// Those of a lab, one in each hierarchy, by the same rules as boot.sh.
fn cgroups(lab: &str) -> Vec<PathBuf> {
    roots().iter().map(|root| root.join(lab)).collect()
}

/// Our own cgroups.
fn roots() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").expect("our cgroups");
    let root = |line: &str| {
        let mut words = line.splitn(3, ':').skip(1);
        let (controllers, path) = (words.next()?, words.next()?);
        let hierarchy = match controllers.strip_prefix("name=") {
            Some(name) => name,
            None if controllers.is_empty() => "unified",
            None => controllers,
        };
        let own = path.trim_start_matches('/');
        Some(Path::new("/sys/fs/cgroup").join(hierarchy).join(own))
    };
    text.lines().filter_map(root).collect()
}

/// Removes what labs have left that are to go.
pub(crate) fn remove_cgroups(is_to_go: impl Fn(&str) -> bool) {
    for root in roots() {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(&is_to_go) {
                remove(&entry.path());
            }
        }
    }
}

/// With those below it; whether it is gone.
fn remove(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() && !remove(&entry.path()) {
            return false;
        }
    }
    let _ = fs::remove_dir(cgroup);
    !cgroup.exists()
}
