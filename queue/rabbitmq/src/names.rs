//! What things are called in the broker.
//!
//! Queues of messages are `celesta.NAME`. What belongs to the road itself has a `!` in its name, which no queue's name
//! can have, so the two never meet.

use std::fmt;
use std::sync::Arc;

use celesta_queue::QueueName;
use celesta_types::ErrorKind;

use crate::limits::NAME_BYTES_MAX;

/// What the names in the broker begin with: installations that share a broker differ in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace(Arc<str>);

/// A name the broker cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is too long for the broker: {bytes} bytes, at most {max} are allowed")]
pub struct NameTooLong {
    /// The name.
    pub name: String,
    /// Its length.
    pub bytes: usize,
    /// The most allowed.
    pub max: usize,
}

impl NameTooLong {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("celesta".into())
    }
}

impl Namespace {
    /// The namespace called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The broker's queue for messages of `queue`.
    ///
    /// # Errors
    /// When the name is too long.
    pub fn destination(&self, queue: &QueueName) -> Result<String, NameTooLong> {
        fits(format!("{}.{queue}", self.0))
    }

    /// The broker's queue for reports to the dispatcher of `node`.
    ///
    /// # Errors
    /// When the name is too long.
    pub fn reports(&self, node: &str) -> Result<String, NameTooLong> {
        fits(format!("{}!reports.{node}", self.0))
    }

    /// The exchange through which all consumers hear notices.
    #[must_use]
    pub fn notices(&self) -> String {
        format!("{}!notices", self.0)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn fits(name: String) -> Result<String, NameTooLong> {
    if name.len() > NAME_BYTES_MAX {
        return Err(NameTooLong {
            bytes: name.len(),
            max: NAME_BYTES_MAX,
            name,
        });
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_queue_can_take_the_name_of_the_roads_own() {
        let namespace = Namespace::default();
        let queue = QueueName::new("functions/encoder/split").expect("a name");
        assert_eq!(
            namespace.destination(&queue).as_deref(),
            Ok("celesta.functions/encoder/split")
        );
        assert_eq!(
            namespace.reports("node-1").as_deref(),
            Ok("celesta!reports.node-1")
        );
        assert!(QueueName::new("a!b").is_err());
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        let queue = QueueName::new(&"q".repeat(250)).expect("a name");
        assert_eq!(
            Namespace::default()
                .destination(&queue)
                .expect_err("too long")
                .bytes,
            258
        );
    }
}
