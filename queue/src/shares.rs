//! The fairness keys of a queue: a number for each that some message has, and its weight.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::entry::NO_FLOW;

struct Share {
    name: Arc<str>,
    weight: u32,
    members: usize,
}

#[derive(Default)]
pub(crate) struct Shares {
    numbers: HashMap<Arc<str>, u32, FxBuildHasher>,
    /// Number 1 comes first; 0 is nobody's.
    shares: Vec<Option<Share>>,
    unused: Vec<u32>,
}

impl Shares {
    /// The number of a fairness key, for one more message.
    pub(crate) fn join(&mut self, name: &Arc<str>, weights: &BTreeMap<String, u32>) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            if let Some(Some(share)) = self.shares.get_mut(number as usize - 1) {
                share.members += 1;
            }
            return number;
        }
        let share = Share {
            name: Arc::clone(name),
            weight: weights.get(&**name).copied().unwrap_or(1),
            members: 1,
        };
        let number = self.unused.pop().unwrap_or_else(|| {
            self.shares.push(None);
            u32::try_from(self.shares.len()).expect("fairness keys are at most as many as messages")
        });
        self.shares[number as usize - 1] = Some(share);
        self.numbers.insert(Arc::clone(name), number);
        number
    }

    /// A message of the fairness key is forgotten.
    pub(crate) fn leave(&mut self, number: u32) {
        if number == NO_FLOW {
            return;
        }
        let place = &mut self.shares[number as usize - 1];
        if let Some(share) = place {
            share.members -= 1;
            if share.members == 0 {
                self.numbers.remove(&share.name);
                *place = None;
                self.unused.push(number);
            }
        }
    }

    pub(crate) fn weight(&self, number: u32) -> u32 {
        let place = (number as usize)
            .checked_sub(1)
            .and_then(|at| self.shares.get(at));
        place.and_then(Option::as_ref).map_or(1, |share| share.weight)
    }

    /// Takes over new weights; each counts from the next message of its key on.
    pub(crate) fn reweigh(&mut self, weights: &BTreeMap<String, u32>) {
        for share in self.shares.iter_mut().flatten() {
            share.weight = weights.get(&*share.name).copied().unwrap_or(1);
        }
    }
}
