//! Which part of a deployment a run belongs to: read off its id, so that nobody has to be asked.
//!
//! One byte of a run's id, its *slot*, stays what it is in the ids of everything that derives from the run (its children,
//! the messages of its calls). A partition holds the slots that leave its number when divided by the number of partitions.

use crate::{MessageId, RunId};

/// The bits of an id that are its slot: the last eight of its upper half, which derived ids share.
const SLOT_SHIFT: u32 = 64;
const SLOTS: u32 = 256;

/// The most partitions a deployment may have: each is a set of tables, and a slot must name one.
pub const PARTITIONS_MAX: u32 = 64;

/// One of the partitions of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// Its number, from 0.
    pub index: u32,
    /// How many there are; at least 1, at most [`PARTITIONS_MAX`], and the same for as long as the deployment lives.
    pub count: u32,
}

impl Partition {
    /// All there is, where there is one.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// The partition of `run`.
    #[must_use]
    pub const fn of_run(run: RunId, count: u32) -> Self {
        Self::of_slot(slot(run.bits()), count)
    }

    /// The partition of the message of a run's call.
    #[must_use]
    pub const fn of_call(message: MessageId, count: u32) -> Self {
        Self::of_slot(slot(message.bits()), count)
    }

    /// The partition of the messages with this key: a run's id, or that of a gate, which a digest spreads over all of them.
    #[must_use]
    pub const fn of_bits(key: u128, count: u32) -> Self {
        Self::of_slot(slot(key), count)
    }

    /// The partition where a client's key is kept, and so the runs it names. The same in every release.
    #[must_use]
    pub fn of_key(service: &str, key: &str, count: u32) -> Self {
        let hash = MessageId::from_producer(&format!("{service}\n{key}")).bits();
        // FNV leaves the last bytes in few bits; the finalizer of splitmix64 spreads them.
        let mut mixed = u64::try_from((hash ^ (hash >> 64)) & u128::from(u64::MAX)).unwrap_or(0);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        Self {
            index: u32::try_from(mixed % u64::from(count)).unwrap_or(0),
            count,
        }
    }

    /// `run` with a slot of this partition; everything else of the id stays.
    #[must_use]
    pub fn place(self, run: RunId) -> RunId {
        let found = slot(run.bits());
        let mut wanted = found - found % self.count + self.index;
        if wanted >= SLOTS {
            wanted -= self.count;
        }
        let cleared = run.bits() & !(u128::from(SLOTS - 1) << SLOT_SHIFT);
        RunId::from_bits(cleared | (u128::from(wanted) << SLOT_SHIFT))
    }

    const fn of_slot(slot: u32, count: u32) -> Self {
        Self {
            index: slot % count,
            count,
        }
    }
}

const fn slot(bits: u128) -> u32 {
    ((bits >> SLOT_SHIFT) & 0xff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CallId, Timestamp};

    #[test]
    fn what_derives_from_a_run_is_in_its_partition() {
        for random in 0..600_u128 {
            let made = RunId::new(
                Timestamp::from_millis(1_000),
                (random << 64) | (random * 0x9e37_79b9),
            );
            for count in [1, 3, 8, PARTITIONS_MAX] {
                for index in 0..count {
                    let partition = Partition { index, count };
                    let run = partition.place(made);
                    assert_eq!(Partition::of_run(run, count), partition);
                    let call = CallId { seq: 77, index: 3 };
                    let grandchild = run.child(call).child(call);
                    assert_eq!(Partition::of_run(grandchild, count), partition);
                    assert_eq!(
                        Partition::of_call(MessageId::derived(grandchild, call), count),
                        partition
                    );
                }
            }
        }
    }

    #[test]
    fn keys_keep_their_places_over_releases() {
        let places =
            ["a", "b", "c", "d", "order-1", "order-2"].map(|key| Partition::of_key("shop", key, 8).index);
        assert_eq!(places, [2, 3, 1, 7, 4, 0]);
    }
}
