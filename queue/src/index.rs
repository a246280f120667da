//! Finds the slot of a message or a key by its 128 bits, at some ten bytes each: only slots are stored, and the bits are
//! compared where they are.
//!
//! A large index is many small tables, so that one that grows never moves more than a few thousand slots under the lock.

use std::hash::{BuildHasher as _, Hasher as _};

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

/// Slots of a single table; beyond it they are spread.
const SINGLE_MAX: usize = 16_384;
/// Tables of a large index, a power of two: ten million slots are ten thousand in each.
const TABLES: usize = 1_024;
/// Bits of the hash that choose the table; the tables themselves use the lowest and the highest.
const TABLE_SHIFT: u32 = 40;

#[derive(Debug)]
pub(crate) struct Index {
    tables: Vec<HashTable<u32>>,
    len: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            tables: vec![HashTable::new()],
            len: 0,
        }
    }
}

pub(crate) fn hash(bits: u128) -> u64 {
    let mut hasher = FxBuildHasher.build_hasher();
    hasher.write_u128(bits);
    hasher.finish()
}

impl Index {
    fn table(&self, hash: u64) -> usize {
        if self.tables.len() == 1 {
            0
        } else {
            usize::try_from(hash >> TABLE_SHIFT).unwrap_or(0) % TABLES
        }
    }

    /// The slot whose bits are these; `bits_of` tells the bits of a slot.
    pub(crate) fn find(&self, bits: u128, bits_of: impl Fn(u32) -> u128) -> Option<u32> {
        let hash = hash(bits);
        self.tables[self.table(hash)]
            .find(hash, |&slot| bits_of(slot) == bits)
            .copied()
    }

    /// Adds a slot whose bits are not there yet.
    pub(crate) fn insert(&mut self, bits: u128, slot: u32, bits_of: impl Fn(u32) -> u128) {
        if self.tables.len() == 1 && self.len == SINGLE_MAX {
            let slots = std::mem::take(&mut self.tables[0]);
            self.tables.resize_with(TABLES, HashTable::new);
            for slot in slots {
                let hash = hash(bits_of(slot));
                let table = self.table(hash);
                self.tables[table].insert_unique(hash, slot, |&slot| self::hash(bits_of(slot)));
            }
        }
        let hash = hash(bits);
        let table = self.table(hash);
        self.tables[table].insert_unique(hash, slot, |&slot| self::hash(bits_of(slot)));
        self.len += 1;
    }

    pub(crate) fn remove(&mut self, bits: u128, slot: u32) {
        let hash = hash(bits);
        let table = self.table(hash);
        if let Ok(found) = self.tables[table].find_entry(hash, |&other| other == slot) {
            found.remove();
            self.len -= 1;
        }
    }
}
