//! What happened, as lines: their digest tells whether two runs of a seed were the same, and the last of them what led to a
//! violation.

use std::collections::VecDeque;
use std::fmt;

/// Lines kept to be shown.
const LATEST: usize = 60;

/// The lines of one seed.
#[derive(Debug)]
pub(crate) struct Trace {
    digest: u64,
    lines: u64,
    latest: VecDeque<String>,
    print: bool,
}

impl Trace {
    pub(crate) fn new(print: bool) -> Self {
        Self {
            digest: 0xcbf2_9ce4_8422_2325,
            lines: 0,
            latest: VecDeque::new(),
            print,
        }
    }

    /// Adds a line.
    #[expect(clippy::print_stderr, reason = "whoever asked for the trace watches it")]
    pub(crate) fn line(&mut self, line: fmt::Arguments<'_>) {
        self.lines += 1;
        let line = line.to_string();
        self.bytes(line.as_bytes());
        if self.print {
            eprintln!("{:>6} {line}", self.lines);
        }
        if self.latest.len() == LATEST {
            self.latest.pop_front();
        }
        self.latest.push_back(format!("{:>6} {line}", self.lines));
    }

    /// Adds what the digest covers besides lines. FNV-1a: it tells differences, not forgeries.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(b"\n") {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) const fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn latest(&self) -> Vec<String> {
        self.latest.iter().cloned().collect()
    }
}
