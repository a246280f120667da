//! The facts of a run: slot vectors in a slab, found by number. It knows nothing of rules.

use rustc_hash::FxHashMap;

use crate::Value;

/// The writer of a fact that came from outside.
pub(crate) const FROM_REQUEST: u32 = u32::MAX;

#[derive(Debug, Clone)]
pub(crate) struct Fact {
    pub id: u64,
    pub kind: usize,
    pub version: u32,
    /// The rule that wrote it last, or [`FROM_REQUEST`].
    pub writer: u32,
    pub slots: Box<[Value]>,
    /// When each slot was last written, in changes of this run.
    pub stamps: Box<[u64]>,
    pub live: bool,
    /// The slots written in this turn, for the delta.
    pub dirty: u64,
    pub fresh: bool,
}

impl Fact {
    /// When one of these slots was last written.
    pub(crate) fn stamp(&self, reads: u64) -> u64 {
        let inserted = self.stamps.last().copied().unwrap_or(0);
        if self.version == 1 {
            return inserted;
        }
        let mut newest = inserted;
        let mut rest = reads;
        while rest != 0 {
            let slot = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            newest = newest.max(self.stamps.get(slot).copied().unwrap_or(0));
        }
        newest
    }
}

/// All facts of a run.
#[derive(Debug, Default)]
pub(crate) struct Store {
    facts: Vec<Fact>,
    free: Vec<u32>,
    ids: FxHashMap<u64, u32>,
    pub next_id: u64,
    pub clock: u64,
}

impl Store {
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn get(&self, at: u32) -> &Fact {
        &self.facts[at as usize]
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> &mut Fact {
        &mut self.facts[at as usize]
    }

    pub(crate) fn find(&self, id: u64) -> Option<u32> {
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
        self.ids.insert(id, at);
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
            stamps: Box::default(),
            live: false,
            dirty: 0,
            fresh: false,
        };
        let removed = std::mem::replace(fact, dead);
        self.ids.remove(&removed.id);
        self.free.push(at);
        removed
    }

    /// Live facts, in no order.
    pub(crate) fn live(&self) -> impl Iterator<Item = (u32, &Fact)> {
        (0_u32..).zip(self.facts.iter()).filter(|(_, fact)| fact.live)
    }

    pub(crate) fn bytes(&self) -> usize {
        let slots: usize = self
            .live()
            .map(|(_, fact)| fact.slots.iter().map(Value::weight).sum::<usize>() + fact.stamps.len() * 8)
            .sum();
        self.facts.capacity() * size_of::<Fact>() + self.ids.capacity() * 17 + slots
    }
}
