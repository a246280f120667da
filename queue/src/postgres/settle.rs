//! Settling leases: complete, fail, release, extend. Completions that arrive together are one statement.

use std::sync::Arc;

use celesta_store::{Arg, Call, CommitError, QueryError, Row};
use celesta_types::Timestamp;
use tokio::sync::oneshot;

use super::works::Work;
use super::{Core, Entry, SharedQueues, call, narrow, text, unavailable};
use crate::consume::cut;
use crate::error::{Error, ExtendError, StaleToken};
use crate::limits::{BATCH_MAX, DELAY_MS_MAX, LEASE_MS_MAX, LEASE_MS_MIN};
use crate::machine::State;
use crate::message::{Failed, Failure, LeaseRef};
use crate::settings::Kind;
use crate::state::Tally;

/// Rows of one statement.
const ROWS_MAX: usize = 8_192;

const COMPLETE: &str = "SELECT * FROM queue_done($1, $2, $3, $4, $5, $6)";

/// Leases of one caller to be completed, all with the same keeping of completed messages.
pub(super) struct Completing {
    keep_ms: i64,
    history: bool,
    leases: Columns,
    answer: oneshot::Sender<Result<Vec<bool>, CommitError>>,
}

impl Completing {
    pub(super) const fn len(&self) -> usize {
        self.leases.ids.len()
    }
}

/// Leases as columns.
#[derive(Default, Clone)]
struct Columns {
    queues: Vec<i64>,
    ids: Vec<Option<[u8; 16]>>,
    tokens: Vec<i64>,
}

impl Columns {
    fn push(&mut self, entry: &Entry, lease: &LeaseRef) {
        self.queues.push(entry.id);
        self.ids.push(Some(lease.id.to_bytes()));
        self.tokens
            .push(i64::try_from(lease.token.bits()).unwrap_or(i64::MAX));
    }

    fn append(&mut self, mut other: Self) {
        self.queues.append(&mut other.queues);
        self.ids.append(&mut other.ids);
        self.tokens.append(&mut other.tokens);
    }

    /// The same with one value for a column that is the same everywhere.
    fn into_narrow_args(self) -> [Arg; 3] {
        [narrow(self.queues), Arg::Ids(self.ids), narrow(self.tokens)]
    }

    fn into_args(self) -> [Arg; 3] {
        [Arg::Ints(self.queues), Arg::Ids(self.ids), Arg::Ints(self.tokens)]
    }
}

impl SharedQueues {
    /// Completes leased messages and waits until that is durable. The answer has one outcome for each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the completions back.
    pub async fn complete(&self, leases: &[LeaseRef]) -> Result<Vec<Result<(), StaleToken>>, Error> {
        within_batch(leases.len())?;
        let mut outcomes: Vec<_> = leases.iter().map(|lease| Err(lease.stale())).collect();
        for (from, same) in runs(leases) {
            let Some(entry) = self.core.find(&same[0].queue).await? else {
                continue;
            };
            let (keep_ms, history, kind) = {
                let settings = entry.settings.read();
                (settings.keep_completed_ms, settings.history_ms > 0, settings.kind)
            };
            let mut columns = Columns::default();
            for lease in same {
                columns.push(&entry, lease);
            }
            let (answer, answered) = oneshot::channel();
            let completing = Completing {
                keep_ms,
                history,
                leases: columns,
                answer,
            };
            self.core.works.ask(Work::Complete(completing)).await;
            let stood = answered.await.unwrap_or(Err(CommitError::Closed))?;
            let mut completed = 0;
            for (outcome, stood) in outcomes[from..].iter_mut().zip(stood) {
                if stood {
                    completed += 1;
                    *outcome = Ok(());
                }
            }
            self.core.metrics.of(kind).add(&Tally {
                completed,
                ..Tally::default()
            });
            if kind == Kind::Exclusive && completed > 0 {
                self.core.freed(&entry);
            }
        }
        Ok(outcomes)
    }

    /// Says that the work of leases has failed and waits until that is durable: each message is tried again after its
    /// delay, or is a dead letter. The answer has one outcome for each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the failures back.
    pub async fn fail(&self, failures: Vec<Failure>) -> Result<Vec<Result<Failed, StaleToken>>, Error> {
        within_batch(failures.len())?;
        let now = self.core.now();
        let mut settling = Settling::default();
        let mut outcomes = Vec::with_capacity(failures.len());
        for failure in &failures {
            outcomes.push(Err(failure.lease.stale()));
            let Some(entry) = self.core.find(&failure.lease.queue).await? else {
                continue;
            };
            let error = text::plain(cut(&failure.error));
            let visible_at = now.saturating_add(failure.delay_ms.clamp(0, DELAY_MS_MAX));
            let event = text::event(1, now, 'F', &error);
            settling.push(
                outcomes.len() - 1,
                entry,
                &failure.lease,
                One {
                    kind: if failure.retryable { 1 } else { 2 },
                    visible_at,
                    error: Some(error),
                    event,
                },
            );
        }
        for (place, state, visible_at) in self.core.settle(settling, now).await? {
            outcomes[place] = Ok(if state.is_ended() {
                Failed::Errored
            } else {
                Failed::Retried {
                    visible_at: Timestamp::from_millis(visible_at),
                }
            });
        }
        Ok(outcomes)
    }

    /// Gives leases back untouched: the messages can be leased again at once, and no attempt is burned. The answer has
    /// one outcome for each, in order.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    pub async fn release(&self, leases: &[LeaseRef]) -> Result<Vec<Result<(), StaleToken>>, Error> {
        within_batch(leases.len())?;
        self.core.release(leases).await
    }

    /// Has leases hold for `lease_ms` from now on. The answer has one outcome for each, in order: the new end.
    ///
    /// # Errors
    /// When the batch is too large or the record does not take it; then nothing has changed.
    pub async fn extend(
        &self,
        leases: &[LeaseRef],
        lease_ms: i64,
    ) -> Result<Vec<Result<Timestamp, ExtendError>>, Error> {
        within_batch(leases.len())?;
        if !(LEASE_MS_MIN..=LEASE_MS_MAX).contains(&lease_ms) {
            let refuse = |_| {
                Err(ExtendError::LeaseOutOfRange {
                    lease_ms,
                    min: LEASE_MS_MIN,
                    max: LEASE_MS_MAX,
                })
            };
            return Ok(leases.iter().map(refuse).collect());
        }
        let core = &self.core;
        let now = core.now();
        let until = now.saturating_add(lease_ms);
        let mut outcomes: Vec<Result<Timestamp, ExtendError>> =
            leases.iter().map(|lease| Err(lease.stale().into())).collect();
        let mut columns = Columns::default();
        let mut places = Vec::new();
        for (place, lease) in leases.iter().enumerate() {
            if let Some(entry) = core.find(&lease.queue).await? {
                columns.push(&entry, lease);
                places.push(place);
            }
        }
        let [queues, ids, tokens] = columns.into_args();
        let event = text::event(1, now, 'E', &until.to_string());
        let args = vec![
            Arg::Int(now),
            Arg::Int(until),
            queues,
            ids,
            tokens,
            Arg::Text(Some(event)),
        ];
        let sql = "SELECT * FROM queue_extend($1, $2, $3, $4, $5, $6)";
        let rows = core.database.write(&[call("queue.extend", sql, args)]).await?;
        for row in rows.iter().flatten() {
            if let Some(&place) = place_of(row.int(0)).and_then(|at| places.get(at)) {
                outcomes[place] = Ok(Timestamp::from_millis(until));
            }
        }
        core.arm(until);
        Ok(outcomes)
    }
}

/// What is said of one lease that is not completed.
struct One {
    kind: i64,
    visible_at: i64,
    error: Option<Arc<str>>,
    event: Arc<str>,
}

#[derive(Default)]
struct Settling {
    places: Vec<usize>,
    entries: Vec<Arc<Entry>>,
    leases: Columns,
    kinds: Vec<i64>,
    visible: Vec<i64>,
    errors: Vec<Option<Arc<str>>>,
    events: Vec<Option<Arc<str>>>,
}

impl Settling {
    fn push(&mut self, place: usize, entry: Arc<Entry>, lease: &LeaseRef, one: One) {
        self.places.push(place);
        self.leases.push(&entry, lease);
        self.entries.push(entry);
        self.kinds.push(one.kind);
        self.visible.push(one.visible_at);
        self.errors.push(one.error);
        self.events.push(Some(one.event));
    }
}

impl Core {
    /// Fails or releases: gives the place, the new state and the instant of each lease that stood.
    async fn settle(&self, settling: Settling, now: i64) -> Result<Vec<(usize, State, i64)>, QueryError> {
        let Settling {
            places,
            entries,
            leases,
            kinds,
            visible,
            errors,
            events,
        } = settling;
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let [queues, ids, tokens] = leases.into_args();
        let args = vec![
            Arg::Int(now),
            Arg::Ints(kinds),
            Arg::Ints(visible.clone()),
            queues,
            ids,
            tokens,
            Arg::Texts(errors),
            Arg::Texts(events),
        ];
        let sql = "SELECT * FROM queue_settle($1, $2, $3, $4, $5, $6, $7, $8)";
        let rows = self.database.write(&[call("queue.settle", sql, args)]).await?;
        let mut outcomes = Vec::with_capacity(places.len());
        for row in rows.iter().flatten() {
            let (Some(at), Some(state)) = (place_of(row.int(0)), row.int(1).and_then(State::from_code))
            else {
                continue;
            };
            outcomes.push((places[at], state, visible[at]));
            if state == State::Invisible {
                self.arm(visible[at]);
            } else if state.is_ended() {
                self.arm(now.saturating_add(entries[at].settings.read().keep_ended_ms));
            }
            self.freed(&entries[at]);
        }
        Ok(outcomes)
    }

    pub(super) async fn release(&self, leases: &[LeaseRef]) -> Result<Vec<Result<(), StaleToken>>, Error> {
        let now = self.now();
        let mut settling = Settling::default();
        let mut outcomes = Vec::with_capacity(leases.len());
        for lease in leases {
            outcomes.push(Err(lease.stale()));
            if let Some(entry) = self.find(&lease.queue).await? {
                let one = One {
                    kind: 0,
                    visible_at: 0,
                    error: None,
                    event: text::event(1, now, 'R', ""),
                };
                settling.push(outcomes.len() - 1, entry, lease, one);
            }
        }
        for (place, ..) in self.settle(settling, now).await? {
            outcomes[place] = Ok(());
        }
        Ok(outcomes)
    }

    /// Something of the queue can be leased again: tells consumers here and elsewhere.
    pub(super) fn freed(&self, entry: &Entry) {
        entry.wake(1);
        self.tell(entry.id, 1);
    }
}

/// Completions that are one statement: who waits for which of its rows.
pub(super) struct Group {
    count: usize,
    parts: Vec<(oneshot::Sender<Result<Vec<bool>, CommitError>>, usize)>,
    due: Option<i64>,
}

/// Completions as statements.
pub(super) fn groups(core: &Core, mut requests: Vec<Completing>) -> Vec<(Group, Call)> {
    // One order for all nodes: keys are locked in it.
    requests.sort_by_key(|request| (request.keep_ms, request.history));
    let mut groups = Vec::new();
    let mut rest = requests.into_iter().peekable();
    while let Some(first) = rest.next() {
        let (keep_ms, history) = (first.keep_ms, first.history);
        let now = core.now();
        let mut columns = first.leases;
        let mut parts = vec![(first.answer, columns.ids.len())];
        while let Some(next) = rest.next_if(|next| {
            (next.keep_ms, next.history) == (keep_ms, history)
                && columns.ids.len() + next.leases.ids.len() <= ROWS_MAX
        }) {
            columns.append(next.leases);
            parts.push((next.answer, columns.ids.len()));
        }
        let count = columns.ids.len();
        let [queues, ids, tokens] = columns.into_narrow_args();
        let args = vec![
            Arg::Int(now),
            Arg::Int(keep_ms),
            queues,
            ids,
            tokens,
            Arg::Text(Some(text::event(history.into(), now, 'C', ""))),
        ];
        let due = (keep_ms > 0).then(|| now.saturating_add(keep_ms));
        groups.push((
            Group { count, parts, due },
            call("queue.complete", COMPLETE, args),
        ));
    }
    groups
}

impl Group {
    /// Tells everybody what became of theirs.
    pub(super) fn finish(self, core: &Core, answer: Result<Vec<Row>, QueryError>) {
        let outcome = answer.map_err(unavailable).map(|rows| {
            let mut stood = vec![true; self.count];
            for row in &rows {
                if let Some(stood) = place_of(row.int(0)).and_then(|at| stood.get_mut(at)) {
                    *stood = false;
                }
            }
            stood
        });
        if let Some(due) = self.due {
            core.arm(due);
        }
        let mut from = 0;
        for (answer, end) in self.parts {
            let part = outcome
                .as_ref()
                .map(|stood| stood[from..end].to_vec())
                .map_err(Clone::clone);
            from = end;
            // Whoever asked may be gone: the completions stand all the same.
            answer.send(part).ok();
        }
    }
}

/// Places begin with 1 in the database.
fn place_of(place: Option<i64>) -> Option<usize> {
    place.and_then(|place| usize::try_from(place - 1).ok())
}

/// Runs of leases of one queue, with where each begins.
fn runs(leases: &[LeaseRef]) -> impl Iterator<Item = (usize, &[LeaseRef])> {
    leases.chunk_by(|a, b| a.queue == b.queue).scan(0, |at, same| {
        let from = *at;
        *at += same.len();
        Some((from, same))
    })
}

fn within_batch(given: usize) -> Result<(), Error> {
    if given > BATCH_MAX {
        Err(Error::BatchTooLarge {
            given,
            max: BATCH_MAX,
        })
    } else {
        Ok(())
    }
}
