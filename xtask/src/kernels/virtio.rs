//! `bench virtio`: what `tests/tests/bench_virtio.rs` measures in a virtual machine, as a table of ratios.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, bail};

use super::disk;
use super::kernel::Kernel;
use super::machine::{Hardware, Machine, Parts};
use super::plan::Run;
use super::root;
use crate::workspace::Workspace;

const PROGRAM: &str = "bench_virtio";
const PAGE: &str = "docs/virtio.md";
/// What others are compared with.
const BASE: &str = "kernel";
const MODES: [&str; 5] = ["kernel", "bare", "default", "xdp", "anchor"];

/// Instructions a nanosecond of the guest's clock (`-icount shift=1`).
const INSTRUCTIONS: f64 = 0.5;

/// By mode: nanoseconds a byte, of each sample.
type Samples = BTreeMap<String, Vec<f64>>;

/// Boots the machine, measures, prints the table, and writes it into the page if that is wished for.
pub(crate) fn bench(workspace: &Workspace, kernel: &str, write_docs: bool) -> Result<()> {
    let cache = workspace.root().join(".cache/kernels");
    let logs = workspace.root().join("target/kernels");
    for folder in [&cache, &logs] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let root = root::get(&cache)?;
    let kernel = Kernel::get(kernel, &cache)?;
    let runs = [Run {
        program: PROGRAM.to_owned(),
        arguments: ["--ignored", "--nocapture", "--test-threads=1"]
            .map(str::to_owned)
            .to_vec(),
    }];
    let built = disk::build(workspace, &runs)?;
    let (disk, initrd) = (logs.join("disk-virtio.img"), logs.join("initrd-virtio"));
    disk::write(workspace, &built, &runs, disk::AGENT, &disk)?;
    super::join(&[&root, &kernel.modules], &initrd)?;
    let machine = Machine::boot(&Parts {
        hardware: Hardware::Counted,
        kernel: &kernel,
        initrd: &initrd,
        disk: &disk,
        workspace: workspace.root(),
        logs: &logs,
    })?;
    let samples = read(&machine)?;
    let text = table(&kernel.name, &samples);
    println!("{text}");
    if write_docs {
        let page = workspace.root().join(PAGE);
        let old = fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
        fs::write(&page, replaced(&old, &text)?)
            .with_context(|| format!("write {}", page.display()))?;
    }
    Ok(())
}

/// # Errors
/// When the program failed, or the guest ended.
fn read(machine: &Machine) -> Result<Samples> {
    let mut samples = Samples::new();
    loop {
        let line = machine.line()?;
        match line.strip_prefix("@@ ") {
            Some("done") => break,
            Some(word) => {
                if let Some((mode, nanos)) = sample(word) {
                    println!("{mode}: {nanos:.3} ns a byte");
                    samples.entry(mode).or_default().push(nanos);
                } else if word.starts_with("end ") && !word.ends_with(" 0") {
                    bail!("the measurement failed");
                }
            }
            None => println!("{line}"),
        }
    }
    Ok(samples)
}

/// `sample <mode> stream <busy ns a byte> <all ns a byte>`
fn sample(line: &str) -> Option<(String, f64)> {
    let mut words = line.strip_prefix("sample ")?.split(' ');
    let (mode, _, busy) = (words.next()?, words.next()?, words.next()?);
    Some((mode.to_owned(), busy.parse().ok()?))
}

fn median(samples: &Samples, mode: &str) -> Option<f64> {
    let mut values = samples.get(mode)?.clone();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Speed as a ratio to the kernel's way.
fn table(kernel: &str, samples: &Samples) -> String {
    let mut text = format!("| Linux {kernel}, 1500-byte wire |");
    for mode in MODES {
        let _ = write!(text, " `{mode}` |");
    }
    text += "\n|---|";
    text += &"---|".repeat(MODES.len());
    text += "\n| TCP stream: speed |";
    let base = median(samples, BASE);
    for mode in MODES {
        let cell = match (median(samples, mode), base) {
            (Some(own), _) if mode == BASE => {
                format!("{:.2} instructions a byte", own * INSTRUCTIONS)
            }
            (Some(own), Some(base)) => format!("{:.2}", base / own),
            _ => "–".to_owned(),
        };
        let _ = write!(text, " {cell} |");
    }
    text
}

/// The page with this table in place of the one for the same kernel, or behind the last one.
fn replaced(page: &str, table: &str) -> Result<String> {
    let head = table.lines().next().unwrap_or_default();
    let mut blocks: Vec<&str> = page.split("\n\n").collect();
    let is_table = |block: &&str| block.starts_with("| Linux ");
    if let Some(old) = blocks.iter().position(|block| block.starts_with(head)) {
        blocks[old] = table;
    } else {
        let last = blocks.iter().rposition(is_table);
        let last = last.with_context(|| format!("{PAGE} has no table to stand behind"))?;
        blocks.insert(last + 1, table);
    }
    Ok(blocks.join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Samples {
        let lines = [
            "sample kernel stream 10.0 11.0",
            "sample kernel stream 14.0 11.0",
            "sample kernel stream 12.0 12.5",
            "sample xdp stream 8.0 9.0",
        ];
        let mut samples = Samples::new();
        for (key, nanos) in lines.iter().filter_map(|line| sample(line)) {
            samples.entry(key).or_default().push(nanos);
        }
        samples
    }

    #[test]
    fn a_cell_is_a_ratio_of_medians() {
        let table = table("6.12", &samples());
        assert!(
            table.contains("| TCP stream: speed | 6.00 instructions a byte | – | – | 1.50 | – |"),
            "{table}"
        );
    }

    #[test]
    fn a_page_keeps_the_tables_of_other_kernels() {
        let (old, new) = (table("6.1", &samples()), table("6.12", &samples()));
        let page = format!("# T\n\ntext\n\n{old}\n\nend\n");
        let page = replaced(&page, &new).unwrap();
        assert_eq!(page, format!("# T\n\ntext\n\n{old}\n\n{new}\n\nend\n"));
        assert_eq!(replaced(&page, &new).unwrap(), page);
        assert!(replaced("# T\n", &new).is_err());
    }
}
