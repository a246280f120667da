//! What is served first: class, then number within the class, then earliest deadline, then enqueue order.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The five priority classes, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// People or other systems stand still until this is done.
    Critical,
    /// Ahead of ordinary work.
    High,
    /// Ordinary work.
    #[default]
    Standard,
    /// After ordinary work.
    Low,
    /// Only when there is nothing else: sweeps, backfills.
    Background,
}

impl Class {
    /// All classes, most urgent first.
    pub const ALL: [Self; 5] = [
        Self::Critical,
        Self::High,
        Self::Standard,
        Self::Low,
        Self::Background,
    ];

    /// The stored form: 0 (critical) to 4 (background).
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Self::Critical => 0,
            Self::High => 1,
            Self::Standard => 2,
            Self::Low => 3,
            Self::Background => 4,
        }
    }

    /// The class stored as `rank`.
    #[must_use]
    pub fn from_rank(rank: u8) -> Option<Self> {
        Self::ALL.get(usize::from(rank)).copied()
    }

    /// The name as written in requests and rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Standard => "standard",
            Self::Low => "low",
            Self::Background => "background",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no priority class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a priority class; expected critical, high, standard, low or background")]
pub struct ParseClassError {
    /// The text that was given, cut to 64 characters.
    pub text: String,
}

impl FromStr for Class {
    type Err = ParseClassError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|class| class.name() == text)
            .ok_or_else(|| ParseClassError {
                text: text.chars().take(64).collect(),
            })
    }
}

/// Where a message stands in its queue. Ordered: the smaller is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Priority {
    /// The class.
    pub class: Class,
    /// The number within the class; the larger is served first. Zero unless given.
    #[serde(default)]
    pub number: i16,
    /// The instant by which the work should be done; earlier is served first, none is last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
}

impl Priority {
    /// The priority of that class with nothing else said.
    #[must_use]
    pub const fn of(class: Class) -> Self {
        Self {
            class,
            number: 0,
            deadline: None,
        }
    }

    /// Class and number in one integer, the smaller served first: `class << 16 | (32767 - number)`.
    #[must_use]
    pub fn rank(&self) -> u32 {
        let inverted = u32::try_from(i32::from(i16::MAX) - i32::from(self.number)).unwrap_or(0);
        (u32::from(self.class.rank()) << 16) | inverted
    }

    /// The priority whose [`Priority::rank`] and deadline these are.
    #[must_use]
    pub fn from_rank(rank: u32, deadline: Option<Timestamp>) -> Option<Self> {
        let class = Class::from_rank(u8::try_from(rank >> 16).ok()?)?;
        let number = i16::try_from(i32::from(i16::MAX) - i32::try_from(rank & 0xffff).ok()?).ok()?;
        Some(Self {
            class,
            number,
            deadline,
        })
    }
}

impl PartialOrd for Priority {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Priority {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let deadline = |priority: &Self| priority.deadline.unwrap_or(Timestamp::MAX);
        (self.rank(), deadline(self)).cmp(&(other.rank(), deadline(other)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_then_number_then_deadline_decide() {
        let at = |class, number, deadline: Option<i64>| Priority {
            class,
            number,
            deadline: deadline.map(Timestamp::from_millis),
        };
        let ordered = [
            at(Class::Critical, i16::MIN, None),
            at(Class::High, 0, None),
            at(Class::Standard, i16::MAX, None),
            at(Class::Standard, 5, Some(1)),
            at(Class::Standard, 5, Some(2)),
            at(Class::Standard, 5, None),
            at(Class::Standard, i16::MIN, Some(1)),
            at(Class::Background, i16::MAX, Some(1)),
        ];
        assert!(ordered.is_sorted());
        for priority in ordered {
            assert_eq!(
                Priority::from_rank(priority.rank(), priority.deadline),
                Some(priority)
            );
        }
    }
}
