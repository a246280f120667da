//! What a guard leaves behind: how its function ended and what it used.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Why a function's tree of processes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It ended by itself.
    #[default]
    Exited,
    /// It took too long.
    Timeout,
    /// It used more memory than it was given.
    Memory,
    /// It used more processor time than it was given.
    Processor,
    /// The worker asked.
    Stopped,
    /// The worker is gone.
    Orphaned,
    /// It never started.
    Unstartable,
}

/// How a function's tree of processes ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// Why.
    pub cause: Cause,
    /// The exit code of the function's own process.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The most memory the tree was seen with.
    pub peak_memory_bytes: u64,
    /// The processor time of the tree, as far as it was seen.
    pub cpu_ms: u64,
    /// Why it never started.
    pub reason: Option<String>,
}

impl Status {
    pub(super) fn unstartable(reason: impl Into<String>) -> Self {
        Self {
            cause: Cause::Unstartable,
            reason: Some(reason.into()),
            ..Self::default()
        }
    }

    /// As a shell would say it.
    pub(super) fn exit_byte(&self) -> u8 {
        let code = match (self.exit_code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => i32::from(super::EXIT_UNSTARTABLE),
        };
        u8::try_from(code).unwrap_or(1)
    }

    /// Writes it beside `path` and renames, so that whoever finds the file finds all of it.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        let growing = path.with_extension("growing");
        std::fs::write(&growing, serde_json::to_vec(self)?)?;
        std::fs::rename(growing, path)
    }

    /// Reads what a guard has left, or `None` when it was killed before it could.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}
