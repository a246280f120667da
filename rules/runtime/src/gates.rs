//! Gates as a host keeps them: taken into memory when a message comes, changed by the pure machine in `gate.rs`, and
//! durable in the commit that acknowledges the message.
//!
//! In a deployment of several partitions a gate is in the one that its id names, whatever partitions its runs are in:
//! they come, are let in and leave by letters (`cluster/mail.rs`).
//!
//! A gate's messages travel on the queue of runs, under the gate's own key, so that one evaluator at a time has it. In
//! memory a gate is either here or taken out by that evaluator; it returns when its unit is durable and is read again
//! when it is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use celesta_bundle::Strategy;
use celesta_functions::RunMessage;
use celesta_queue::{Key, LeasedKey, NewMessage, QueueName};
use celesta_store::{Cell, QueryError, Row, Unit};
use celesta_types::wire::{Reader, Writer};
use celesta_types::{CallId, MessageId, Partition, Priority, RunId};
use hashbrown::HashMap;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;

use crate::gate::{Gate, Left, Passage, Stand, Step, Then, WAITING_MAX};
use crate::head::RunHead;
use crate::message::HostMessage;
use crate::runtime::Inner;
use crate::schema::{PLACE_FREE, PLACE_PUT, PLACE_STAND};
use crate::send::{ANSWER_INDEX, asked_id};

/// Runs at all gates in memory; beyond it gates that nobody uses are read again when they are needed.
const ENTRIES_MAX: usize = 1_000_000;
/// Places that go to another partition in one commit.
const PLACES_AT_ONCE: usize = 1_000;
/// Who speaks when a gate cancels a run.
const GATE: &str = "celesta/concurrency";

/// The gates in memory.
#[derive(Debug, Default)]
pub(crate) struct Gates(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    gates: HashMap<u128, Gate, FxBuildHasher>,
    entries: usize,
}

impl Gates {
    fn take(&self, gate: u128) -> Option<Gate> {
        let mut held = self.0.lock();
        let taken = held.gates.remove(&gate)?;
        held.entries -= taken.len();
        Some(taken)
    }

    fn put(&self, id: u128, gate: Gate) {
        if gate.is_empty() {
            return;
        }
        let mut held = self.0.lock();
        if held.entries > ENTRIES_MAX {
            held.gates.clear();
            held.entries = 0;
        }
        held.entries += gate.len();
        if let Some(before) = held.gates.insert(id, gate) {
            held.entries -= before.len();
        }
    }

    /// Whether no more runs may come to the gate, as far as is known here.
    pub(crate) fn is_full(&self, gate: u128) -> bool {
        let held = self.0.lock();
        held.gates
            .get(&gate)
            .is_some_and(|gate| gate.waiting() >= WAITING_MAX)
    }
}

/// The message with which a run comes to the first of its gates; none when it has none.
pub(crate) fn enter(queue: &QueueName, head: &RunHead, then: Then, id: MessageId) -> Option<NewMessage> {
    let mut gates = head.steering().gates(&head.service, &head.workflow).into_iter();
    let (gate, strategy) = gates.next()?;
    let passage = Passage {
        run: head.run,
        priority: head.priority,
        strategy,
        rest: gates.collect(),
        then,
    };
    Some(to_gate(
        queue,
        gate,
        id,
        passage.priority,
        &HostMessage::Enter(passage),
    ))
}

/// The messages with which a run leaves its gates, in its turn `seq`.
pub(crate) fn leave(queue: &QueueName, head: &RunHead, seq: u64, left: Left) -> Vec<NewMessage> {
    let gates = head.steering().gates(&head.service, &head.workflow);
    let messages = (1_u32..).zip(gates).map(|(number, (gate, strategy))| {
        let index = ANSWER_INDEX - number;
        let id = MessageId::derived(head.run, CallId { seq, index });
        let run = head.run;
        let message = HostMessage::Leave { run, strategy, left };
        to_gate(queue, gate, id, head.priority, &message)
    });
    messages.collect()
}

fn to_gate(
    queue: &QueueName,
    gate: u128,
    id: MessageId,
    priority: Priority,
    message: &HostMessage,
) -> NewMessage {
    let message = NewMessage::new(id, queue.clone(), message.encode());
    NewMessage {
        repeatable_id: true,
        ..message.with_key(Key::from_bits(gate)).with_priority(priority)
    }
}

/// The id of the message with which a run comes to its first gate for the first time.
pub(crate) fn first_id(run: RunId) -> MessageId {
    let index = ANSWER_INDEX - 1;
    MessageId::derived(run, CallId { seq: 0, index })
}

impl Inner {
    /// Sends the messages of a gate to the partition where it is: a release before had it in each.
    pub(crate) fn send_on(&self, key: &LeasedKey) -> Option<Unit> {
        let mut unit = Unit::new();
        let messages = key.messages.iter().map(|message| NewMessage {
            repeatable_id: true,
            ..NewMessage::new(message.id, message.queue.clone(), Arc::clone(&message.payload))
                .with_key(key.key)
                .with_priority(message.priority)
        });
        self.post(&mut unit, messages);
        self.acknowledge(&mut unit, key).ok()?;
        Some(unit)
    }

    /// Sends the places of gates that are elsewhere to where they are, before anything else happens in this partition.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) async fn send_places_home(&self) -> Result<(), String> {
        let rows = self
            .store
            .fetch("SELECT DISTINCT gate FROM places ORDER BY gate", &[])
            .await;
        let rows = rows.map_err(|error| error.to_string())?;
        let gates = rows.iter().filter_map(|row| row.blob(0)?.try_into().ok());
        for gate in gates.map(u128::from_be_bytes) {
            if Partition::of_bits(gate, self.partition.count) != self.partition {
                self.send_home(gate).await?;
            }
        }
        Ok(())
    }

    async fn send_home(&self, gate: u128) -> Result<(), String> {
        let sql = "SELECT place, stand, passage, gate FROM places WHERE gate = ? AND place > ? ORDER BY place LIMIT ?";
        let mut after = Some(i64::MIN);
        while let Some(last) = after {
            let limit = i64::try_from(PLACES_AT_ONCE).unwrap_or(i64::MAX);
            let cells = [Cell::Id(gate.to_be_bytes()), last.into(), limit.into()];
            let rows = self.store.fetch(sql, &cells).await;
            let rows = rows.map_err(|error| error.to_string())?;
            after = rows.last().and_then(|row| row.int(0));
            let mut unit = Unit::new();
            let mut letters = Vec::with_capacity(rows.len());
            for (place, passage, stand) in rows.iter().filter_map(stored) {
                let id = asked_id(passage.run, self.clock.now(), self.random.next_u128());
                let priority = passage.priority;
                let message = HostMessage::TakeOver { passage, stand };
                letters.push(to_gate(&self.runs_queue, gate, id, priority, &message));
                let place = i64::try_from(place).unwrap_or(i64::MAX);
                unit.add(&PLACE_FREE, [Cell::Id(gate.to_be_bytes()), place.into()]);
            }
            self.post(&mut unit, letters);
            self.store.commit(unit).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Evaluates the messages of one gate; none when they are to come again.
    pub(crate) fn evaluate_gate(self: &Arc<Self>, key: &LeasedKey, mut gate: Gate) -> Option<Unit> {
        let id = key.key.bits();
        let mut unit = Unit::new();
        let mut outgoing = Vec::new();
        // A place is written once, however often it changes.
        let mut stands = BTreeMap::new();
        for message in &key.messages {
            let steps = match RunMessage::decode(&message.payload) {
                Ok(RunMessage::Host(tag, bytes)) => match HostMessage::decode(tag, bytes) {
                    Ok(HostMessage::Enter(passage)) => gate.enter(passage),
                    Ok(HostMessage::Leave { run, strategy, left }) => gate.leave(run, strategy, left),
                    Ok(HostMessage::TakeOver { passage, stand }) => gate.take_over(passage, stand),
                    _ => Vec::new(),
                },
                _ => Vec::new(),
            };
            for step in steps {
                if let Step::Stand { place, stand } = step {
                    stands.insert(place, stand);
                } else {
                    self.carry_out(id, step, &mut unit, &mut outgoing);
                }
            }
        }
        for (place, stand) in stands {
            let place = i64::try_from(place).unwrap_or(i64::MAX);
            let cells = [Cell::Id(id.to_be_bytes()), place.into(), (stand as i64).into()];
            unit.add(&PLACE_STAND, cells);
        }
        let keeper = Arc::clone(self);
        unit.on_done(move |outcome| match outcome {
            Ok(()) => keeper.gates.put(id, gate),
            Err(error) => tracing::warn!(%error, "a gate did not become durable; it will be read again"),
        });
        if let Err(error) = self.stage(&mut unit, outgoing) {
            tracing::error!(%error, "the queue does not take what a gate sends");
            return None;
        }
        if let Err(error) = self.acknowledge(&mut unit, key) {
            tracing::warn!(%error, "a gate's messages have come again elsewhere; its turn is dropped");
            return None;
        }
        Some(unit)
    }

    fn carry_out(&self, gate: u128, step: Step, unit: &mut Unit, outgoing: &mut Vec<NewMessage>) {
        let id = || Cell::Id(gate.to_be_bytes());
        let at = |place: u64| Cell::from(i64::try_from(place).unwrap_or(i64::MAX));
        match step {
            Step::Put { place, passage } => {
                let mut out = Writer::default();
                passage.write(&mut out);
                let stand = Cell::from(Stand::Waiting as i64);
                unit.add(&PLACE_PUT, [id(), at(place), stand, out.finish().into()]);
            }
            // Gathered by the caller.
            Step::Stand { .. } => {}
            Step::Free { place } => unit.add(&PLACE_FREE, [id(), at(place)]),
            Step::Pass { passage } => outgoing.push(self.passed(passage)),
            Step::TurnAway { passage, why } => {
                if passage.then.begins() {
                    outgoing.push(self.canceled_by_gate(passage.run, passage.priority, why));
                }
            }
            Step::Stop { run, why } => {
                outgoing.push(self.canceled_by_gate(run, Priority::default(), why));
            }
        }
    }

    /// The run goes on to its next gate, or begins.
    fn passed(&self, mut passage: Passage) -> NewMessage {
        let run = passage.run;
        let number = u32::try_from(passage.rest.len()).unwrap_or(0);
        let begins = passage.then.begins();
        let id = if begins {
            // The number of gates ahead tells these messages of one run apart.
            let index = ANSWER_INDEX - 2 - number;
            MessageId::derived(run, CallId { seq: 0, index })
        } else {
            asked_id(run, self.clock.now(), self.random.next_u128())
        };
        if !passage.rest.is_empty() {
            let (gate, strategy) = passage.rest.remove(0);
            passage.strategy = strategy;
            return to_gate(
                &self.runs_queue,
                gate,
                id,
                passage.priority,
                &HostMessage::Enter(passage),
            );
        }
        let id = if begins {
            MessageId::from_bits(run.bits())
        } else {
            id
        };
        let payload = passage.then.message().encode();
        let message = NewMessage::new(id, self.runs_queue.clone(), payload);
        NewMessage {
            repeatable_id: true,
            ..message.with_key(run).with_priority(passage.priority)
        }
    }

    fn canceled_by_gate(&self, run: RunId, priority: Priority, why: &str) -> NewMessage {
        let message = HostMessage::Cancel {
            reason: why.to_owned(),
            by: GATE.to_owned(),
        };
        self.message_to(run, &message).with_priority(priority)
    }

    /// The gate as it is durable.
    pub(crate) async fn gate(&self, id: u128) -> Result<Gate, QueryError> {
        if let Some(gate) = self.gates.take(id) {
            return Ok(gate);
        }
        let mut gate = Gate::default();
        let sql = "SELECT place, stand, passage FROM places WHERE gate = ? ORDER BY place";
        let rows = self.store.fetch(sql, &[Cell::Id(id.to_be_bytes())]).await?;
        for row in &rows {
            match stored(row) {
                Some((place, passage, stand)) => gate.restore(place, passage, stand),
                None => tracing::error!("a place at a gate cannot be read; its run will not begin"),
            }
        }
        Ok(gate)
    }
}

fn stored(row: &Row) -> Option<(u64, Passage, Stand)> {
    let place = u64::try_from(row.int(0)?).ok()?;
    let stand = Stand::from_code(row.int(1)?)?;
    let passage = Passage::read(&mut Reader::new(row.blob(2)?)).ok()?;
    Some((place, passage, stand))
}

/// How a run that has ended leaves its gates.
pub(crate) const fn left(state: crate::state::RunState) -> Left {
    match state {
        crate::state::RunState::Failed | crate::state::RunState::Quarantined => Left::Failed,
        _ => Left::Settled,
    }
}

/// What is said of a limit in a run's row.
pub(crate) fn described(strategy: Strategy, key: String) -> crate::view::GateView {
    crate::view::GateView {
        strategy: strategy.to_string(),
        key,
    }
}
