//! Processor time and memory of a process and everything below it, from `/proc`.

use std::collections::BTreeMap;
use std::path::Path;

use super::quantile::{number, rounded};

/// Linux tells times to user space in hundredths of a second on every architecture (`USER_HZ`).
const TICKS_PER_S: f64 = 100.0;

/// What a tree of processes has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    ticks: u64,
    /// The most memory the root has had resident, in KiB.
    root_peak_kb: u64,
    /// The sum of the same over everything below it that is alive.
    below_peak_kb: u64,
}

impl Usage {
    /// Of the process `pid` and all its living descendants; those that have ended are counted by their parents.
    pub(crate) fn of_tree(pid: u32) -> Self {
        let processes = processes();
        let mut usage = Self {
            root_peak_kb: peak_kb(pid),
            ..Self::default()
        };
        for (&process, stat) in &processes {
            if process == pid {
                usage.ticks += stat.ticks;
            } else if descends(&processes, process, pid) {
                usage.ticks += stat.ticks;
                usage.below_peak_kb += peak_kb(process);
            }
        }
        usage
    }

    /// Of several such trees together.
    pub(crate) fn of_trees(pids: impl Iterator<Item = u32>) -> Self {
        pids.map(Self::of_tree).fold(Self::default(), |sum, one| Self {
            ticks: sum.ticks + one.ticks,
            root_peak_kb: sum.root_peak_kb.max(one.root_peak_kb),
            below_peak_kb: sum.below_peak_kb + one.below_peak_kb,
        })
    }

    /// Of this process alone.
    pub(crate) fn of_self() -> Self {
        let ticks = stat(Path::new("/proc/self/stat"))
            .map(|stat| stat.own_ticks)
            .unwrap_or_default();
        Self {
            ticks,
            ..Self::default()
        }
    }

    /// Seconds of processor time since `before`.
    pub(crate) fn cpu_s_since(&self, before: &Self) -> f64 {
        number(self.ticks.saturating_sub(before.ticks)) / TICKS_PER_S
    }

    /// The root's peak of memory in MiB.
    pub(crate) fn peak_rss_mb(&self) -> f64 {
        rounded(number(self.root_peak_kb) / 1_024.0)
    }

    /// The peak of everything below it in MiB.
    pub(crate) fn workers_peak_rss_mb(&self) -> f64 {
        rounded(number(self.below_peak_kb) / 1_024.0)
    }
}

#[derive(Debug)]
struct Stat {
    parent: u32,
    own_ticks: u64,
    ticks: u64,
}

fn processes() -> BTreeMap<u32, Stat> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, stat(&entry.path().join("stat"))?))
        })
        .collect()
}

/// Reads `/proc/<pid>/stat`: fields are counted after the name, which stands in parentheses and may hold anything.
fn stat(path: &Path) -> Option<Stat> {
    let text = std::fs::read_to_string(path).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let own_ticks = ticks(11)? + ticks(12)?;
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        own_ticks,
        ticks: own_ticks + ticks(13)? + ticks(14)?,
    })
}

fn descends(processes: &BTreeMap<u32, Stat>, process: u32, root: u32) -> bool {
    let mut at = process;
    // Process trees are shallow; the bound ends a walk through entries that changed while they were read.
    for _ in 0..64 {
        match processes.get(&at) {
            Some(stat) if stat.parent == root => return true,
            Some(stat) if stat.parent > 1 => at = stat.parent,
            _ => return false,
        }
    }
    false
}

fn peak_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_memory() {
        assert!(Usage::of_tree(std::process::id()).peak_rss_mb() > 0.5);
    }
}
