//! What a process prints, kept within a bound: the beginning and the end, with a note where the middle was.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes kept of one stream of one attempt: enough to see what went wrong, bounded because a loop may print for days.
pub const OUTPUT_MAX: usize = 1 << 20;
/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// The kept part of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    half: usize,
    total: u64,
}

impl Default for Capture {
    fn default() -> Self {
        Self::bounded(OUTPUT_MAX)
    }
}

impl Capture {
    pub(crate) const fn bounded(most: usize) -> Self {
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            half: most / 2,
            total: 0,
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total = self
            .total
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let room = self.half.saturating_sub(self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        let rest = &rest[rest.len().saturating_sub(self.half)..];
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.half);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// How many bytes there were in all.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// What was kept, with a line that says how much is missing.
    pub(crate) fn finish(self) -> Vec<u8> {
        let mut bytes = self.head;
        let kept = u64::try_from(bytes.len() + self.tail.len()).unwrap_or(u64::MAX);
        if self.total > kept {
            bytes.extend_from_slice(format!("\n[… {} bytes left out …]\n", self.total - kept).as_bytes());
        }
        bytes.extend(self.tail);
        bytes
    }

    /// Reads `stream` to its end.
    pub(crate) async fn read(mut self, mut stream: impl AsyncRead + Unpin) -> Self {
        let mut chunk = vec![0; CHUNK];
        // A stream that breaks has ended.
        while let Ok(read @ 1..) = stream.read(&mut chunk).await {
            self.push(&chunk[..read]);
        }
        self
    }
}

/// The last lines of what was printed, fit for an error message.
pub(crate) fn last_lines(bytes: &[u8]) -> String {
    const LINES: usize = 5;
    const BYTES: usize = 1_000;
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .lines()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(LINES)
        .collect();
    let joined = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
    let from = joined
        .char_indices()
        .rev()
        .take_while(|(at, _)| joined.len() - at <= BYTES)
        .last()
        .map_or(0, |(at, _)| at);
    joined[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_stream_is_kept_whole() {
        let mut capture = Capture::bounded(8);
        capture.push(b"abc");
        capture.push(b"defgh");
        assert_eq!(capture.finish(), b"abcdefgh");
    }

    #[test]
    fn a_long_stream_loses_its_middle_and_says_so() {
        let mut capture = Capture::bounded(8);
        for byte in b'a'..=b'z' {
            capture.push(&[byte]);
        }
        assert_eq!(capture.total(), 26);
        assert_eq!(
            capture.clone().finish(),
            "abcd\n[… 18 bytes left out …]\nwxyz".as_bytes()
        );
        capture.push(&[b'!'; 100]);
        assert!(capture.finish().ends_with(b"\n!!!!"));
    }

    #[test]
    fn the_last_lines_make_a_message() {
        assert_eq!(last_lines(b"a\n\nb\n"), "a\nb");
        assert_eq!(last_lines("é".repeat(2_000).as_bytes()).len(), 1_000);
    }
}
