//! A gate: the runs of one group, of which only so many may be under way at once. A pure machine.
//!
//! Each limit of a workflow has a gate for each value of its key. A run comes to the gate, passes or waits, and leaves
//! when it has ended. A gate knows nothing else of its runs; what it decides is given back as [`Step`]s, each of which
//! is one row or one message of the host. First come, first served; a run costs the same however many others wait.

use std::collections::BTreeMap;

use celesta_bundle::Strategy;
use celesta_types::wire::{Damaged, Reader, Writer};
use celesta_types::{Priority, RunId};
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::message::{HostMessage, strategy};

/// What a run is given when it has passed all of its gates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Then {
    /// It begins.
    Start,
    /// It is tried again.
    Retry {
        /// Why.
        reason: String,
        /// Who asked.
        by: String,
    },
    /// It begins where another run was.
    Restart {
        /// What is changed of its facts.
        writes: String,
        /// Why.
        reason: String,
        /// Who asked.
        by: String,
    },
}

impl Then {
    /// Whether the run has not begun before.
    pub(crate) const fn begins(&self) -> bool {
        !matches!(self, Self::Retry { .. })
    }

    /// What the run is sent.
    pub(crate) fn message(self) -> HostMessage {
        match self {
            Self::Start => HostMessage::Start,
            Self::Retry { reason, by } => HostMessage::Retry { reason, by },
            Self::Restart { writes, reason, by } => HostMessage::Restart { writes, reason, by },
        }
    }
}

/// Runs that may wait at one gate: more is a backlog for a queue in front of the platform.
pub const WAITING_MAX: usize = 100_000;

/// A run on its way through its gates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Passage {
    pub(crate) run: RunId,
    pub(crate) priority: Priority,
    /// What becomes of it at this gate.
    pub(crate) strategy: Strategy,
    /// The gates after this one.
    pub(crate) rest: Vec<(u128, Strategy)>,
    pub(crate) then: Then,
}

impl Passage {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.raw(&self.run.to_bytes());
        out.uint(self.priority.rank().into());
        out.flag(self.priority.deadline.is_some());
        out.instant(self.priority.deadline.unwrap_or_default());
        out.text(&self.strategy.to_string());
        out.size(self.rest.len());
        for (gate, strategy) in &self.rest {
            out.raw(&gate.to_be_bytes());
            out.text(&strategy.to_string());
        }
        match &self.then {
            Then::Start => out.byte(0),
            Then::Retry { reason, by } => {
                out.byte(1);
                out.text(reason);
                out.text(by);
            }
            Then::Restart { writes, reason, by } => {
                out.byte(2);
                out.text(writes);
                out.text(reason);
                out.text(by);
            }
        }
    }

    pub(crate) fn read(input: &mut Reader<'_>) -> Result<Self, Damaged> {
        let run = RunId::from_bits(u128::from_be_bytes(input.array()?));
        let rank = input.uint32()?;
        let deadline = input.flag()?;
        let at = input.instant()?;
        let priority = Priority::from_rank(rank, deadline.then_some(at));
        Ok(Self {
            run,
            priority: priority.ok_or_else(|| input.damaged("a priority"))?,
            strategy: strategy(input)?,
            rest: (0..input.size()?)
                .map(|_| Ok((u128::from_be_bytes(input.array()?), strategy(input)?)))
                .collect::<Result<_, Damaged>>()?,
            then: match input.byte()? {
                0 => Then::Start,
                1 => Then::Retry {
                    reason: input.text()?.to_owned(),
                    by: input.text()?.to_owned(),
                },
                2 => Then::Restart {
                    writes: input.text()?.to_owned(),
                    reason: input.text()?.to_owned(),
                    by: input.text()?.to_owned(),
                },
                _ => return Err(input.damaged("what a run is given")),
            },
        })
    }
}

/// How a run left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// It has completed, or was canceled.
    Settled,
    /// It has failed or was put aside.
    Failed,
}

impl Left {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Settled => 0,
            Self::Failed => 1,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Settled),
            1 => Some(Self::Failed),
            _ => None,
        }
    }
}

/// Where a run stands at a gate; its stored form is the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    /// It waits.
    Waiting = 0,
    /// It has passed.
    Inside = 1,
    /// It has passed and failed, and none passes after it.
    Blocking = 2,
}

impl Stand {
    pub(crate) const fn from_code(code: i64) -> Option<Self> {
        match code {
            0 => Some(Self::Waiting),
            1 => Some(Self::Inside),
            2 => Some(Self::Blocking),
            _ => None,
        }
    }
}

/// What the host is to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The run has a new place, and waits there.
    Put { place: u64, passage: Passage },
    /// The run at that place stands otherwise.
    Stand { place: u64, stand: Stand },
    /// The place is free.
    Free { place: u64 },
    /// The run goes on to the next gate, or begins.
    Pass { passage: Passage },
    /// The run will not begin.
    TurnAway { passage: Passage, why: &'static str },
    /// The run that is under way is to end.
    Stop { run: RunId, why: &'static str },
}

/// Why runs are canceled by a gate.
const ONE_IS_UNDER_WAY: &str = "another run is under way (first-only)";
const A_NEWER_CAME: &str = "a newer run came (last-only)";
const A_NEWER_WAITS: &str = "a newer run waits (latest-only)";
const TOO_MANY_WAIT: &str = "100000 runs of this workflow and key wait already";

/// The runs of one group.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    places: HashMap<RunId, u64, FxBuildHasher>,
    /// What has passed, by place.
    inside: BTreeMap<u64, (RunId, Stand)>,
    /// What waits, in the order it came.
    waiting: BTreeMap<u64, Passage>,
    next_place: u64,
}

impl Gate {
    /// Takes over a stored place.
    pub(crate) fn restore(&mut self, place: u64, passage: Passage, stand: Stand) {
        self.places.insert(passage.run, place);
        self.next_place = self.next_place.max(place + 1);
        if stand == Stand::Waiting {
            self.waiting.insert(place, passage);
        } else {
            self.inside.insert(place, (passage.run, stand));
        }
    }

    /// Whether nothing is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many are here.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A run comes.
    pub(crate) fn enter(&mut self, passage: Passage) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some(&place) = self.places.get(&passage.run) {
            self.again(place, passage, &mut steps);
            return steps;
        }
        let strategy = passage.strategy;
        match strategy {
            Strategy::Parallel(_) | Strategy::Sequential | Strategy::StrictSequential => {}
            Strategy::FirstOnly => {
                if !self.inside.is_empty() {
                    let why = ONE_IS_UNDER_WAY;
                    steps.push(Step::TurnAway { passage, why });
                    return steps;
                }
            }
            Strategy::LastOnly => {
                self.turn_away_waiting(A_NEWER_CAME, &mut steps);
                let stop = |(run, _): &(RunId, Stand)| Step::Stop {
                    run: *run,
                    why: A_NEWER_CAME,
                };
                steps.extend(self.inside.values().map(stop));
            }
            Strategy::LatestOnly => self.turn_away_waiting(A_NEWER_WAITS, &mut steps),
        }
        if self.waiting.len() >= WAITING_MAX {
            let why = TOO_MANY_WAIT;
            steps.push(Step::TurnAway { passage, why });
            return steps;
        }
        let place = self.next_place;
        self.next_place += 1;
        self.places.insert(passage.run, place);
        steps.push(Step::Put {
            place,
            passage: passage.clone(),
        });
        self.waiting.insert(place, passage);
        self.fill(strategy, &mut steps);
        steps
    }

    /// A run that came to the same gate elsewhere stands here from now on. More may have passed then than the limit says.
    pub(crate) fn take_over(&mut self, passage: Passage, stand: Stand) -> Vec<Step> {
        if self.places.contains_key(&passage.run) {
            return Vec::new();
        }
        let place = self.next_place;
        self.restore(place, passage.clone(), stand);
        let strategy = passage.strategy;
        let mut steps = vec![Step::Put { place, passage }];
        if stand == Stand::Waiting {
            self.fill(strategy, &mut steps);
        } else {
            steps.push(Step::Stand { place, stand });
        }
        steps
    }

    /// A run that is known comes again: it was inside, failed, and is tried again; or the message is repeated.
    fn again(&mut self, place: u64, passage: Passage, steps: &mut Vec<Step>) {
        let Some((_, stand)) = self.inside.get_mut(&place) else {
            return;
        };
        if passage.then.begins() {
            return;
        }
        if *stand == Stand::Blocking {
            *stand = Stand::Inside;
            let stand = Stand::Inside;
            steps.push(Step::Stand { place, stand });
        }
        steps.push(Step::Pass { passage });
    }

    /// A run leaves.
    pub(crate) fn leave(&mut self, run: RunId, strategy: Strategy, left: Left) -> Vec<Step> {
        let mut steps = Vec::new();
        let Some(&place) = self.places.get(&run) else {
            return steps;
        };
        if strategy == Strategy::StrictSequential
            && left == Left::Failed
            && let Some((_, stand)) = self.inside.get_mut(&place)
        {
            if *stand != Stand::Blocking {
                *stand = Stand::Blocking;
                let stand = Stand::Blocking;
                steps.push(Step::Stand { place, stand });
            }
            return steps;
        }
        self.places.remove(&run);
        self.inside.remove(&place);
        self.waiting.remove(&place);
        steps.push(Step::Free { place });
        self.fill(strategy, &mut steps);
        steps
    }

    /// Lets pass what may.
    fn fill(&mut self, strategy: Strategy, steps: &mut Vec<Step>) {
        while self.inside.len() < strategy.limit() {
            let Some((place, passage)) = self.waiting.pop_first() else {
                return;
            };
            self.inside.insert(place, (passage.run, Stand::Inside));
            let stand = Stand::Inside;
            steps.push(Step::Stand { place, stand });
            steps.push(Step::Pass { passage });
        }
    }

    fn turn_away_waiting(&mut self, why: &'static str, steps: &mut Vec<Step>) {
        for (place, passage) in std::mem::take(&mut self.waiting) {
            self.places.remove(&passage.run);
            steps.push(Step::Free { place });
            steps.push(Step::TurnAway { passage, why });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn passage(run: u128, strategy: Strategy) -> Passage {
        Passage {
            run: RunId::from_bits(run),
            priority: Priority::default(),
            strategy,
            rest: Vec::new(),
            then: Then::Start,
        }
    }

    /// Run 1 comes, then run 2, then run 3; what stands then, whether run 1 has failed.
    fn situation(name: &str, strategy: Strategy) -> Gate {
        let mut gate = Gate::default();
        let runs: u8 = match name {
            "empty" => 0,
            "1 inside" => 1,
            // Elsewhere a run that fails leaves.
            "1 failed" => (strategy == Strategy::StrictSequential).into(),
            "1 inside, 2 waits" => 2,
            _ => unreachable!("a situation"),
        };
        for run in 1..=runs {
            let stand = if run == 1 { Stand::Inside } else { Stand::Waiting };
            let stand = if name == "1 failed" {
                Stand::Blocking
            } else {
                stand
            };
            gate.restore(u64::from(run) - 1, passage(u128::from(run), strategy), stand);
        }
        gate
    }

    fn shown(steps: &[Step]) -> String {
        let words: Vec<String> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Put { .. } | Step::Free { .. } => None,
                Step::Stand { place, stand } if *stand == Stand::Blocking => {
                    Some(format!("{} blocks", place + 1))
                }
                Step::Stand { .. } => None,
                Step::Pass { passage } => Some(format!("{} passes", passage.run.bits())),
                Step::TurnAway { passage, .. } => Some(format!("{} is turned away", passage.run.bits())),
                Step::Stop { run, .. } => Some(format!("{} is stopped", run.bits())),
            })
            .collect();
        if words.is_empty() {
            "-".to_owned()
        } else {
            words.join(", ")
        }
    }

    #[test]
    fn the_whole_machine_is_written_out() {
        let strategies = [
            Strategy::Parallel(2),
            Strategy::Sequential,
            Strategy::StrictSequential,
            Strategy::FirstOnly,
            Strategy::LastOnly,
            Strategy::LatestOnly,
        ];
        let one = RunId::from_bits(1);
        let two = RunId::from_bits(2);
        let mut table = String::new();
        for strategy in strategies {
            writeln!(table, "{strategy}").expect("writing to a string");
            for name in ["empty", "1 inside", "1 failed", "1 inside, 2 waits"] {
                let mut row = |event: &str, steps: Vec<Step>| {
                    writeln!(table, "  {name:<18} {event:<14} {}", shown(&steps))
                        .expect("writing to a string");
                };
                row("3 comes", situation(name, strategy).enter(passage(3, strategy)));
                let retry = Passage {
                    then: Then::Retry {
                        reason: String::new(),
                        by: String::new(),
                    },
                    ..passage(1, strategy)
                };
                row("1 is retried", situation(name, strategy).enter(retry));
                row(
                    "1 settles",
                    situation(name, strategy).leave(one, strategy, Left::Settled),
                );
                row(
                    "1 fails",
                    situation(name, strategy).leave(one, strategy, Left::Failed),
                );
                row(
                    "2 is canceled",
                    situation(name, strategy).leave(two, strategy, Left::Settled),
                );
            }
        }
        insta::assert_snapshot!("gate", table);
    }

    #[test]
    fn a_passage_reads_back() {
        let passage = Passage {
            rest: vec![(7, Strategy::LastOnly)],
            then: Then::Retry {
                reason: "why".to_owned(),
                by: "ann".to_owned(),
            },
            ..passage(9, Strategy::Parallel(3))
        };
        let mut out = Writer::default();
        passage.write(&mut out);
        let bytes = out.finish();
        assert_eq!(Passage::read(&mut Reader::new(&bytes)), Ok(passage));
    }

    proptest::proptest! {
        /// Whatever comes and leaves: never more inside than the limit, no run passes twice, and the order is that of
        /// coming.
        #[test]
        fn order_and_limit_hold(limit in 1_u32..4, moves in proptest::collection::vec((0_u8..3, 1_u128..30), 0..200)) {
            let strategy = Strategy::Parallel(limit);
            let mut gate = Gate::default();
            let mut came = Vec::new();
            let mut passed = Vec::new();
            let mut gone = std::collections::BTreeSet::new();
            for (kind, run) in moves {
                let steps = if kind == 0 || kind == 1 {
                    if gone.contains(&run) { continue; }
                    if !came.contains(&run) { came.push(run); }
                    gate.enter(passage(run, strategy))
                } else {
                    gone.insert(run);
                    gate.leave(RunId::from_bits(run), strategy, Left::Settled)
                };
                for step in steps {
                    if let Step::Pass { passage } = step {
                        proptest::prop_assert!(!passed.contains(&passage.run.bits()));
                        passed.push(passage.run.bits());
                    }
                }
                proptest::prop_assert!(gate.inside.len() <= strategy.limit());
                proptest::prop_assert!(gate.inside.len() == strategy.limit() || gate.waiting.is_empty());
            }
            let place = |run: &u128| came.iter().position(|one| one == run);
            proptest::prop_assert!(passed.is_sorted_by_key(place));
        }
    }
}
