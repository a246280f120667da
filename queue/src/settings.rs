//! What a queue is configured to do, and what the whole component is.

use std::collections::BTreeMap;
use std::time::Duration;

use celesta_types::ErrorKind;
use serde::{Deserialize, Serialize};

use crate::limits::{
    ATTEMPTS_MAX, DELAY_MS_MAX, HISTORY_MS, LEASE_MS_MAX, LEASE_MS_MIN, LINGER_MS, MESSAGES_MAX,
    METADATA_BYTES_MAX, RESIDENT_BYTES_MAX, SHARDS_MAX, WEIGHT_MAX, WEIGHTS_MAX,
};
use crate::name::QueueName;

/// Whether messages of a queue exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Any message may be leased beside any other.
    #[default]
    Simple,
    /// Messages have keys, and at most one lease holds a key at any time.
    Exclusive,
}

impl Kind {
    /// The name as written in settings and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Exclusive => "exclusive",
        }
    }
}

/// How messages of a queue get to their consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Consumers ask this component.
    #[default]
    Direct,
    /// Nodes that have a broker send them there.
    Broker,
}

/// What one queue does with its messages unless a message says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Simple or exclusive.
    pub kind: Kind,
    /// How long a lease holds unless the consumer asks otherwise.
    pub lease_ms: i64,
    /// How long a new message stays invisible.
    pub delay_ms: i64,
    /// How often a message is tried before it is errored.
    pub attempts_max: u32,
    /// How long a message may wait before it expires; for ever when absent.
    pub ttl_ms: Option<i64>,
    /// New messages are refused.
    pub enqueue_blocked: bool,
    /// Leases are refused.
    pub dequeue_blocked: bool,
    /// How long errored, canceled and expired messages stay to be looked at or redriven; not at all when zero.
    pub keep_ended_ms: i64,
    /// How long completed messages stay to be looked at, and their ids known; not at all when zero.
    pub keep_completed_ms: i64,
    /// How long the history of a message can be read after its end; none is written when zero.
    pub history_ms: i64,
    /// The weights of fairness keys: of two keys that both have messages of one class, one of weight 3 is served three
    /// times as often as one of weight 1. A key that is not named here has weight 1.
    pub weights: BTreeMap<String, u32>,
    /// Over how many shards the messages are spread, by their keys or else by their ids. Each shard has its own order and
    /// lock: more of them serve more threads, and the order between shards is exact only by class and number. A queue on
    /// PostgreSQL has one order for all nodes whatever this says.
    pub shards: u32,
    /// How messages get to their consumers.
    pub transport: Transport,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kind: Kind::Simple,
            lease_ms: 30_000,
            delay_ms: 0,
            attempts_max: 5,
            ttl_ms: None,
            enqueue_blocked: false,
            dequeue_blocked: false,
            keep_ended_ms: 7 * 24 * 3_600_000,
            keep_completed_ms: 0,
            history_ms: HISTORY_MS,
            weights: BTreeMap::new(),
            shards: 1,
            transport: Transport::Direct,
        }
    }
}

impl Settings {
    /// The defaults of a simple queue.
    #[must_use]
    pub fn simple() -> Self {
        Self::default()
    }

    /// The defaults of an exclusive queue.
    #[must_use]
    pub fn exclusive() -> Self {
        Self {
            kind: Kind::Exclusive,
            ..Self::default()
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigureError> {
        let within = |setting, given: i64, min: i64, max: i64| {
            if (min..=max).contains(&given) {
                Ok(())
            } else {
                Err(ConfigureError::OutOfRange {
                    setting,
                    given,
                    min,
                    max,
                })
            }
        };
        within("lease_ms", self.lease_ms, LEASE_MS_MIN, LEASE_MS_MAX)?;
        within("delay_ms", self.delay_ms, 0, DELAY_MS_MAX)?;
        within(
            "attempts_max",
            i64::from(self.attempts_max),
            1,
            i64::from(ATTEMPTS_MAX),
        )?;
        within("ttl_ms", self.ttl_ms.unwrap_or(1), 1, DELAY_MS_MAX)?;
        within("keep_ended_ms", self.keep_ended_ms, 0, DELAY_MS_MAX)?;
        within("keep_completed_ms", self.keep_completed_ms, 0, DELAY_MS_MAX)?;
        within("history_ms", self.history_ms, 0, DELAY_MS_MAX)?;
        within("shards", i64::from(self.shards), 1, i64::from(SHARDS_MAX))?;
        let size = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        within(
            "the number of weights",
            size(self.weights.len()),
            0,
            size(WEIGHTS_MAX),
        )?;
        for (key, &weight) in &self.weights {
            within(
                "the length of a fairness key",
                size(key.len()),
                1,
                size(METADATA_BYTES_MAX),
            )?;
            within("a weight", i64::from(weight), 1, i64::from(WEIGHT_MAX))?;
        }
        Ok(())
    }
}

/// Why a queue was not configured. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigureError {
    /// A number is outside of what is allowed.
    #[error("{setting} is {given}; expected {min} to {max}")]
    OutOfRange {
        /// Which setting.
        setting: &'static str,
        /// What was given.
        given: i64,
        /// The least allowed.
        min: i64,
        /// The most allowed.
        max: i64,
    },
    /// A queue that holds messages keeps its kind.
    #[error("queue `{queue}` holds messages and stays {}", kind.name())]
    KindInUse {
        /// Which queue.
        queue: QueueName,
        /// The kind it has.
        kind: Kind,
    },
    /// A queue that holds messages keeps its shards.
    #[error("queue `{queue}` holds messages and keeps its {shards} shards")]
    ShardsInUse {
        /// Which queue.
        queue: QueueName,
        /// How many it has.
        shards: u32,
    },
    /// There are as many queues as there may be.
    #[error("there are {max} queues already; no more can be made")]
    TooManyQueues {
        /// The most allowed.
        max: usize,
    },
}

impl ConfigureError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::OutOfRange { .. } => ErrorKind::Invalid,
            Self::KindInUse { .. } | Self::ShardsInUse { .. } => ErrorKind::Conflict,
            Self::TooManyQueues { .. } => ErrorKind::Unavailable,
        }
    }
}

/// What the whole component is told at its start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The settings of a queue made on first use whose name no template matches.
    pub default: Settings,
    /// Settings by the beginning of the name; the longest that matches counts.
    pub templates: Vec<(String, Settings)>,
    /// How long an unstored message waits for a consumer before it is stored on its own.
    pub linger: Duration,
    /// Messages in memory; enqueuing beyond it is refused.
    pub messages_max: usize,
    /// Bytes of payloads kept in memory; beyond it they stay in the record until their turn comes near.
    pub resident_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            default: Settings::default(),
            templates: Vec::new(),
            linger: Duration::from_millis(u64::try_from(LINGER_MS).unwrap_or(0)),
            messages_max: MESSAGES_MAX,
            resident_bytes_max: RESIDENT_BYTES_MAX,
        }
    }
}

impl Options {
    pub(crate) fn settings_for(&self, queue: &QueueName) -> Settings {
        let matching = self
            .templates
            .iter()
            .filter(|(prefix, _)| queue.as_str().starts_with(prefix.as_str()));
        matching
            .max_by_key(|(prefix, _)| prefix.len())
            .map_or_else(|| self.default.clone(), |(_, settings)| settings.clone())
    }
}
