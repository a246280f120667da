//! Names of queues, exclusivity keys and fencing tokens.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use celesta_types::{ErrorKind, RunId};

use crate::limits::NAME_BYTES_MAX;

/// The name of a queue, for example `functions/encoder/split`. Cheap to clone.
#[derive(Clone, Eq, PartialOrd, Ord)]
pub struct QueueName(Arc<str>);

/// A text that cannot name a queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` cannot name a queue: expected 1 to 255 letters, digits, `/`, `-`, `_`, `.`, `:`, `@`")]
pub struct NameError {
    /// The text that was given, cut to 64 characters.
    pub text: String,
}

impl NameError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl QueueName {
    /// The queue named `text`.
    ///
    /// # Errors
    /// When the text is empty, too long or holds a character other than letters, digits and `/-_.:@`.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.:@".contains(&byte);
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(allowed) {
            return Err(NameError {
                text: text.chars().take(64).collect(),
            });
        }
        Ok(Self(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for QueueName {
    fn eq(&self, other: &Self) -> bool {
        // Names are cloned far more often than written anew, so this is nearly always decided by the pointer.
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Hash for QueueName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Borrow<str> for QueueName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl std::str::FromStr for QueueName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

/// What makes messages of an exclusive queue exclude each other: at most one lease per key at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u128);

impl Key {
    /// The key of these 128 bits.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The 128 bits.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The key for a producer's own text. Two texts that should ever hash alike would merely exclude each other.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(celesta_types::MessageId::from_producer(text).bits())
    }
}

impl From<RunId> for Key {
    fn from(run: RunId) -> Self {
        Self(run.bits())
    }
}

/// The fencing token of one lease. Larger is later; a token of an earlier lease, or of an earlier life of the process, is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

impl Token {
    /// The token with these bits, for example from a request.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits: the epoch of the process in the upper 24, the count of leases in the lower 40.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}
