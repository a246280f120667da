//! Typed ids and their readable text forms (`run_01j…`): one registry, so that no two kinds can be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Timestamp;

/// A text that is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind} id; expected `{prefix}_` and 26 characters of base 32")]
pub struct ParseIdError {
    /// What was expected, for example `run`.
    pub kind: &'static str,
    /// The prefix of that kind.
    pub prefix: &'static str,
    /// The text that was given, cut to 64 characters.
    pub text: String,
}

/// Crockford's base 32, lower case: no `i`, `l`, `o` or `u`.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 128 bits in groups of five.
const TEXT_LENGTH: usize = 26;

fn encode(bits: u128) -> [u8; TEXT_LENGTH] {
    let mut text = [b'0'; TEXT_LENGTH];
    let mut rest = bits;
    for slot in text.iter_mut().rev() {
        let low = usize::from(u8::try_from(rest & 31).unwrap_or(0));
        *slot = ALPHABET[low];
        rest >>= 5;
    }
    text
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != TEXT_LENGTH {
        return None;
    }
    let mut bits: u128 = 0;
    for byte in text.bytes() {
        let digit = ALPHABET
            .iter()
            .position(|&letter| letter == byte.to_ascii_lowercase())?;
        if bits >> 123 != 0 {
            return None;
        }
        bits = (bits << 5) | u128::try_from(digit).ok()?;
    }
    Some(bits)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// The prefix of the text form.
            pub const PREFIX: &'static str = $prefix;

            /// The id with exactly these 128 bits.
            #[must_use]
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            /// The 128 bits.
            #[must_use]
            pub const fn bits(self) -> u128 {
                self.0
            }

            /// The 16 bytes as stored, most significant first, so that byte order is id order.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The id stored as these 16 bytes, or `None` when the length differs.
            #[must_use]
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = encode(self.0);
                write!(f, "{}_{}", $prefix, std::str::from_utf8(&text).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix(concat!($prefix, "_")).and_then(decode).map(Self).ok_or_else(|| ParseIdError {
                    kind: stringify!($name),
                    prefix: $prefix,
                    text: text.chars().take(64).collect(),
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// One execution of a workflow's rules. Ordered by creation time (UUID version 7).
    RunId,
    "run"
);
id!(
    /// One message of a queue; also the id of an invocation, which is a message of a function's queue.
    MessageId,
    "msg"
);
id!(
    /// One sweep over many runs. Ordered by creation time (UUID version 7).
    SweepId,
    "swp"
);
id!(
    /// One bulk operation on runs. Ordered by creation time (UUID version 7).
    OperationId,
    "op"
);
id!(
    /// One trace through the platform, as in W3C trace context.
    TraceId,
    "trc"
);

/// `random` spread over the free bits of a UUID version 7 of the instant `at`.
fn version_7(at: Timestamp, random: u128) -> u128 {
    let millis = u64::try_from(at.as_millis()).unwrap_or(0);
    let mut bytes = [0_u8; 10];
    bytes.copy_from_slice(&random.to_be_bytes()[6..]);
    uuid::Builder::from_unix_timestamp_millis(millis, &bytes)
        .into_uuid()
        .as_u128()
}

impl RunId {
    /// A new id from an instant and 80 random bits, both given by the caller.
    #[must_use]
    pub fn new(at: Timestamp, random: u128) -> Self {
        Self(version_7(at, random))
    }

    /// The run's child made by its effect `call`: the same call always names the same child.
    #[must_use]
    pub fn child(self, call: CallId) -> Self {
        Self(mix(self.0, call, 0x9e37_79b9_7f4a_7c15))
    }
}

impl SweepId {
    /// A new id from an instant and 80 random bits, both given by the caller.
    #[must_use]
    pub fn new(at: Timestamp, random: u128) -> Self {
        Self(version_7(at, random))
    }
}

impl OperationId {
    /// A new operation id from an instant and 80 random bits, both given by the caller.
    #[must_use]
    pub fn new(at: Timestamp, random: u128) -> Self {
        Self(version_7(at, random))
    }
}

impl TraceId {
    /// A new trace id from an instant and 80 random bits, both given by the caller.
    #[must_use]
    pub fn new(at: Timestamp, random: u128) -> Self {
        Self(version_7(at, random))
    }
}

impl MessageId {
    /// A new id from an instant and 80 random bits, both given by the caller.
    #[must_use]
    pub fn new(at: Timestamp, random: u128) -> Self {
        Self(version_7(at, random))
    }

    /// The id of the message that effect `call` of `run` sends: a repeated turn derives the same id, so a repeated
    /// send is seen as one. Different calls of one run never collide; the upper half keeps the run's time order.
    #[must_use]
    pub fn derived(run: RunId, call: CallId) -> Self {
        Self(mix(run.0, call, 0xd1b5_4a32_d192_ed03))
    }

    /// The id for a producer's own text: the same text always names the same message.
    #[must_use]
    pub fn from_producer(text: &str) -> Self {
        // FNV-1a over 128 bits: stable across releases, and no adversary gains by colliding with their own message.
        let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        for byte in text.bytes() {
            hash ^= u128::from(byte);
            hash = hash.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        Self(hash)
    }
}

/// The upper half of `bits`, and the lower half moved by an amount that differs for every call of one run.
fn mix(bits: u128, call: CallId, factor: u64) -> u128 {
    let low = u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
    let ordinal = (call.seq << 20) | u64::from(call.index);
    // An odd factor makes the product a bijection of the ordinal, so distinct calls stay distinct.
    let low = low.wrapping_add((ordinal + 1).wrapping_mul(factor));
    (bits & !u128::from(u64::MAX)) | u128::from(low)
}

/// One effect of a run that is answered later (call, request, timer): the turn that made it and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallId {
    /// The journal sequence of the turn that made the effect, from 1; below 2^44.
    pub seq: u64,
    /// The effect's index within that turn, from 0; below 2^20.
    pub index: u32,
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seq, self.index)
    }
}

impl FromStr for CallId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once('.')
            .and_then(|(seq, index)| {
                Some(Self {
                    seq: seq.parse().ok()?,
                    index: index.parse().ok()?,
                })
            })
            .ok_or_else(|| ParseIdError {
                kind: "call",
                prefix: "seq.index",
                text: text.chars().take(64).collect(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_id_reads_back_from_its_text(bits: u128) {
            let id = RunId::from_bits(bits);
            prop_assert_eq!(id.to_string().parse::<RunId>(), Ok(id));
        }
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let text = MessageId::from_bits(7).to_string();
        assert!(text.parse::<RunId>().is_err());
        assert!(
            "run_zzzzzzzzzzzzzzzzzzzzzzzzzz".parse::<RunId>().is_err(),
            "more than 128 bits"
        );
    }

    #[test]
    fn ids_of_later_instants_are_greater() {
        let early = RunId::new(Timestamp::from_millis(1_000), u128::MAX);
        let late = RunId::new(Timestamp::from_millis(1_001), 0);
        assert!(early < late);
    }

    #[test]
    fn derived_ids_repeat_and_do_not_collide() {
        let run = RunId::new(Timestamp::from_millis(1_000), 42);
        let mut seen = std::collections::BTreeSet::new();
        for seq in 1..200 {
            for index in 0..50 {
                assert!(seen.insert(MessageId::derived(run, CallId { seq, index })));
            }
        }
        let call = CallId { seq: 3, index: 1 };
        assert_eq!(MessageId::derived(run, call), MessageId::derived(run, call));
        assert_ne!(run.child(call).bits(), MessageId::derived(run, call).bits());
    }
}
