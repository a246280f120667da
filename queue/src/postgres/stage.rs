//! Riding in a caller's transaction: messages and completions as rows of a unit of the same store.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use celesta_store::{Cell, Expect, Statement, Unit};
use celesta_types::Timestamp;
use serde_json::{Value, json};

use super::enqueue::STEP;
use super::{Core, Entry, SharedQueues, text};
use crate::entry::NEVER;
use crate::error::{EnqueueError, Error};
use crate::limits::STAGED_MAX;
use crate::message::{LeaseRef, NewMessage};
use crate::settings::Kind;
use crate::stage::validate;
use crate::state::Tally;

/// Messages of one text: the lower 14 bits of a message's number are its place there.
const ROWS_MAX: usize = 8_192;

static PUT: Statement = Statement {
    name: "queue.stage_enqueue",
    rank: 10,
    head: "SELECT queue_stage_put(v.column1::json) FROM (VALUES ",
    row: "(?)",
    tail: ") AS v",
    cells: 1,
    expect: Expect::Any,
};

static DONE: Statement = Statement {
    name: "queue.stage_complete",
    rank: 30,
    head: "SELECT queue_stage_done(v.column1::json) FROM (VALUES ",
    row: "(?)",
    tail: ") AS v",
    cells: 1,
    expect: Expect::Any,
};

impl SharedQueues {
    /// Adds `messages` to the caller's `unit`, which must be committed to the store these queues stand on. They can be
    /// leased once the unit is durable; a unit that fails leaves no trace of them. A message whose id is known already is
    /// left as it is.
    ///
    /// # Errors
    /// When a message is not allowed (the inner error) or the database is away; then none of them is staged.
    pub async fn stage_enqueue(
        &self,
        unit: &mut Unit,
        messages: Vec<NewMessage>,
    ) -> Result<Result<(), EnqueueError>, Error> {
        if messages.len() > STAGED_MAX {
            return Ok(Err(EnqueueError::BatchTooLarge {
                given: messages.len(),
                max: STAGED_MAX,
            }));
        }
        let core = &self.core;
        let mut admitted = Vec::with_capacity(messages.len());
        for message in messages {
            let entry = match core.queue_for(&message.queue).await? {
                Ok(entry) => entry,
                Err(error) => return Ok(Err(error)),
            };
            if let Err(error) = validate(&message, &entry.settings.read()) {
                return Ok(Err(error));
            }
            admitted.push((entry, message));
        }
        let now = core.now();
        let mut told: Vec<(Arc<Entry>, usize)> = Vec::new();
        for (entry, _) in &admitted {
            match told.iter_mut().find(|(known, _)| known.id == entry.id) {
                Some((_, count)) => *count += 1,
                None => told.push((Arc::clone(entry), 1)),
            }
        }
        for part in admitted.chunks(ROWS_MAX) {
            let fair = part.iter().any(|(entry, message)| {
                let fair = message.fairness.is_some();
                entry.fair.fetch_or(fair, Ordering::Relaxed) || fair
            });
            let rows = part.iter().enumerate();
            let rows: Vec<Value> = rows
                .map(|(at, (entry, message))| row(core, at + 1, entry, message, now))
                .collect();
            let batch = json!({ "now": now, "fair": fair, "messages": rows });
            unit.add(&PUT, [Cell::from(batch.to_string())]);
        }
        let core = Arc::clone(core);
        unit.on_done(move |outcome| {
            if outcome.is_err() {
                return;
            }
            for (entry, count) in told {
                core.metrics.of(entry.settings.read().kind).add(&Tally {
                    enqueued: u64::try_from(count).unwrap_or(0),
                    ..Tally::default()
                });
                entry.wake(count);
                core.tell(entry.id, count);
            }
        });
        Ok(Ok(()))
    }

    /// Completes leased messages in the caller's `unit`, which must be committed to the store these queues stand on: they
    /// are gone once it is durable. Whether the leases still hold is seen when it is committed: if one is over, the whole
    /// unit fails with a conflict of `queue.stage_complete`. When it fails the leases go on, and lapse in their time.
    ///
    /// # Errors
    /// When the database is away; then none of them is staged.
    pub async fn stage_complete(&self, unit: &mut Unit, leases: &[LeaseRef]) -> Result<(), Error> {
        let core = &self.core;
        let now = core.now();
        let mut staged: Vec<(Option<Arc<Entry>>, Vec<Value>)> = Vec::new();
        for lease in leases {
            let entry = core.find(&lease.queue).await?;
            // A queue that is not there has no number: its leases are over.
            let queue = entry.as_ref().map_or(0, |entry| entry.id);
            let known = staged
                .iter()
                .position(|(known, _)| known.as_ref().map_or(0, |known| known.id) == queue);
            let at = known.unwrap_or_else(|| {
                staged.push((entry, Vec::new()));
                staged.len() - 1
            });
            let rows = &mut staged[at].1;
            rows.push(json!({
                "place": rows.len() + 1,
                "queue": queue,
                "id": hex(&lease.id.to_bytes()),
                "token": i64::try_from(lease.token.bits()).unwrap_or(i64::MAX),
            }));
        }
        let mut told = Vec::new();
        for (entry, rows) in staged {
            let (keep_ms, history_ms) = entry.as_ref().map_or((0, 0), |entry| {
                let settings = entry.settings.read();
                (settings.keep_completed_ms, settings.history_ms)
            });
            let event = text::event(history_ms, now, 'C', "");
            let count = rows.len();
            let batch = json!({ "now": now, "keep": keep_ms, "event": &*event, "leases": rows });
            unit.add(&DONE, [Cell::from(batch.to_string())]);
            if keep_ms > 0 {
                core.arm(now.saturating_add(keep_ms));
            }
            told.extend(entry.map(|entry| (entry, count)));
        }
        let core = Arc::clone(core);
        unit.on_done(move |outcome| {
            if outcome.is_err() {
                return;
            }
            for (entry, count) in told {
                let kind = entry.settings.read().kind;
                core.metrics.of(kind).add(&Tally {
                    completed: u64::try_from(count).unwrap_or(0),
                    ..Tally::default()
                });
                if kind == Kind::Exclusive {
                    core.freed(&entry);
                }
            }
        });
        Ok(())
    }
}

fn row(core: &Core, place: usize, entry: &Entry, message: &NewMessage, now: i64) -> Value {
    let settings = entry.settings.read();
    let visible = message
        .visible_at
        .map_or_else(|| now.saturating_add(settings.delay_ms), Timestamp::as_millis);
    let expires = message
        .ttl_ms
        .or(settings.ttl_ms)
        .map(|ttl| now.saturating_add(ttl));
    for at in expires
        .into_iter()
        .chain(Some(visible).filter(|&visible| visible > now))
    {
        core.arm(at);
    }
    let fairness = message.fairness.as_deref();
    let weight = fairness.and_then(|key| settings.weights.get(key));
    json!({
        "place": place,
        "queue": entry.id,
        "exclusive": i64::from(settings.kind == Kind::Exclusive),
        "id": hex(&message.id.to_bytes()),
        "key": message.key.map(|key| hex(&key.bits().to_be_bytes())),
        "rank": message.priority.rank(),
        "deadline": message.priority.deadline.map_or(NEVER, Timestamp::as_millis),
        "visible": visible,
        "expires": expires,
        "attempts": message.attempts_max.unwrap_or(settings.attempts_max),
        "fairness": fairness.map(text::plain).as_deref(),
        "step": STEP / i64::from(*weight.unwrap_or(&1)).max(1),
        "metadata": text::pairs(&message.metadata).as_deref(),
        "payload": hex(&message.payload),
    })
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    digits.map(char::from).collect()
}
