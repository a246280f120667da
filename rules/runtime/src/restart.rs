//! Doing a run over: from its start, or from where one of its rules first fired, with facts changed by hand.
//!
//! The old run stays as it is, for people to look at. The new one begins with what the old one knew before the turn in
//! which the rule fired: that is the journal up to there, read with the rules of the service's current version, and
//! kept as the new run's first snapshot. Calls that were open then are made again; what came back later is forgotten.

use std::sync::Arc;

use celesta_engine::{RuleSet, WorkingMemory};
use celesta_functions::INLINE_JSON_MAX;
use celesta_store::{Cell, Unit};
use celesta_types::{ErrorKind, RunId};

use crate::facts::{WRITES_MAX, events_of};
use crate::gate::Then;
use crate::head::RunHead;
use crate::lifecycle::{LifecycleError, Wish};
use crate::load::LoadError;
use crate::record::{Record, Recorded};
use crate::registry::Version;
use crate::runtime::Runtime;
use crate::schema::{JOURNAL_APPEND, SNAPSHOT_UPSERT};
use crate::state::RunState;
use crate::steering::Steering;
use crate::submit::begin;

/// The label of a run that says which run it does over.
pub const RESTARTED_FROM: &str = "celesta.restarted-from";

/// How a run is done over.
#[derive(Debug, Clone, Default)]
pub struct Restart {
    /// From the turn in which this rule first fired; from the start without.
    pub rule: Option<String>,
    /// From this turn, in place of the rule's first.
    pub turn: Option<u64>,
    /// The JSON list of [`crate::FactWrite`]s that change the facts before rules fire; may be empty.
    pub writes: Vec<u8>,
}

/// Why a run is not done over. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// The rule never fired.
    #[error("rule `{rule}` has not fired in {run}")]
    NeverFired {
        /// The run.
        run: RunId,
        /// The rule.
        rule: String,
    },
    /// The run has no such turn.
    #[error("{run} has no turn {turn}; its last is {last}")]
    NoTurn {
        /// The run.
        run: RunId,
        /// The turn.
        turn: u64,
        /// The last one.
        last: u64,
    },
    /// The run is still under way.
    #[error("{run} is {state}: cancel or pause it first")]
    UnderWay {
        /// The run.
        run: RunId,
        /// How it stands.
        state: RunState,
    },
    /// The writes are wrong.
    #[error("{reason}")]
    Writes {
        /// What is wrong, and where.
        reason: String,
    },
    /// The service's current version cannot go on where the run was.
    #[error("the current version of service `{service}` cannot go on where {run} was: {reason}")]
    Version {
        /// The service.
        service: String,
        /// The run.
        run: RunId,
        /// Why.
        reason: String,
    },
    /// The run cannot be read, or the new one not be stored.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
}

impl RestartError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NeverFired { .. } | Self::NoTurn { .. } => ErrorKind::NotFound,
            Self::UnderWay { .. } | Self::Version { .. } => ErrorKind::Conflict,
            Self::Writes { .. } => ErrorKind::Invalid,
            Self::Lifecycle(error) => error.kind(),
        }
    }
}

impl From<LoadError> for RestartError {
    fn from(error: LoadError) -> Self {
        Self::Lifecycle(error.into())
    }
}

impl Runtime {
    /// Does a run over as a new run of the service's current version, and gives that one.
    ///
    /// # Errors
    /// When there is no such run, rule or turn, the run is under way, the writes are wrong, or the current version cannot
    /// go on there.
    pub async fn restart(&self, run: RunId, request: Restart, wish: &Wish) -> Result<RunId, RestartError> {
        let inner = &self.inner;
        let (reason, by) = wish.bounded()?;
        let writes = checked(request.writes)?;
        let live = inner.load(run).await?.ok_or(LifecycleError::NotFound { run })?;
        let old = live.head.clone();
        let last = live.seq;
        drop(live);
        if !old.state.is_ended() && old.state != RunState::Paused {
            return Err(RestartError::UnderWay {
                run,
                state: old.state,
            });
        }
        let view = inner.view(run).await.map_err(LoadError::from)?;
        let input = view.and_then(|view| view.input);
        let input = input.map_or_else(Vec::new, |input| input.get().as_bytes().to_vec());
        let (version, rules) = self.current(&old)?;
        let turn = match (request.turn, &request.rule) {
            (Some(turn), _) if turn == 0 || turn > last => {
                return Err(RestartError::NoTurn { run, turn, last });
            }
            (Some(turn), _) => turn,
            (None, Some(rule)) => self.first_firing(run, rule).await?,
            (None, None) => 1,
        };
        let now = inner.clock.now();
        let mut labels = old.labels.clone();
        labels.insert(RESTARTED_FROM.to_owned(), run.to_string());
        let mut head = RunHead {
            run: inner.new_run(now),
            version: version.digest,
            state: RunState::Running,
            created_at: now,
            updated_at: now,
            ended_at: None,
            labels,
            parent: None,
            depth: 0,
            result: None,
            error: None,
            progress: None,
            steering: old.steering().fresh.then(|| {
                Box::new(Steering {
                    fresh: true,
                    ..Steering::default()
                })
            }),
            ..old
        };
        let mut unit = Unit::new();
        if let Some(state) = self.state_before(run, turn, &head, &rules).await? {
            let record = Record {
                at: now,
                effects: vec![Recorded::Log {
                    text: format!("goes on where {run} was before its turn {turn}"),
                }],
                ..Record::default()
            };
            let new = || Cell::Id(head.run.to_bytes());
            unit.add(&JOURNAL_APPEND, [new(), 1.into(), record.encode().into()]);
            unit.add(&SNAPSHOT_UPSERT, [new(), 1.into(), state.into()]);
        }
        let then = Then::Restart { writes, reason, by };
        let message = begin(
            &inner.runs_queue,
            &mut head,
            &version,
            &input,
            None,
            then,
            &mut unit,
        );
        inner
            .stage(&mut unit, vec![message])
            .map_err(LifecycleError::unavailable)?;
        let committed = inner.store.commit(unit).await;
        committed.map_err(LifecycleError::unavailable)?;
        Ok(head.run)
    }

    fn current(&self, old: &RunHead) -> Result<(Arc<Version>, Arc<RuleSet>), RestartError> {
        let refused = |reason: String| RestartError::Version {
            service: old.service.to_string(),
            run: old.run,
            reason,
        };
        let version = self.inner.registry.current(&old.service);
        let version = version.ok_or_else(|| refused("the service is gone".to_owned()))?;
        let rules = version.rules(&old.workflow).cloned();
        let rules = rules.ok_or_else(|| refused(format!("it has no workflow `{}`", old.workflow)))?;
        if !version.bundle.operations.contains_key(&*old.operation) {
            return Err(refused(format!("it has no operation `{}`", old.operation)));
        }
        Ok((version, rules))
    }

    /// The turn in which the action of `rule` first ran.
    async fn first_firing(&self, run: RunId, rule: &str) -> Result<u64, RestartError> {
        let mut after = 0;
        loop {
            let turns = self
                .inner
                .turns(run, after, usize::MAX)
                .await?
                .unwrap_or_default();
            let Some(last) = turns.last() else {
                let rule = rule.to_owned();
                return Err(RestartError::NeverFired { run, rule });
            };
            after = last.seq;
            let fired = turns.iter().find(|turn| {
                let mut firings = turn.firings.iter();
                firings.any(|firing| firing.rule == rule && firing.section == "action")
            });
            if let Some(turn) = fired {
                return Ok(turn.seq);
            }
        }
    }

    /// What `run` knew before `turn`, as the snapshot of the new run; none when it knew nothing: it was to begin with its
    /// request.
    async fn state_before(
        &self,
        run: RunId,
        turn: u64,
        new: &RunHead,
        rules: &Arc<RuleSet>,
    ) -> Result<Option<Vec<u8>>, RestartError> {
        let refused = |reason: String| RestartError::Version {
            service: new.service.to_string(),
            run,
            reason,
        };
        let mut deltas = Vec::new();
        let mut next = 1;
        while next < turn {
            let records = self.inner.records(run, next - 1, usize::MAX).await?;
            if records.first().is_none_or(|(seq, _)| *seq != next) {
                return Err(refused(format!("its turn {next} is not in the journal any more")));
            }
            for (seq, record) in records.into_iter().take_while(|(seq, _)| *seq < turn) {
                next = seq + 1;
                if !record.delta.is_empty() {
                    deltas.push(record.delta);
                }
            }
        }
        if deltas.is_empty() {
            return Ok(None);
        }
        let (rules, run) = (Arc::clone(rules), new.run);
        // A large run takes longer to read than the threads that serve requests have.
        let restored = tokio::task::spawn_blocking(move || {
            let deltas = deltas.iter().map(Vec::as_slice);
            WorkingMemory::restore(&rules, run, None, deltas).map(|memory| memory.snapshot())
        });
        restored
            .await
            .map_err(LifecycleError::unavailable)?
            .map(Some)
            .map_err(|error| refused(error.to_string()))
    }
}

fn checked(writes: Vec<u8>) -> Result<String, RestartError> {
    if writes.is_empty() {
        return Ok("[]".to_owned());
    }
    let wrong = |reason: String| RestartError::Writes { reason };
    if writes.len() > INLINE_JSON_MAX {
        let bytes = writes.len();
        return Err(wrong(format!(
            "the writes have {bytes} bytes, more than {INLINE_JSON_MAX}"
        )));
    }
    let events = events_of(&writes).map_err(wrong)?;
    if events.len() > WRITES_MAX {
        let count = events.len();
        return Err(wrong(format!(
            "there are {count} writes; expected at most {WRITES_MAX}"
        )));
    }
    String::from_utf8(writes).map_err(|error| wrong(error.to_string()))
}
