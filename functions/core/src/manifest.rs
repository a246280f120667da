//! `function.toml`: what an author says about a function, checked whole before anything runs.
//!
//! Every mistake of a file is found at once, each with its place; an unknown key is a mistake. Nothing here looks at
//! the program itself.

mod error;
mod read;
#[cfg(test)]
mod tests;
mod toml_fields;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub use error::{ManifestError, ManifestErrors};

use crate::retry::RetryPolicy;
use crate::schema::Schema;

/// The file every function's folder holds.
pub const FILE_NAME: &str = "function.toml";

/// How a function is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A program and its arguments, started in the function's folder.
    Command(Vec<String>),
    /// A container image; needs a provider that runs containers.
    Image(String),
}

/// How a worker talks with a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// One process an invocation: JSON on standard input, JSON on standard output.
    #[default]
    Exec,
    /// Warm processes that take many invocations, one JSON line each.
    Serve,
}

impl Protocol {
    /// The name as written in manifests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Serve => "serve",
        }
    }
}

/// What one process of a function may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a processor.
    pub cpu_millis: u32,
    /// Bytes of memory, over all processes the function starts.
    pub memory_bytes: u64,
    /// Bytes of memory an attempt may be given after earlier ones ran out of it; each retry doubles up to here.
    pub memory_max_bytes: u64,
    /// Bytes the largest file may have.
    pub disk_bytes: u64,
}

/// Thousandths of a processor unless the manifest says otherwise.
const CPU_MILLIS: u32 = 1_000;
/// Enough for an interpreter and a little work.
const MEMORY_BYTES: u64 = 512 << 20;
/// Out of memory three times before an author must say more.
const MEMORY_GROWTH: u64 = 8;
/// Enough for most media files.
const DISK_BYTES: u64 = 16 << 30;

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu_millis: CPU_MILLIS,
            memory_bytes: MEMORY_BYTES,
            memory_max_bytes: MEMORY_BYTES * MEMORY_GROWTH,
            disk_bytes: DISK_BYTES,
        }
    }
}

impl Resources {
    /// The memory of an attempt after `shortages` earlier ones ran out of it.
    #[must_use]
    pub fn memory_after(&self, shortages: u32) -> u64 {
        let factor = 1_u64.checked_shl(shortages).unwrap_or(u64::MAX);
        self.memory_bytes
            .saturating_mul(factor)
            .min(self.memory_max_bytes)
    }
}

/// How many warm processes a `serve` function keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Processes {
    /// Kept even when idle.
    pub min: u32,
    /// At most, when the manifest says so; else as many as the processors allow.
    pub max: Option<u32>,
}

/// The checked form of a `function.toml`. Cheap to share behind an [`Arc`].
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The name rules call it by.
    pub name: Arc<str>,
    /// The author's own version, for people; what runs is decided by content.
    pub version: Option<String>,
    /// One sentence for people.
    pub description: Option<String>,
    /// How it is started.
    pub program: Program,
    /// How a worker talks with it.
    pub protocol: Protocol,
    /// How long one attempt may take.
    pub timeout_ms: u64,
    /// Invocations in flight in one warm process.
    pub batch: u32,
    /// Whether equal inputs give equal results, so that a recorded one may be reused.
    pub pure: bool,
    /// How many warm processes there are.
    pub processes: Processes,
    /// What one process may use.
    pub resources: Resources,
    /// What follows a failed attempt.
    pub retry: RetryPolicy,
    /// Variables of its environment.
    pub env: BTreeMap<String, String>,
    /// What inputs must look like.
    pub input: Option<Schema>,
    /// What results must look like.
    pub output: Option<Schema>,
}

impl Manifest {
    /// Reads `function.toml` in `folder`, and the schemas it names.
    ///
    /// # Errors
    /// When the file is missing, or with everything that is wrong in it.
    pub fn load(folder: &Path) -> Result<Self, ManifestErrors> {
        let path = folder.join(FILE_NAME);
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(&path)
            .map_err(|error| ManifestErrors::unreadable(&shown, &error.to_string()))?;
        Self::parse(&shown, &text, &|sibling| std::fs::read(folder.join(sibling)).ok())
    }

    /// Reads the text of a manifest. `path` is how errors name the file; `sibling` gives the content of a file beside
    /// it, by a relative path without `..`.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn parse(
        path: &str,
        text: &str,
        sibling: &dyn Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<Self, ManifestErrors> {
        read::read(path, text, sibling)
    }
}
