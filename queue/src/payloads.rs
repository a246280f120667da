//! Payloads that are left in the record: what is leased soon is read ahead, in order and in batches; what was leased all
//! the same without its payload is read before the consumer gets it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use celesta_runtime::Shutdown;
use celesta_store::Cell;
use hashbrown::HashMap;
use tokio::sync::mpsc;

use crate::core::Core;
use crate::entry::PAYLOAD_OVERHEAD;
use crate::error::Error;
use crate::message::Payload;
use crate::shard::Queue;
use crate::state::Room;

/// Messages whose payloads are read ahead at first: a few reads' time at full speed.
const AHEAD: usize = 16_384;
/// Messages looked at under the lock at once: some tens of microseconds.
const LOOK: usize = 256;
/// Payloads put in their places under the lock at once, for the same reason.
const INSTALL: usize = 128;
/// Rows of one read; a power of two, as the shorter ones are, so that few texts stay prepared.
const ROWS: usize = 256;
/// Rows of one read when they stand side by side: at the largest payload 32 MiB.
const RUN: usize = 1_024;
/// Payloads as one run of bytes, and where each is in it: an answer of many rows would cost far more than the reading.
const RUN_OF: &str =
    "SELECT group_concat(seq || ' ' || length(payload)), CAST(group_concat(payload, '') AS BLOB) FROM ";
/// The same for PostgreSQL.
const RUN_OF_POSTGRES: &str =
    "SELECT string_agg(seq || ' ' || length(payload), ','), string_agg(payload, ''::bytea) FROM ";
type Payloads = HashMap<i64, Payload>;

impl Core {
    /// What room there is in memory for a payload of so many bytes. What is read ahead may take all of it; what is
    /// enqueued behind messages that are not in memory takes half.
    pub(crate) fn room(&self, bytes: usize) -> Room {
        if self.store.is_none() {
            return Room::AMPLE;
        }
        let resident = usize::try_from(self.resident.load(Ordering::Relaxed)).unwrap_or(0);
        let (needed, max) = (
            resident + bytes + PAYLOAD_OVERHEAD,
            self.options.resident_bytes_max,
        );
        Room {
            some: needed <= max,
            ample: needed <= max / 2,
        }
    }

    /// Has the next payloads of a shard read in the background.
    pub(crate) fn ask_ahead(&self, queue: &Arc<Queue>, number: usize) {
        let shard = queue.shard(number);
        if shard.reading.swap(true, Ordering::AcqRel) {
            return;
        }
        let asked = self.read_ahead.get();
        if asked.is_none_or(|asked| asked.try_send((Arc::clone(queue), number)).is_err()) {
            shard.reading.store(false, Ordering::Release);
        }
    }

    /// A lease met a payload that was not there: the look ahead has lost its place.
    pub(crate) fn missed(&self, queue: &Arc<Queue>, number: usize) {
        *queue.shard(number).ahead.lock() = None;
        self.ask_ahead(queue, number);
    }

    /// Reads the payloads that are needed next.
    pub(crate) async fn read_ahead(&self, queue: &Queue, number: usize) -> Result<(), Error> {
        let shard = queue.shard(number);
        let mut after = *shard.ahead.lock();
        let mut wanted = after.map_or(AHEAD, |_| 0);
        let mut missing = Vec::new();
        let mut looked_at = 0;
        loop {
            let mut state = shard.state.lock();
            wanted = wanted.max(std::mem::take(&mut state.leased_since));
            let (found, end) = state.upcoming(after, LOOK);
            drop(state);
            missing.extend(found);
            looked_at += LOOK;
            let Some(end) = end else { break };
            after = Some(end);
            if missing.len() >= wanted || looked_at >= 4 * AHEAD {
                break;
            }
        }
        *shard.ahead.lock() = after;
        for part in missing.chunks(ROWS * 16) {
            if !self.room(0).some {
                *shard.ahead.lock() = None;
                return Ok(());
            }
            let seqs: Vec<i64> = part.iter().map(|(_, seq)| *seq).collect();
            let mut payloads = self.payloads(seqs).await?;
            for few in part.chunks(INSTALL) {
                let mut state = shard.state.lock();
                for (at, seq) in few {
                    if let Some(payload) = payloads.remove(seq) {
                        state.install(*at, payload);
                    }
                }
                let change = std::mem::take(&mut state.resident_change);
                drop(state);
                self.resident.fetch_add(change, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The payloads of these rows, as far as they are there.
    pub(crate) async fn payloads(&self, mut seqs: Vec<i64>) -> Result<Payloads, Error> {
        let mut payloads = Payloads::with_capacity(seqs.len());
        let Some(store) = &self.store else {
            return Ok(payloads);
        };
        let run_of = if store.database().is_some() {
            RUN_OF_POSTGRES
        } else {
            RUN_OF
        };
        seqs.sort_unstable();
        let mut rest = &seqs[..];
        while let Some(&first) = rest.first() {
            let part = rest.len().min(RUN);
            let last = rest[part - 1];
            let dense = last - first < 2 * i64::try_from(part).unwrap_or(i64::MAX);
            let (now, rows) = if dense && part > 1 {
                let range = [Cell::Int(first), Cell::Int(last)];
                let sql =
                    format!("{run_of}(SELECT seq, payload FROM queue_rows WHERE seq BETWEEN ? AND ?) AS run");
                (part, store.fetch(&sql, &range).await?)
            } else {
                let now = prev_power_of_two(rest.len().min(ROWS));
                let cells: Vec<Cell> = rest[..now].iter().map(|&seq| Cell::Int(seq)).collect();
                let places = vec!["?"; now].join(",");
                let sql =
                    format!("{run_of}(SELECT seq, payload FROM queue_rows WHERE seq IN ({places})) AS run");
                (now, store.fetch(&sql, &cells).await?)
            };
            for row in &rows {
                let (Some(lengths), Some(bytes)) = (row.text(0), row.blob(1)) else {
                    continue;
                };
                cut(lengths, bytes, &mut payloads).ok_or(Error::Corrupt {
                    seq: first,
                    what: "a run of payloads",
                })?;
            }
            rest = &rest[now..];
        }
        Ok(payloads)
    }
}

/// Reads ahead for whichever shard asks, until the queues are gone.
pub(crate) async fn run(
    core: Weak<Core>,
    mut asked: mpsc::Receiver<(Arc<Queue>, usize)>,
    shutdown: Shutdown,
) {
    loop {
        let next = tokio::select! {
            next = asked.recv() => next,
            () = shutdown.requested() => None,
        };
        let Some((queue, number)) = next else { return };
        let Some(core) = core.upgrade() else { return };
        if let Err(error) = core.read_ahead(&queue, number).await {
            tracing::warn!(%error, queue = %queue.name, "payloads could not be read ahead");
        }
        queue.shard(number).reading.store(false, Ordering::Release);
    }
}

/// Cuts a run of payloads apart; nothing when the lengths are not those of the run.
fn cut(lengths: &str, mut bytes: &[u8], payloads: &mut Payloads) -> Option<()> {
    for one in lengths.split(',') {
        let (seq, length) = one.split_once(' ')?;
        let (payload, rest) = bytes.split_at_checked(length.parse().ok()?)?;
        bytes = rest;
        payloads.insert(seq.parse().ok()?, payload.into());
    }
    bytes.is_empty().then_some(())
}

/// The largest power of two not above `number`, at least one.
const fn prev_power_of_two(number: usize) -> usize {
    if number == 0 {
        1
    } else {
        1 << (usize::BITS - 1 - number.leading_zeros())
    }
}
