//! One seed from its beginning to the verdict: events chosen by the seed, then calm until everything has come to rest, then
//! the oracle.

mod asking;
mod calm;
mod events;
mod steering;

use std::collections::{BTreeMap, VecDeque};

use celesta_queue::QueueName;
use celesta_runs::Turns;
use celesta_runtime::{Clock, ManualClock, Random};
use celesta_store::driven::{Ending, Record};
use celesta_types::{RunId, Timestamp};

use crate::bugs::Bug;
use crate::chance::Chance;
use crate::clients::Model;
use crate::node::{Ground, Node, Setting, SimError, function_queues, migrations};
use crate::oracle;
use crate::trace::Trace;
use crate::workers::{Held, Said};

pub use events::{EVENTS, Event};

/// When every seed begins: an instant in 2027.
const BEGINNING: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// What is counted in the record when a seed has ended.
const IN_THE_RECORD: &[(&str, &str)] = &[
    ("snapshots", "SELECT count(*) FROM snapshots"),
    (
        "runs of groups",
        "SELECT count(*) FROM runs WHERE service = 'lanes'",
    ),
    ("sweeps", "SELECT count(*) FROM sweeps"),
    ("events", "SELECT count(*) FROM events"),
    (
        "runs that moved to another version",
        "SELECT count(DISTINCT run) FROM upgrades",
    ),
    ("archived runs", "SELECT count(*) FROM archived"),
    ("bulk operations", "SELECT count(*) FROM operations"),
    (
        "pauses of workflows",
        "SELECT count(*) FROM sim_history WHERE what = 'ordered'",
    ),
    (
        "pauses of sweeps",
        "SELECT count(*) FROM sim_history WHERE what = 'sweep stands' AND number = 3",
    ),
    (
        "runs done over",
        "SELECT count(*) FROM runs WHERE parent IS NULL AND labels LIKE '%celesta.%-from%'",
    ),
];

/// How a seed is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Chooses everything.
    pub seed: u64,
    /// How many events happen before the calm.
    pub events: u64,
    /// A mistake to be found.
    pub bug: Option<Bug>,
    /// Whether every line of the trace goes to standard error.
    pub print: bool,
}

/// What became of a seed.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The events that it chose.
    pub events: u64,
    /// The digest of everything that happened and of the journal it left.
    pub digest: u64,
    /// Promises that were not kept.
    pub violations: Vec<String>,
    /// The last lines of the trace.
    pub latest: Vec<String>,
    /// What happened how often.
    pub counts: BTreeMap<&'static str, u64>,
}

/// Turns in the hands of an evaluator that has not begun.
struct Taken {
    turns: Turns,
    until: Timestamp,
}

/// The world of one seed.
struct Sim<'a> {
    ground: &'a Ground,
    bug: Option<Bug>,
    chance: Chance,
    random: Random,
    clock: Clock,
    time: ManualClock,
    record: Record,
    cache_bytes: usize,
    /// Absent only while a process begins.
    node: Option<Node>,
    functions: Vec<QueueName>,
    model: Model,
    said: Said,
    taken: Vec<Taken>,
    held: Vec<Held>,
    /// Calls that were answered, or held by a process that died: whoever answers them again is not heard.
    stale: VecDeque<Held>,
    trace: Trace,
    counts: BTreeMap<&'static str, u64>,
    /// Whether a turn was evaluated after its lease: then two may have tried the same one, and one conflicts.
    overdue: bool,
}

/// Runs one seed.
///
/// # Errors
/// When the simulation itself cannot go on: never for what it finds.
pub fn run(ground: &Ground, options: &Options) -> Result<Outcome, SimError> {
    let chance = Chance::new(options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed);
    let (clock, time) = Clock::manual(BEGINNING);
    // From room for one run to room for all of them.
    let cache_bytes = [4_096, 256 << 10, 1 << 20, 256 << 20][chance.below(4)];
    let mut sim = Sim {
        ground,
        bug: options.bug,
        random: Random::seeded(options.seed),
        chance,
        clock,
        time,
        record: Record::create(&migrations()).map_err(SimError::of("make a record"))?,
        cache_bytes,
        node: None,
        functions: function_queues()?,
        model: Model::default(),
        said: Said::default(),
        taken: Vec::new(),
        held: Vec::new(),
        stale: VecDeque::new(),
        trace: Trace::new(options.print),
        counts: BTreeMap::new(),
        overdue: false,
    };
    sim.open(false)?;
    let mut events = 0;
    while events < options.events && sim.model.violations.is_empty() {
        events += 1;
        sim.event()?;
    }
    // Whatever is under way: the record of this instant is one that a crash might leave. Not always: it is a long look.
    if sim.model.violations.is_empty() && sim.chance.percent(40) {
        oracle::record_is_sound(&mut sim.view()?);
    }
    if sim.model.violations.is_empty() {
        sim.calm()?;
    }
    if sim.model.violations.is_empty() {
        oracle::judge(&mut sim.view()?);
        sim.crash()?;
        oracle::queues_are_empty(&mut sim.view()?);
    }
    sim.record_digest()?;
    sim.count_record()?;
    if let Some(node) = sim.node.take() {
        node.crash();
    }
    sim.taken.clear();
    if sim.model.violations.is_empty() && sim.record.others() > 0 {
        sim.violation("a process that has ended still holds the record".to_owned());
    }
    Ok(Outcome {
        seed: options.seed,
        events,
        digest: sim.trace.digest(),
        violations: sim.model.violations,
        latest: sim.trace.latest(),
        counts: sim.counts,
    })
}

impl<'a> Sim<'a> {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn violation(&mut self, what: String) {
        self.trace.line(format_args!("VIOLATION {what}"));
        self.model.violations.push(what);
    }

    /// The process that runs.
    fn node(&mut self) -> Result<&mut Node, SimError> {
        self.node
            .as_mut()
            .ok_or_else(|| SimError::of("find its process")("it has ended"))
    }

    /// A process begins; with `may_crash` it may die while it does, and the next one begins.
    fn open(&mut self, may_crash: bool) -> Result<(), SimError> {
        self.record.refuse_reads(0);
        loop {
            let crash_after = (may_crash && self.chance.percent(10)).then(|| self.chance.below(3));
            let setting = Setting {
                ground: self.ground,
                record: &self.record,
                clock: &self.clock,
                random: &self.random,
                cache_bytes: self.cache_bytes,
            };
            let bug = self.bug;
            let make = |hand: &mut celesta_store::driven::Hand| {
                if let Some(bug) = bug {
                    hand.make(bug.mistake);
                }
            };
            self.node = Node::open(&setting, make, crash_after)?;
            self.count("processes");
            if self.node.is_some() {
                return Ok(());
            }
            self.count("crashes while opening");
            self.trace.line(format_args!("dies while opening"));
        }
    }

    /// Everything goes on by itself; clients hear.
    fn settle(&mut self) -> Result<(), SimError> {
        let answers = self.node()?.settle();
        for (ask, answer) in answers {
            let line = self.model.hear(ask, answer);
            self.trace.line(format_args!("  {line}"));
        }
        Ok(())
    }

    /// Commits the first units; their conflicts are somebody's fault.
    fn commit(&mut self, units: usize, ending: Ending) -> Result<(), SimError> {
        let did = self.node()?.commit(units, ending);
        self.trace.line(format_args!(
            "commit {} units, {} rows, {ending:?}, {} conflicts",
            did.units, did.rows, did.conflicts
        ));
        self.count("commits");
        *self.counts.entry("units").or_default() += did.units as u64;
        *self.counts.entry("conflicts").or_default() += did.conflicts as u64;
        Ok(())
    }

    /// The process dies here and now, and another begins.
    fn crash(&mut self) -> Result<(), SimError> {
        if let Some(node) = self.node.take() {
            for ask in node.crash() {
                self.model.lost(ask);
            }
        }
        self.taken.clear();
        let held = std::mem::take(&mut self.held);
        for held in held {
            self.remember_stale(held);
        }
        self.open(true)
    }

    fn remember_stale(&mut self, held: Held) {
        const STALE_MAX: usize = 32;
        if self.stale.len() == STALE_MAX {
            self.stale.pop_front();
        }
        self.stale.push_back(held);
    }

    /// Any of the promised runs, the latest ones more often.
    fn some_run(&self) -> Option<RunId> {
        let runs = &self.model.runs;
        let back = self.chance.below(self.chance.below(runs.len()) + 1);
        runs.get(runs.len().checked_sub(back + 1)?).copied()
    }

    fn view(&mut self) -> Result<oracle::View<'_>, SimError> {
        let Self {
            node,
            record,
            model,
            said,
            ..
        } = self;
        Ok(oracle::View {
            node: node
                .as_mut()
                .ok_or_else(|| SimError::of("find its process")("it has ended"))?,
            record,
            model,
            said,
        })
    }

    /// What the record says of how much was done.
    fn count_record(&mut self) -> Result<(), SimError> {
        for (what, sql) in IN_THE_RECORD {
            let rows = self.record.fetch(sql, &[]).map_err(SimError::of("count"))?;
            let count = rows.first().and_then(|row| u64::try_from(row.int(0)?).ok());
            *self.counts.entry(what).or_default() += count.unwrap_or(0);
        }
        Ok(())
    }

    /// The journal belongs to the digest: what happened and what is kept of it are the same again.
    fn record_digest(&mut self) -> Result<(), SimError> {
        let sql = "SELECT run, seq, record FROM journal ORDER BY run, seq";
        let rows = self
            .record
            .fetch(sql, &[])
            .map_err(SimError::of("read the journal"))?;
        for row in rows {
            self.trace.bytes(row.blob(0).unwrap_or_default());
            self.trace.bytes(row.blob(2).unwrap_or_default());
        }
        Ok(())
    }
}
