//! What a section may do: read and write facts (`facts`), make effects (`made`), draw numbers.
//!
//! Nothing here touches the network: writes are collected and applied when the section has ended well, so that a section
//! that throws has changed nothing. Scripts and native actions share these functions.

mod facts;
mod made;

use std::fmt::Write as _;
use std::sync::Arc;

use celesta_types::{CallId, RunId};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

pub(crate) use made::Made;

use super::store::{Fact, Store};
use crate::Value;
use crate::ruleset::RuleSet;
use crate::turn::{CallOptions, Effect, Section};

#[derive(Debug)]
pub(crate) enum Write {
    Insert(usize),
    Update(usize),
    Retract(u64),
}

#[derive(Debug)]
pub(crate) struct Inserted {
    pub id: u64,
    pub kind: usize,
    pub slots: Box<[Value]>,
    pub kept: bool,
}

#[derive(Debug)]
pub(crate) struct Updated {
    pub id: u64,
    /// Where the store has it.
    pub place: u32,
    pub slots: SmallVec<[(usize, Value); 2]>,
}

/// The state of a turn that sections see, and what the section that runs has done so far.
#[derive(Debug)]
pub(crate) struct Context {
    pub rules: Arc<RuleSet>,
    pub run: RunId,
    pub store: Store,
    /// Retracted facts that an open firing still binds.
    pub ghosts: FxHashMap<u64, Fact>,
    pub seq: u64,
    pub now_ms: i64,
    pub draws: u64,
    pub effects: Vec<Effect>,
    pub section: Section,
    pub writes: Vec<Write>,
    pub inserted: Vec<Inserted>,
    pub updated: Vec<Updated>,
    /// Where the updated facts are, once there are too many to look through.
    pub updated_at: FxHashMap<u64, usize>,
    pub retracted: FxHashSet<u64>,
    pub made: Vec<(CallId, Made)>,
    pub fail_fast: bool,
    pub retry: Option<CallOptions>,
    pub failed: bool,
    /// The section wants no more rules to fire in this turn.
    pub halting: bool,
    /// The effects before this section, and their bytes.
    mark: (usize, usize),
    /// The bytes of the turn's effects.
    effect_bytes: usize,
    /// The bytes of the long values that the section has written.
    written_bytes: usize,
}

type Done<T> = Result<T, String>;

impl Context {
    pub(crate) fn new(rules: Arc<RuleSet>, run: RunId) -> Self {
        Self {
            rules,
            run,
            store: Store::default(),
            ghosts: FxHashMap::default(),
            seq: 0,
            now_ms: 0,
            draws: 0,
            effects: Vec::new(),
            section: Section::Action,
            writes: Vec::new(),
            inserted: Vec::new(),
            updated: Vec::new(),
            updated_at: FxHashMap::default(),
            retracted: FxHashSet::default(),
            made: Vec::new(),
            fail_fast: false,
            retry: None,
            failed: false,
            halting: false,
            mark: (0, 0),
            effect_bytes: 0,
            written_bytes: 0,
        }
    }

    pub(crate) fn begin(&mut self, section: Section) {
        self.section = section;
        self.mark = (self.effects.len(), self.effect_bytes);
        self.clear();
    }

    /// Forgets everything the section has done.
    pub(crate) fn roll_back(&mut self) {
        self.effects.truncate(self.mark.0);
        self.effect_bytes = self.mark.1;
        self.clear();
    }

    /// The turn's effects; the next turn begins with none.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        self.effect_bytes = 0;
        std::mem::take(&mut self.effects)
    }

    fn clear(&mut self) {
        self.writes.clear();
        self.inserted.clear();
        self.updated.clear();
        self.updated_at.clear();
        self.retracted.clear();
        self.made.clear();
        self.fail_fast = false;
        self.retry = None;
        self.failed = false;
        self.halting = false;
        self.written_bytes = 0;
    }

    /// The next number of the sequence that the run's id and the turn's number start.
    fn draw(&mut self) -> u64 {
        self.draws += 1;
        let bits = self.run.bits();
        let folded = u64::try_from((bits >> 64) ^ (bits & u128::from(u64::MAX))).unwrap_or(0);
        // SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
        let mut z = folded
            .wrapping_add(self.seq.wrapping_mul(0xd1b5_4a32_d192_ed03))
            .wrapping_add(self.draws.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub(crate) fn random(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Twenty-four hexadecimal digits that no other turn of this or another run draws.
    pub(crate) fn uid(&mut self) -> String {
        let (a, b) = (self.draw(), self.draw());
        let mut text = format!("{a:016x}");
        write!(text, "{:08x}", b >> 32).expect("a string takes everything");
        text
    }
}
