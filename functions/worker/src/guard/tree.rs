//! All processes below one, as `/proc` shows them.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal};

/// Clock ticks a second in `/proc`: fixed at 100 for user space on every Linux platform.
const TICK_MS: u64 = 10;
/// Processes looked at: a tree beyond this is a fork bomb, and killing in rounds ends it too.
const PROCESSES_MAX: usize = 65_536;

/// The processes below `root`.
pub(super) struct Tree {
    root: Pid,
}

/// What a tree uses at one moment.
pub(super) struct Usage {
    pub(super) memory_bytes: u64,
    pub(super) cpu_ms: u64,
}

impl Tree {
    pub(super) const fn below(root: Pid) -> Self {
        Self { root }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members().is_empty()
    }

    /// Sends `signal` to every process of the tree; gives how many there were.
    pub(super) fn signal(&self, signal: Signal) -> usize {
        let members = self.members();
        for pid in &members {
            // The descriptor pins the process: were the number reused meanwhile, its parent would be another.
            let Some(pid) = Pid::from_raw(*pid) else { continue };
            if let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
                && self.is_below(pid.as_raw_pid())
            {
                rustix::process::pidfd_send_signal(&process, signal).ok();
            }
        }
        members.len()
    }

    /// What the tree uses now. Memory is the sum of resident sizes; only when that passes `limit` it is measured again
    /// by proportional shares, which is exact and slow.
    pub(super) fn usage(&self, limit: u64) -> Usage {
        let members = self.members();
        let resident: u64 = members.iter().map(|&pid| resident_bytes(pid)).sum();
        let memory_bytes = if resident > limit {
            members.iter().map(|&pid| proportional_bytes(pid)).sum()
        } else {
            resident
        };
        let cpu_ms = members.iter().map(|&pid| cpu_ms(pid)).sum::<u64>() + self.own_children_cpu_ms();
        Usage { memory_bytes, cpu_ms }
    }

    /// The processor time of those that have ended and were reaped by the root.
    pub(super) fn own_children_cpu_ms(&self) -> u64 {
        stat_fields(self.root.as_raw_pid()).map_or(0, |fields| number(&fields, 13) + number(&fields, 14))
            * TICK_MS
    }

    /// Everybody below the root who has not ended, nearest first.
    fn members(&self) -> Vec<i32> {
        let mut members = children(self.root.as_raw_pid());
        let mut at = 0;
        while at < members.len() && members.len() < PROCESSES_MAX {
            members.extend(children(members[at]));
            at += 1;
        }
        members.retain(|&pid| is_alive(pid));
        members
    }

    fn is_below(&self, pid: i32) -> bool {
        let mut pid = pid;
        while let Some(parent) = parent(pid) {
            if parent == self.root.as_raw_pid() {
                return true;
            }
            pid = parent;
        }
        false
    }
}

/// The children of all threads of `pid`.
fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(text) => found.extend(
                text.split_ascii_whitespace()
                    .filter_map(|word| word.parse::<i32>().ok()),
            ),
            // Kernels without that file show parents only.
            Err(_) if thread.path().exists() => return children_by_parent(pid),
            Err(_) => {}
        }
    }
    found
}

fn children_by_parent(pid: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&other| parent(other) == Some(pid))
        .collect()
}

/// The fields of `/proc/<pid>/stat` after the name, which may hold anything: the state is the first of them.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_ascii_whitespace().map(str::to_owned).collect())
}

fn number(fields: &[String], at: usize) -> u64 {
    fields.get(at).and_then(|field| field.parse().ok()).unwrap_or(0)
}

fn is_alive(pid: i32) -> bool {
    stat_fields(pid).is_some_and(|fields| fields.first().is_some_and(|state| state != "Z" && state != "X"))
}

fn parent(pid: i32) -> Option<i32> {
    stat_fields(pid)?
        .get(1)?
        .parse()
        .ok()
        .filter(|&parent| parent > 0)
}

/// Own time and that of children it has waited for.
fn cpu_ms(pid: i32) -> u64 {
    stat_fields(pid).map_or(0, |fields| {
        (11..=14).map(|at| number(&fields, at)).sum::<u64>() * TICK_MS
    })
}

fn resident_bytes(pid: i32) -> u64 {
    kib_line(&format!("/proc/{pid}/status"), "VmRSS:")
}

fn proportional_bytes(pid: i32) -> u64 {
    let exact = kib_line(&format!("/proc/{pid}/smaps_rollup"), "Pss:");
    if exact == 0 { resident_bytes(pid) } else { exact }
}

fn kib_line(path: &str, name: &str) -> u64 {
    let Ok(text) = fs::read_to_string(path) else {
        return 0;
    };
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .unwrap_or(0)
        << 10
}
