//! What a worker tells a guard, as command-line arguments.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What a guard is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardArguments {
    /// Where the status is written.
    pub status: PathBuf,
    /// The process id of the worker; the guard ends when it is gone.
    pub parent: i32,
    /// Bytes of resident memory of the whole tree.
    pub memory_bytes: u64,
    /// Bytes of the largest file.
    pub disk_bytes: u64,
    /// Processor time of the whole tree; unlimited when absent.
    pub cpu_ms: Option<u64>,
    /// Time; unlimited when absent.
    pub timeout: Option<Duration>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

const ABSENT: &str = "-";

impl GuardArguments {
    /// As written on the command line: six words, then the command.
    #[must_use]
    pub fn to_words(&self) -> Vec<OsString> {
        let number = |value: Option<u64>| value.map_or_else(|| ABSENT.to_owned(), |value| value.to_string());
        let timeout = self
            .timeout
            .and_then(|timeout| u64::try_from(timeout.as_millis()).ok());
        let mut words = vec![
            self.status.clone().into_os_string(),
            self.parent.to_string().into(),
            self.memory_bytes.to_string().into(),
            self.disk_bytes.to_string().into(),
            number(self.cpu_ms).into(),
            number(timeout).into(),
        ];
        words.extend(self.command.iter().cloned());
        words
    }

    pub(super) fn parse(words: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut words = words.into_iter();
        let status = PathBuf::from(words.next()?);
        let mut number = || words.next()?.into_string().ok();
        let parent = number()?.parse().ok()?;
        let memory_bytes = number()?.parse().ok()?;
        let disk_bytes = number()?.parse().ok()?;
        let optional = |word: String| {
            if word == ABSENT {
                Some(None)
            } else {
                word.parse().ok().map(Some)
            }
        };
        let cpu_ms = optional(number()?)?;
        let timeout = optional(number()?)?.map(Duration::from_millis);
        Some(Self {
            status,
            parent,
            memory_bytes,
            disk_bytes,
            cpu_ms,
            timeout,
            command: words.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_read_back() {
        let arguments = GuardArguments {
            status: "/tmp/a b".into(),
            parent: 7,
            memory_bytes: 1,
            disk_bytes: 2,
            cpu_ms: None,
            timeout: Some(Duration::from_millis(5)),
            command: vec!["sh".into(), "-c".into(), "- x".into()],
        };
        assert_eq!(GuardArguments::parse(arguments.to_words()), Some(arguments));
        assert_eq!(GuardArguments::parse(["x".into()]), None);
    }
}
