//! The facts of a run: slot vectors in a slab, found by number. It knows nothing of rules.

use rustc_hash::FxHashMap;

use crate::Value;

/// The writer of a fact that came from outside.
pub(crate) const FROM_REQUEST: u32 = u32::MAX;

/// Facts from this number on belong to the service. JSON carries numbers below 2^53 as they are.
pub(crate) const SHARED_FIRST: u64 = 1 << 52;

#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub id: u64,
    pub kind: usize,
    pub version: u32,
    /// The rule that wrote it last, or [`FROM_REQUEST`].
    pub writer: u32,
    pub slots: Box<[Value]>,
    /// When it came, in steps of this run.
    pub inserted: u64,
    /// How much later each slot was last written; empty while none was. A run ends before 2^32 steps.
    pub later: Box<[u32]>,
    pub live: bool,
    /// The slots written in this turn, for the delta.
    pub dirty: u64,
    pub fresh: bool,
}

impl Fact {
    /// When one of these slots was last written.
    pub(crate) fn stamp(&self, reads: u64) -> u64 {
        let mut newest = 0;
        if !self.later.is_empty() {
            let mut rest = reads;
            while rest != 0 {
                let slot = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                newest = newest.max(self.later.get(slot).copied().unwrap_or(0));
            }
        }
        self.inserted + u64::from(newest)
    }

    /// Notes when a slot was written.
    pub(crate) fn mark(&mut self, slot: usize, stamp: u64) {
        if self.later.is_empty() {
            self.later = vec![0; self.slots.len()].into();
        }
        self.later[slot] = u32::try_from(stamp.saturating_sub(self.inserted)).unwrap_or(u32::MAX);
    }
}

/// All facts of a run.
#[derive(Debug, Default)]
pub(crate) struct Store {
    facts: Vec<Fact>,
    free: Vec<u32>,
    /// Where facts lie that do not lie at their own number: a slab without holes needs no map.
    ids: FxHashMap<u64, u32>,
    /// The run's own.
    count: usize,
    /// The bytes of their long values.
    long: usize,
    pub next_id: u64,
    pub clock: u64,
}

impl Store {
    /// How many facts the run has; shared ones are not its.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The bytes of the long values of all facts.
    pub(crate) const fn long(&self) -> usize {
        self.long
    }

    /// Writes a slot.
    pub(crate) fn set(&mut self, at: u32, slot: usize, value: Value, stamp: u64) {
        let fact = &mut self.facts[at as usize];
        if fact.id < SHARED_FIRST {
            self.long = (self.long + value.long()).saturating_sub(fact.slots[slot].long());
        }
        fact.slots[slot] = value;
        fact.mark(slot, stamp);
    }

    pub(crate) fn get(&self, at: u32) -> &Fact {
        &self.facts[at as usize]
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> &mut Fact {
        &mut self.facts[at as usize]
    }

    pub(crate) fn find(&self, id: u64) -> Option<u32> {
        if let Some(own) = own_place(id)
            && let Some(fact) = self.facts.get(own as usize)
            && fact.id == id
        {
            return fact.live.then_some(own);
        }
        self.ids.get(&id).copied()
    }

    pub(crate) fn add(&mut self, fact: Fact) -> u32 {
        let id = fact.id;
        let at = if let Some(at) = self.free.pop() {
            self.facts[at as usize] = fact;
            at
        } else {
            self.facts.push(fact);
            u32::try_from(self.facts.len() - 1).expect("the bound on facts is far below 2^32")
        };
        if own_place(id) != Some(at) {
            self.ids.insert(id, at);
        }
        if id < SHARED_FIRST {
            self.count += 1;
            self.long += long(&self.facts[at as usize].slots);
        }
        at
    }

    /// Takes the fact out of the slab and leaves a dead one.
    pub(crate) fn remove(&mut self, at: u32) -> Fact {
        let fact = &mut self.facts[at as usize];
        let dead = Fact {
            id: fact.id,
            kind: fact.kind,
            version: fact.version,
            writer: fact.writer,
            slots: Box::default(),
            inserted: 0,
            later: Box::default(),
            live: false,
            dirty: 0,
            fresh: false,
        };
        let removed = std::mem::replace(fact, dead);
        if own_place(removed.id) != Some(at) {
            self.ids.remove(&removed.id);
        }
        if removed.id < SHARED_FIRST {
            self.count -= 1;
            self.long = self.long.saturating_sub(long(&removed.slots));
        }
        self.free.push(at);
        removed
    }

    /// Live facts, in no order.
    pub(crate) fn live(&self) -> impl Iterator<Item = (u32, &Fact)> {
        (0_u32..).zip(self.facts.iter()).filter(|(_, fact)| fact.live)
    }

    /// The numbers of the shared facts that are here.
    pub(crate) fn shared(&self) -> impl Iterator<Item = u64> {
        let live = self.live().map(|(_, fact)| fact.id);
        live.filter(|id| *id >= SHARED_FIRST)
    }

    /// The run's own facts, in their own places as far as there are no holes. Places change.
    pub(crate) fn own_only(&mut self) {
        if self.count == self.facts.len() {
            return;
        }
        let mut own: Vec<Fact> = std::mem::take(&mut self.facts);
        own.retain(|fact| fact.live && fact.id < SHARED_FIRST);
        own.sort_unstable_by_key(|fact| fact.id);
        (self.free, self.ids) = (Vec::new(), FxHashMap::default());
        (self.count, self.long) = (0, 0);
        for fact in own {
            self.add(fact);
        }
    }

    /// Gives spare memory back.
    pub(crate) fn shrink(&mut self) {
        if self.facts.len() <= SMALL {
            self.facts.shrink_to_fit();
            self.free.shrink_to_fit();
            self.ids.shrink_to_fit();
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let slots: usize = self
            .live()
            .map(|(_, fact)| fact.slots.iter().map(Value::weight).sum::<usize>() + fact.later.len() * 4 + 32)
            .sum();
        self.facts.capacity() * size_of::<Fact>() + self.ids.capacity() * 17 + slots
    }
}

fn long(slots: &[Value]) -> usize {
    slots.iter().map(Value::long).sum()
}

/// Up to this many facts memory is given back to the last byte after a turn: small runs are many.
const SMALL: usize = 256;

/// Where a fact lies in a slab that has never lost one.
fn own_place(id: u64) -> Option<u32> {
    u32::try_from(id.checked_sub(1)?).ok()
}
