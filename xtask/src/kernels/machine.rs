//! A virtual machine of qemu: boots a kernel, and hands over what its second serial line says.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;

const QEMU: &str = "qemu-system-x86_64";

/// From the start of qemu to the first word of our PID 1: seconds, also when emulated.
const BOOT: Duration = Duration::from_secs(300);
/// The same with KVM. Some machines have `/dev/kvm` and yet never get a guest through its first instructions.
const BOOT_KVM: Duration = Duration::from_secs(20);
/// Longer than any test is silent, also when emulated beside other work.
const SILENCE: Duration = Duration::from_secs(1200);

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accelerator {
    Kvm,
    /// Emulation: 10–50 times slower, and everywhere.
    Tcg,
    /// The same, with one thread and a clock that goes on by two nanoseconds an instruction.
    TcgCounted,
}

impl Accelerator {
    /// Those worth trying, the best first.
    pub(super) fn candidates() -> &'static [Self] {
        match File::options().read(true).write(true).open("/dev/kvm") {
            Ok(_) => &[Self::Kvm, Self::Tcg],
            Err(_) => &[Self::Tcg],
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max"],
            Self::TcgCounted => &[
                "-accel",
                "tcg,thread=single",
                // Else the kernel copies by `rep movsb`, of which the emulator counts each byte as an instruction.
                "-cpu",
                "max,-erms,-fsrm",
                "-icount",
                "shift=1,sleep=off",
            ],
        }
    }

    fn boot_deadline(self) -> Duration {
        match self {
            Self::Kvm => BOOT_KVM,
            Self::Tcg | Self::TcgCounted => BOOT,
        }
    }
}

/// What a guest finds beside its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hardware {
    /// Two processors and no card.
    Tests,
    /// One processor whose clock counts instructions, emulated always; and two cards at one cable, without offloads.
    Counted,
}

/// The cards of [`Hardware::Counted`]; `tests/tests/bench_virtio.rs` knows them by these.
const MACS: [&str; 2] = ["52:54:00:f1:00:01", "52:54:00:f1:00:02"];

impl Hardware {
    fn candidates(self) -> &'static [Accelerator] {
        match self {
            Self::Tests => Accelerator::candidates(),
            Self::Counted => &[Accelerator::TcgCounted],
        }
    }

    fn flags(self) -> Vec<String> {
        let processors = match self {
            Self::Tests => "2",
            Self::Counted => "1",
        };
        let mut flags = vec!["-smp".to_owned(), processors.to_owned()];
        if self == Self::Counted {
            for (n, mac) in MACS.iter().enumerate() {
                // A hub passes on frames as they are, so the cards have neither checksums nor segmentation to offer.
                flags.extend([
                    "-netdev".to_owned(),
                    format!("hubport,id=card{n},hubid=0"),
                    "-device".to_owned(),
                    format!("virtio-net-pci,netdev=card{n},mac={mac},rx_queue_size=1024,tx_queue_size=256,romfile="),
                ]);
            }
        }
        flags
    }
}

/// What a guest is made of.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) hardware: Hardware,
    pub(super) kernel: &'a Kernel,
    pub(super) initrd: &'a Path,
    pub(super) disk: &'a Path,
    /// Where the disk is mounted: tests know files by the path they were built in.
    pub(super) workspace: &'a Path,
    /// What the kernel prints, and qemu.
    pub(super) logs: &'a Path,
}

/// A running guest; killed on drop.
#[derive(Debug)]
pub(super) struct Machine {
    child: Child,
    lines: Receiver<String>,
    console: PathBuf,
}

impl Machine {
    /// Boots a guest, by emulation if this machine's KVM does not get it anywhere.
    pub(super) fn boot(parts: &Parts<'_>) -> Result<Self> {
        let mut candidates = parts.hardware.candidates().iter().peekable();
        while let Some(accelerator) = candidates.next() {
            let machine = Self::start(parts, *accelerator)?;
            match machine.wait_until_up(accelerator.boot_deadline()) {
                Ok(()) => return Ok(machine),
                Err(error) if candidates.peek().is_none() => return Err(error),
                Err(_) => println!(
                    "kernel {}: KVM does not boot it here, so it is emulated",
                    parts.kernel.name
                ),
            }
        }
        bail!("nothing to run a guest with")
    }

    fn start(parts: &Parts<'_>, accelerator: Accelerator) -> Result<Self> {
        let name = &parts.kernel.name;
        let console = parts.logs.join(format!("console-{name}.log"));
        let errors = parts.logs.join(format!("qemu-{name}.log"));
        let errors =
            File::create(&errors).with_context(|| format!("create {}", errors.display()))?;
        let mut child = command(parts, accelerator, &console)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("start setpriv and qemu-system-x86_64")?;
        let output = child.stdout.take().context("qemu's output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            lines,
            console,
        })
    }

    fn wait_until_up(&self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line == "@@ up" => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(self.gone(error, deadline)),
            }
        }
    }

    /// The next line that the tests print.
    ///
    /// # Errors
    /// When the guest has ended, or has said nothing for too long.
    pub(super) fn line(&self) -> Result<String> {
        self.lines
            .recv_timeout(SILENCE)
            .map_err(|error| self.gone(error, SILENCE))
    }

    fn gone(&self, error: RecvTimeoutError, waited: Duration) -> anyhow::Error {
        let what = match error {
            RecvTimeoutError::Timeout => {
                format!("the guest said nothing for {} s", waited.as_secs())
            }
            RecvTimeoutError::Disconnected => "the guest ended before its tests did".to_owned(),
        };
        let console = std::fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        anyhow::anyhow!(
            "{what}. Its console ({}) ends:\n{}",
            self.console.display(),
            tail(&console, 30)
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(parts: &Parts<'_>, accelerator: Accelerator, console: &Path) -> Command {
    // Nothing outlives us, not even when we are killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", QEMU]);
    command.args(accelerator.flags());
    command.args(parts.hardware.flags());
    command.args(["-m", "2048"]);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]);
    command.arg("-kernel").arg(&parts.kernel.image);
    command.arg("-initrd").arg(parts.initrd);
    let words = [
        "console=ttyS0",
        "quiet",
        // A kernel that we break ends the run.
        "oops=panic",
        "panic=-1",
        // Two emulated processors on a busy machine stand still for longer than a kernel expects.
        "watchdog_thresh=60",
        "rcupdate.rcu_cpu_stall_timeout=300",
        "mitigations=off",
        "random.trust_cpu=on",
        &format!("workspace={}", parts.workspace.display()),
    ];
    command.arg("-append").arg(words.join(" "));
    command
        .arg("-serial")
        .arg(format!("file:{}", console.display()));
    command.args(["-serial", "stdio"]);
    command.arg("-drive").arg(format!(
        "file={},format=raw,if=virtio,snapshot=on",
        parts.disk.display()
    ));
    command
}

fn tail(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_console_is_shown() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn a_guest_dies_with_us() {
        let kernel = Kernel {
            name: "6.1".to_owned(),
            image: "/k".into(),
            modules: "/m".into(),
        };
        let path = Path::new("/p");
        let parts = Parts {
            hardware: Hardware::Tests,
            kernel: &kernel,
            initrd: path,
            disk: path,
            workspace: path,
            logs: path,
        };
        let command = command(&parts, Accelerator::Tcg, path);
        let shown = crate::process::show(&command);
        assert!(
            shown.starts_with("setpriv --pdeathsig KILL -- qemu-system-x86_64 -accel tcg"),
            "{shown}"
        );
    }
}
