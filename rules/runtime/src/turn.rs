//! One turn: what a run is given, what its rules make of it, and the one unit in which all of it becomes durable.
//!
//! The steps are: read the messages of the lease into causes and engine events; evaluate; turn effects into outgoing
//! messages whose ids derive from (run, seq, index); move the run's state; write the journal record. Nothing here waits
//! or reads the store: a turn that needs more (messages of a quarantined run) is given it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use celesta_engine::{CallError, Effect, Event, FactChange, Outcome, Section, Turn};
use celesta_functions::{ReportOutcome, RunMessage};
use celesta_queue::{Leased, NewMessage};
use celesta_store::{Cell, Unit};
use celesta_types::{CallId, ErrorClass, MessageId, Timestamp};

use crate::facts::{Written, events_of};
use crate::invariants;
use crate::live::Live;
use crate::message::HostMessage;
use crate::record::{Cause, Change, Firing, Note, Ran, Record, Recorded};
use crate::schema::{JOURNAL_APPEND, SNAPSHOT_UPSERT};
use crate::send::Outgoing;
use crate::state::{RunState, RunStep};
use crate::view::ProgressView;

/// A snapshot is taken when the deltas since the last one are this many,
const DELTAS_PER_SNAPSHOT: usize = 256;
/// or together as large as the last snapshot and at least this: reading a run costs at most about twice its size.
const DELTA_BYTES_PER_SNAPSHOT: usize = 64 * 1024;
/// A result larger than this belongs into an artifact: it is kept in the run's row.
const RESULT_BYTES_MAX: usize = 256 * 1024;

/// What a turn leaves behind.
pub(crate) struct Done {
    /// The run as it is once the unit is durable; none when it must be read again.
    pub(crate) live: Option<Box<Live>>,
    /// What becomes durable; the acknowledgement of the messages is added by the caller.
    pub(crate) unit: Unit,
    /// What is sent.
    pub(crate) outgoing: Vec<NewMessage>,
    /// Messages of the run that are called off.
    pub(crate) canceled: Vec<MessageId>,
    /// New child runs, already part of the unit.
    #[expect(
        clippy::vec_box,
        reason = "they go to the cache as they are, which keeps boxes"
    )]
    pub(crate) children: Vec<Box<Live>>,
    /// What became of facts that clients have written.
    pub(crate) answers: Vec<(MessageId, Written)>,
    /// How many sections ran.
    pub(crate) firings: usize,
}

/// What the messages of a lease ask for.
#[derive(Default)]
struct Asked {
    causes: Vec<Cause>,
    events: Vec<Event>,
    cancel: Option<String>,
    retry: bool,
    resume: bool,
    woken: bool,
    writes: Vec<Writes>,
    rejected: Vec<String>,
}

/// The writes of one client's request.
struct Writes {
    message: MessageId,
    /// Where they stand among the causes and the events.
    cause: usize,
    events: std::ops::Range<usize>,
}

/// What the messages of a lease wish for a run as a whole.
#[derive(Default)]
struct Wishes {
    retry: bool,
    resume: bool,
    cancel: bool,
    pause: Option<String>,
}

impl Wishes {
    fn of(messages: &[Leased]) -> Self {
        let mut wishes = Self::default();
        for message in messages {
            match HostMessage::read(&message.payload) {
                Some(HostMessage::Retry) => wishes.retry = true,
                Some(HostMessage::Resume { .. }) => wishes.resume = true,
                Some(HostMessage::Cancel { .. }) => wishes.cancel = true,
                Some(HostMessage::Pause { reason }) => wishes.pause = Some(reason),
                _ => {}
            }
        }
        wishes
    }
}

/// Whether a message lets a run go on that keeps what it is sent.
pub(crate) fn wakes(message: &Leased) -> bool {
    matches!(
        HostMessage::read(&message.payload),
        Some(HostMessage::Retry | HostMessage::Resume { .. })
    )
}

/// Evaluates one turn of `live` for `messages`; `held` is what was kept for a run that goes on with this turn.
pub(crate) fn turn(
    mut live: Box<Live>,
    messages: &[Leased],
    held: &[Vec<u8>],
    sender: &Outgoing<'_>,
) -> Done {
    let now = sender.now;
    let state = live.head.state;
    let wishes = Wishes::of(messages);
    if !wishes.cancel {
        match (state, wishes.pause) {
            (RunState::Running | RunState::Idle, Some(reason)) if !wishes.resume => {
                return pause(live, messages, now, reason);
            }
            (RunState::Quarantined, _) if !wishes.retry => return hold(live, messages, now),
            (RunState::Paused, _) if !wishes.resume => return hold(live, messages, now),
            _ => {}
        }
    }
    let mut asked = Asked::default();
    // Its first message may have been overtaken by another.
    asked.start(&mut live);
    for payload in held {
        // Nobody waits any more for what was kept.
        asked.read(&mut live, None, payload);
    }
    for message in messages {
        asked.read(&mut live, Some(message.id), &message.payload);
    }
    if state == RunState::Canceled {
        // Whatever was still on its way to a canceled run ends here.
        let answers = asked.answers(live.seq, |_| Some("the run was canceled".to_owned()));
        return Done {
            answers,
            ..Done::nothing(live)
        };
    }
    if asked.retry && state.after(RunStep::Retry).is_ok() {
        live.head.state = RunState::Running;
        live.head.error = None;
        live.head.ended_at = None;
    }
    if asked.resume && state.after(RunStep::Resume).is_ok() {
        live.head.state = RunState::Running;
    }
    let seq = live.seq + 1;
    let turn = Turn {
        seq,
        now_ms: now.as_millis(),
        events: std::mem::take(&mut asked.events),
    };
    let evaluated = catch_unwind(AssertUnwindSafe(|| live.memory.turn(turn)));
    match evaluated {
        Ok(outcome) if outcome.fault.is_none() => settle(live, asked, outcome, sender),
        Ok(outcome) => {
            let fault = outcome.fault.map_or_else(String::new, |fault| fault.to_string());
            quarantine(live, kept(held, messages), now, fault)
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
                .unwrap_or_default();
            tracing::error!(run = %live.head.run, seq, panic = %text, "a turn broke an invariant; the run is put aside");
            quarantine(live, kept(held, messages), now, format!("internal error: {text}"))
        }
    }
}

impl Asked {
    /// What becomes of each client's writes; `refusal` says why the event at a place changed nothing.
    fn answers(&self, turn: u64, refusal: impl Fn(usize) -> Option<String>) -> Vec<(MessageId, Written)> {
        let answers = self.writes.iter().map(|writes| {
            let refused = (0_u32..)
                .zip(writes.events.clone())
                .filter_map(|(at, event)| Some((at, refusal(event)?)))
                .collect();
            let written = Written {
                turn,
                writes: writes.events.len(),
                refused,
            };
            (writes.message, written)
        });
        answers.collect()
    }

    fn read(&mut self, live: &mut Live, id: Option<MessageId>, payload: &[u8]) {
        match RunMessage::decode(payload) {
            Ok(RunMessage::Report(report)) => {
                let call = report.call;
                let ran = Ran {
                    attempts: report.attempt,
                    started: report.started,
                    ended: report.ended,
                    worker: report.worker.to_owned(),
                };
                match report.outcome {
                    ReportOutcome::Succeeded { result } => self.succeeded(call, result, ran),
                    ReportOutcome::Failed {
                        class,
                        message,
                        attempts,
                    } => {
                        self.failed(
                            call,
                            class,
                            message.to_owned(),
                            String::new(),
                            Ran { attempts, ..ran },
                        );
                    }
                }
            }
            Ok(RunMessage::Host(tag, bytes)) => match HostMessage::decode(tag, bytes) {
                Ok(message) => self.read_host(live, id, message),
                Err(error) => self.rejected.push(error.to_string()),
            },
            Err(error) => self.rejected.push(error.to_string()),
        }
    }

    /// The request itself, before everything else a run is sent; nothing when a turn has used it.
    fn start(&mut self, live: &mut Live) {
        let Some(input) = live.input.take() else { return };
        let Some(operation) = live.version.bundle.operations.get(&*live.head.operation) else {
            self.rejected.push(format!(
                "operation `{}` is not in version {}",
                live.head.operation, live.head.version
            ));
            return;
        };
        match operation.request_event(live.head.run, &input) {
            Ok(event) => {
                self.causes.push(Cause::Started);
                self.events.push(event);
            }
            Err(error) => self.rejected.push(error.to_string()),
        }
    }

    fn read_host(&mut self, live: &mut Live, id: Option<MessageId>, message: HostMessage) {
        match message {
            HostMessage::Start => self.start(live),
            HostMessage::Timer(call) => {
                self.causes.push(Cause::TimerFired { call });
                self.events.push(Event::TimerFired { call });
            }
            HostMessage::Cancel { .. } if live.head.state.after(RunStep::Cancel).is_err() => {
                // It has completed since somebody wished so, and goes on as completed runs do.
                self.rejected.push("the run has completed".to_owned());
            }
            HostMessage::Cancel { reason } => {
                self.causes.push(Cause::CancelRequested {
                    reason: reason.clone(),
                });
                self.events.push(Event::Cancel {
                    reason: reason.clone(),
                });
                self.cancel = Some(reason);
            }
            HostMessage::Retry => {
                self.causes.push(Cause::RetryRequested);
                self.events.push(Event::RetryFailed);
                self.retry = true;
            }
            HostMessage::Refused {
                call,
                class,
                message,
                target,
            } => {
                live.requests.remove(&call);
                self.failed(call, class, message, target, Ran::default());
            }
            HostMessage::Answered { call, result } => {
                live.requests.remove(&call);
                self.succeeded(call, result.as_bytes(), Ran::default());
            }
            HostMessage::Facts { writes } => match events_of(writes.as_bytes()) {
                Ok(events) => {
                    let first = self.events.len();
                    self.events.extend(events);
                    self.writes.push(Writes {
                        message: id.unwrap_or(MessageId::from_bits(0)),
                        cause: self.causes.len(),
                        events: first..self.events.len(),
                    });
                    self.causes.push(Cause::FactsWritten {
                        writes,
                        refused: Vec::new(),
                    });
                }
                Err(error) => self.rejected.push(error),
            },
            // A pause that means nothing here: the run has ended, or goes on in the same turn.
            HostMessage::Pause { .. } => {}
            HostMessage::Wake => self.woken = true,
            HostMessage::Resume { reason } => {
                self.causes.push(Cause::Resumed { reason });
                self.resume = true;
            }
        }
    }

    fn succeeded(&mut self, call: CallId, result: &[u8], ran: Ran) {
        match serde_json::from_slice(result) {
            Ok(value) => {
                let result = String::from_utf8_lossy(result).into_owned();
                self.causes.push(Cause::Succeeded { call, result, ran });
                self.events.push(Event::CallSucceeded { call, result: value });
            }
            Err(error) => {
                let message = format!("the result is not JSON: {error}");
                self.failed(call, ErrorClass::Internal, message, String::new(), ran);
            }
        }
    }

    fn failed(&mut self, call: CallId, class: ErrorClass, message: String, function: String, ran: Ran) {
        let error = CallError {
            kind: class,
            message: message.clone(),
            function,
            attempts: ran.attempts,
        };
        self.causes.push(Cause::Failed {
            call,
            class,
            message,
            ran,
        });
        self.events.push(Event::CallFailed { call, error });
    }
}

/// The turn stands: effects go out, the state moves, the journal grows.
fn settle(mut live: Box<Live>, mut asked: Asked, outcome: Outcome, sender: &Outgoing<'_>) -> Done {
    let mut done = Done::nothing_of();
    let now = sender.now;
    let seq = live.seq + 1;
    if !asked.writes.is_empty() {
        done.answers = asked.answers(seq, |event| {
            let refused = outcome.rejected.iter().find(|(at, _)| *at == event);
            refused.map(|(_, why)| why.clone())
        });
        for (writes, (_, written)) in asked.writes.iter().zip(&done.answers) {
            if let Some(Cause::FactsWritten { refused, .. }) = asked.causes.get_mut(writes.cause) {
                refused.clone_from(&written.refused);
            }
        }
    }
    done.firings = outcome.firings.len();
    for rejected in asked
        .rejected
        .iter()
        .chain(outcome.rejected.iter().map(|(_, message)| message))
    {
        tracing::debug!(run = %live.head.run, seq, message = %rejected, "a message changed nothing");
    }
    sender.wake(&mut live, outcome.next_wake_ms, &mut done);
    if asked.causes.is_empty()
        && outcome.effects.is_empty()
        && outcome.firings.is_empty()
        && outcome.changes.is_empty()
    {
        done.live = Some(live);
        return done;
    }
    if asked.woken {
        asked.causes.push(Cause::Woken);
    }
    let before = live.head.state;
    let mut changed = live.seq == 0 && before != RunState::Running;
    let mut record = Record {
        at: now,
        causes: asked.causes,
        delta: outcome.delta,
        ..Record::default()
    };
    record.firings.reserve(outcome.firings.len());
    for firing in outcome.firings {
        record.firings.push(Firing {
            rule: u32::try_from(firing.rule).unwrap_or(u32::MAX),
            section: match firing.section {
                Section::Action => 0,
                Section::Reaction => 1,
                Section::Error => 2,
            },
            facts: firing
                .facts
                .iter()
                .map(|(fact, version)| (fact.0, u64::from(*version)))
                .collect(),
            threw: firing.error,
        });
    }
    record.changes = outcome
        .changes
        .iter()
        .map(|change| changed_fact(&live, change))
        .collect();
    let mut ended = None;
    record.effects.reserve(outcome.effects.len());
    for effect in outcome.effects {
        let recorded = match effect {
            Effect::Complete { result_json } if result_json.len() > RESULT_BYTES_MAX => {
                let message = format!(
                    "the result has {} bytes, more than {RESULT_BYTES_MAX}; store it as an artifact and complete with its reference",
                    result_json.len()
                );
                ended = Some(RunStep::Fails);
                live.head.error = Some(message.as_str().into());
                Recorded::Fail { message }
            }
            Effect::Complete { result_json } => {
                ended = Some(RunStep::Completes);
                live.head.result = Some(Arc::clone(&result_json));
                Recorded::Complete {
                    result: result_json.to_string(),
                }
            }
            Effect::Fail { message, .. } => {
                ended = Some(RunStep::Fails);
                live.head.error = Some(message.as_str().into());
                Recorded::Fail { message }
            }
            Effect::Progress { fraction, text } => {
                live.head.progress = Some(ProgressView {
                    fraction,
                    text: text.clone(),
                });
                changed = true;
                Recorded::Progress { fraction, text }
            }
            other => sender.send(&mut live, other, &mut done),
        };
        record.effects.push(recorded);
    }
    let step = match (&asked.cancel, ended) {
        (Some(reason), _) => {
            live.head.error = Some(reason.as_str().into());
            RunStep::Cancel
        }
        (None, Some(step)) => step,
        (None, None) if outcome.outstanding == 0 => RunStep::Rests,
        (None, None) => RunStep::Awaits,
    };
    if let Ok(state) = before.after(step) {
        live.head.state = state;
    }
    if live.head.state.is_ended() && (ended.is_some() || live.head.state != before) {
        live.head.ended_at = Some(now);
        changed = true;
        sender.answer_parent(&live, &mut done);
    }
    if changed || live.head.state != before || asked.retry || asked.resume {
        live.head.updated_at = now;
        live.head.update(&mut done.unit);
    }
    invariants::debug_follows(before, &record, live.head.state);
    append(&mut live, seq, &record, &mut done.unit);
    done.live = Some(live);
    done
}

fn changed_fact(live: &Live, change: &FactChange) -> Change {
    let mut types = live.rules.fact_types();
    let fact_type = types
        .position(|known| *known.name == *change.fact_type)
        .and_then(|at| u32::try_from(at).ok());
    let kind = match change.change {
        celesta_engine::Change::Inserted => 0,
        celesta_engine::Change::Updated => 1,
        celesta_engine::Change::Retracted => 2,
    };
    Change {
        fact: change.fact.0,
        fact_type: fact_type.unwrap_or(u32::MAX),
        kind,
    }
}

/// The turn cannot stand: its changes are dropped, its messages kept for a retry, the run put aside.
fn quarantine(mut live: Box<Live>, messages: Vec<Vec<u8>>, now: Timestamp, reason: String) -> Done {
    let mut done = Done::nothing_of();
    let seq = live.seq + 1;
    tracing::warn!(run = %live.head.run, seq, %reason, "a run is put aside");
    if let Ok(state) = live.head.state.after(RunStep::Quarantine) {
        live.head.state = state;
    }
    live.head.error = Some(reason.as_str().into());
    live.head.updated_at = now;
    live.head.ended_at = Some(now);
    live.head.update(&mut done.unit);
    let record = Record {
        at: now,
        note: Some(Note::Quarantined { reason, messages }),
        ..Record::default()
    };
    append(&mut live, seq, &record, &mut done.unit);
    // The memory holds what was not kept: the next turn reads the run again.
    done
}

/// What a run keeps for later: all it was given but the wishes to go on, which are spent.
fn kept(held: &[Vec<u8>], messages: &[Leased]) -> Vec<Vec<u8>> {
    let payloads = messages
        .iter()
        .filter(|message| !wakes(message))
        .map(|message| message.payload.to_vec());
    held.iter().cloned().chain(payloads).collect()
}

/// Somebody stops the run: the messages that came with the wish wait like those to come.
fn pause(mut live: Box<Live>, messages: &[Leased], now: Timestamp, reason: String) -> Done {
    live.head.state = RunState::Paused;
    live.head.updated_at = now;
    let is_wish = |message: &Leased| {
        matches!(
            HostMessage::read(&message.payload),
            Some(HostMessage::Pause { .. })
        )
    };
    let waiting = messages.iter().filter(|message| !is_wish(message));
    let note = Note::Paused {
        reason,
        messages: waiting.map(|message| message.payload.to_vec()).collect(),
    };
    let mut done = keep(live, note, now);
    if let Some(live) = &done.live {
        live.head.update(&mut done.unit);
    }
    done
}

/// A run that was put aside or paused keeps what it is sent, unread.
fn hold(live: Box<Live>, messages: &[Leased], now: Timestamp) -> Done {
    let messages = kept(&[], messages);
    let note = if live.head.state == RunState::Paused {
        Note::Paused {
            reason: String::new(),
            messages,
        }
    } else {
        Note::Quarantined {
            reason: "held".to_owned(),
            messages,
        }
    };
    keep(live, note, now)
}

fn keep(mut live: Box<Live>, note: Note, now: Timestamp) -> Done {
    let mut done = Done::nothing_of();
    let seq = live.seq + 1;
    let record = Record {
        at: now,
        note: Some(note),
        ..Record::default()
    };
    append(&mut live, seq, &record, &mut done.unit);
    done.live = Some(live);
    done
}

/// Adds the journal record, and a snapshot when reading the run would cost too much without.
fn append(live: &mut Live, seq: u64, record: &Record, unit: &mut Unit) {
    let run = live.head.run.to_bytes();
    let at = i64::try_from(seq).unwrap_or(i64::MAX);
    unit.add(
        &JOURNAL_APPEND,
        [Cell::Id(run), at.into(), record.encode().into()],
    );
    live.seq = seq;
    live.deltas += 1;
    live.delta_bytes += record.delta.len();
    let large = live.delta_bytes >= DELTA_BYTES_PER_SNAPSHOT.max(live.snapshot_bytes);
    if record.note.is_none() && (large || live.deltas >= DELTAS_PER_SNAPSHOT) {
        let state = live.memory.snapshot();
        live.snapshot_bytes = state.len();
        live.deltas = 0;
        live.delta_bytes = 0;
        unit.add(&SNAPSHOT_UPSERT, [Cell::Id(run), at.into(), state.into()]);
    }
}

impl Done {
    fn nothing_of() -> Self {
        Self {
            live: None,
            unit: Unit::new(),
            outgoing: Vec::new(),
            canceled: Vec::new(),
            children: Vec::new(),
            answers: Vec::new(),
            firings: 0,
        }
    }

    fn nothing(live: Box<Live>) -> Self {
        Self {
            live: Some(live),
            ..Self::nothing_of()
        }
    }
}
