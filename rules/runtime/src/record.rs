//! One journal record: what a turn was given, what it did, and the state delta.
//!
//! The delta is the engine's own and opaque here; recovery needs nothing else. The rest is for people: history, calls
//! and events are read from it. A record names rules by their index in the run's version.
//!
//! After the version byte: instant, causes, firings, effects, fact changes, note, delta. Format 2 has the causes and notes of
//! facts written from outside and of pauses, format 3 who asked for them, and the cause of sweeps; every format ever written
//! is in `tests/formats`.

use celesta_types::wire::{Damaged, Reader, Writer};
use celesta_types::{CallId, Digest, ErrorClass, Priority, SweepId, Timestamp};

/// The format written by this release; all earlier ones are readable.
const FORMAT: u8 = 3;

/// One turn of a run as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Record {
    /// When the turn was evaluated.
    pub at: Timestamp,
    /// The messages it applied, in order.
    pub causes: Vec<Cause>,
    /// The sections that ran, in order.
    pub firings: Vec<Firing>,
    /// What it asked for, in order; the index is the call's.
    pub effects: Vec<Recorded>,
    /// The facts it changed.
    pub changes: Vec<Change>,
    /// What the platform did to the run besides: a state it was put in and why.
    pub note: Option<Note>,
    /// The engine's state delta; empty when the state did not change.
    pub delta: Vec<u8>,
}

/// Why a turn happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The request.
    Started,
    /// A call succeeded.
    Succeeded {
        /// Which call.
        call: CallId,
        /// Its result, as JSON.
        result: String,
        /// How it ran.
        ran: Ran,
    },
    /// A call failed for good.
    Failed {
        /// Which call.
        call: CallId,
        /// The class of the last error.
        class: ErrorClass,
        /// Its message.
        message: String,
        /// How it ran.
        ran: Ran,
    },
    /// A timer's instant came.
    TimerFired {
        /// The timer.
        call: CallId,
    },
    /// Somebody asked for the run to stop.
    CancelRequested {
        /// Why, in their words.
        reason: String,
        /// Who; empty in records of earlier releases.
        by: String,
    },
    /// Somebody asked for another try.
    RetryRequested {
        /// Why, in their words.
        reason: String,
        /// Who.
        by: String,
    },
    /// Facts were written from outside.
    FactsWritten {
        /// What was asked, as the JSON that came.
        writes: String,
        /// The writes that changed nothing, by their place, and why.
        refused: Vec<(u32, String)>,
        /// Who.
        by: String,
    },
    /// Somebody let a paused run go on.
    Resumed {
        /// Why, in their words.
        reason: String,
        /// Who.
        by: String,
    },
    /// The instant of a condition on the time has come.
    Woken,
    /// The run follows another version from this turn on.
    Upgraded {
        /// The version before.
        from: Digest,
        /// The version from now on.
        to: Digest,
    },
    /// A sweep came by.
    Swept {
        /// Which.
        sweep: SweepId,
    },
    /// The run became more or less urgent.
    Prioritized {
        /// How urgent it is now.
        priority: Priority,
        /// Why.
        reason: String,
        /// Who.
        by: String,
    },
    /// Somebody said before which rules the run stops.
    BreakpointsSet {
        /// All of them.
        rules: Vec<String>,
        /// Who.
        by: String,
    },
    /// The run goes on where another one was.
    Restarted {
        /// What was changed, as the JSON that came.
        writes: String,
        /// Why, in their words.
        reason: String,
        /// Who.
        by: String,
    },
}

/// How a call's last attempt ran.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ran {
    /// Attempts in all.
    pub attempts: u32,
    /// When the last one began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// The worker that ran it.
    pub worker: String,
}

/// One section of a rule that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// The rule's index in the run's version.
    pub rule: u32,
    /// Which section: 0 action, 1 reaction, 2 error.
    pub section: u8,
    /// The facts of the tuple and their versions.
    pub facts: Vec<(u64, u64)>,
    /// What the section threw.
    pub threw: Option<String>,
}

/// One effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Recorded {
    /// A function was called.
    Call {
        /// The function.
        function: String,
        /// Its input, as JSON.
        input: String,
    },
    /// A timer was set.
    Timer {
        /// For when.
        at: Timestamp,
    },
    /// Another service was asked.
    Request {
        /// `service/operation`.
        target: String,
        /// Its input, as JSON.
        input: String,
    },
    /// Outstanding calls were called off.
    CancelCalls {
        /// Which.
        calls: Vec<CallId>,
    },
    /// An event for whoever listens.
    Emit {
        /// Its type.
        event_type: String,
        /// Its data, as JSON.
        data: String,
    },
    /// The run completed.
    Complete {
        /// Its result, as JSON.
        result: String,
    },
    /// The run failed.
    Fail {
        /// Why.
        message: String,
    },
    /// How far the run is.
    Progress {
        /// 0 to 1.
        fraction: f64,
        /// In words.
        text: String,
    },
    /// A line of the rules' log.
    Log {
        /// The line.
        text: String,
    },
}

/// What happened to one fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The fact.
    pub fact: u64,
    /// Its type's index in the run's version.
    pub fact_type: u32,
    /// 0 inserted, 1 updated, 2 retracted.
    pub kind: u8,
}

/// What the platform did to the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The run was put aside; the turn's changes were not kept.
    Quarantined {
        /// Why.
        reason: String,
        /// The messages that were not applied, as they came.
        messages: Vec<Vec<u8>>,
    },
    /// The run was paused, or was sent messages while it was.
    Paused {
        /// Why; empty for messages that came later.
        reason: String,
        /// Who.
        by: String,
        /// The messages that wait for the run to go on.
        messages: Vec<Vec<u8>>,
    },
    /// The turn has ended before a rule fired, and the run is paused. The turn itself counts.
    Stopped {
        /// The rule that would fire next.
        rule: String,
        /// The facts it would fire for, with their versions.
        facts: Vec<(u64, u64)>,
    },
}

impl Note {
    /// The messages that are kept unread.
    #[must_use]
    pub fn messages(self) -> Vec<Vec<u8>> {
        match self {
            Self::Quarantined { messages, .. } | Self::Paused { messages, .. } => messages,
            Self::Stopped { .. } => Vec::new(),
        }
    }

    fn write(&self, out: &mut Writer) {
        let (reason, messages) = match self {
            Self::Quarantined { reason, messages } => {
                out.byte(1);
                (reason, messages)
            }
            Self::Paused { reason, by, messages } => {
                out.byte(20);
                out.text(by);
                (reason, messages)
            }
            Self::Stopped { rule, facts } => {
                out.byte(21);
                out.text(rule);
                out.size(facts.len());
                for (fact, version) in facts {
                    out.uint(*fact);
                    out.uint(*version);
                }
                return;
            }
        };
        out.text(reason);
        out.size(messages.len());
        messages.iter().for_each(|message| out.bytes(message));
    }

    fn read(input: &mut Reader<'_>) -> Result<Option<Self>, Damaged> {
        let tag = input.byte()?;
        if tag == 0 {
            return Ok(None);
        }
        if tag == 21 {
            return Ok(Some(Self::Stopped {
                rule: input.text()?.to_owned(),
                facts: (0..input.size()?)
                    .map(|_| Ok((input.uint()?, input.uint()?)))
                    .collect::<Result<_, Damaged>>()?,
            }));
        }
        if !matches!(tag, 1 | 2 | 20) {
            return Err(input.damaged("a note"));
        }
        let by = if tag == 20 {
            input.text()?.to_owned()
        } else {
            String::new()
        };
        let reason = input.text()?.to_owned();
        let messages = (0..input.size()?)
            .map(|_| input.bytes().map(<[u8]>::to_vec))
            .collect::<Result<_, _>>()?;
        Ok(Some(if tag == 1 {
            Self::Quarantined { reason, messages }
        } else {
            Self::Paused { reason, by, messages }
        }))
    }
}

impl Record {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out =
            Writer::with_capacity(64 + self.delta.len() + 32 * (self.causes.len() + self.effects.len()));
        out.byte(FORMAT);
        out.instant(self.at);
        out.size(self.causes.len());
        self.causes.iter().for_each(|cause| cause.write(&mut out));
        out.size(self.firings.len());
        self.firings.iter().for_each(|firing| firing.write(&mut out));
        out.size(self.effects.len());
        self.effects.iter().for_each(|effect| effect.write(&mut out));
        out.size(self.changes.len());
        for change in &self.changes {
            out.uint(change.fact);
            out.uint(change.fact_type.into());
            out.byte(change.kind);
        }
        match &self.note {
            None => out.byte(0),
            Some(note) => note.write(&mut out),
        }
        out.bytes(&self.delta);
        out.finish()
    }

    /// Reads the stored form of any release.
    ///
    /// # Errors
    /// When the bytes are of a later format or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut input = Reader::new(bytes);
        if !(1..=FORMAT).contains(&input.byte()?) {
            return Err(input.damaged("a journal record of format 1 to 3"));
        }
        let mut record = Self {
            at: input.instant()?,
            ..Self::default()
        };
        for _ in 0..input.size()? {
            record.causes.push(Cause::read(&mut input)?);
        }
        for _ in 0..input.size()? {
            record.firings.push(Firing::read(&mut input)?);
        }
        for _ in 0..input.size()? {
            record.effects.push(Recorded::read(&mut input)?);
        }
        for _ in 0..input.size()? {
            record.changes.push(Change {
                fact: input.uint()?,
                fact_type: input.uint32()?,
                kind: input.byte()?,
            });
        }
        record.note = Note::read(&mut input)?;
        record.delta = input.bytes()?.to_vec();
        Ok(record)
    }
}

fn write_call(out: &mut Writer, call: CallId) {
    out.uint(call.seq);
    out.uint(call.index.into());
}

fn read_call(input: &mut Reader<'_>) -> Result<CallId, Damaged> {
    Ok(CallId {
        seq: input.uint()?,
        index: input.uint32()?,
    })
}

impl Ran {
    fn write(&self, out: &mut Writer) {
        out.uint(self.attempts.into());
        out.instant(self.started);
        // Durations are short: two bytes where an instant takes six.
        out.int(self.ended.as_millis().saturating_sub(self.started.as_millis()));
        out.text(&self.worker);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Damaged> {
        let attempts = input.uint32()?;
        let started = input.instant()?;
        Ok(Self {
            attempts,
            started,
            ended: started.after_millis(input.int()?),
            worker: input.text()?.to_owned(),
        })
    }
}

impl Cause {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Started => out.byte(0),
            Self::Succeeded { call, result, ran } => {
                out.byte(1);
                write_call(out, *call);
                out.text(result);
                ran.write(out);
            }
            Self::Failed {
                call,
                class,
                message,
                ran,
            } => {
                out.byte(2);
                write_call(out, *call);
                out.byte(class.code());
                out.text(message);
                ran.write(out);
            }
            Self::TimerFired { call } => {
                out.byte(3);
                write_call(out, *call);
            }
            Self::CancelRequested { reason, by } => {
                out.byte(20);
                out.text(reason);
                out.text(by);
            }
            Self::RetryRequested { reason, by } => {
                out.byte(21);
                out.text(reason);
                out.text(by);
            }
            Self::FactsWritten { writes, refused, by } => {
                out.byte(22);
                out.text(by);
                out.text(writes);
                out.size(refused.len());
                for (at, why) in refused {
                    out.uint((*at).into());
                    out.text(why);
                }
            }
            Self::Resumed { reason, by } => {
                out.byte(23);
                out.text(reason);
                out.text(by);
            }
            Self::Woken => out.byte(8),
            Self::Upgraded { from, to } => {
                out.byte(50);
                from.as_bytes()
                    .iter()
                    .chain(to.as_bytes())
                    .for_each(|byte| out.byte(*byte));
            }
            Self::Swept { sweep } => {
                out.byte(30);
                out.raw(&sweep.to_bytes());
            }
            Self::Prioritized { priority, reason, by } => {
                out.byte(24);
                out.uint(priority.rank().into());
                out.flag(priority.deadline.is_some());
                out.instant(priority.deadline.unwrap_or_default());
                out.text(reason);
                out.text(by);
            }
            Self::BreakpointsSet { rules, by } => {
                out.byte(25);
                out.size(rules.len());
                rules.iter().for_each(|rule| out.text(rule));
                out.text(by);
            }
            Self::Restarted { writes, reason, by } => {
                out.byte(26);
                out.text(writes);
                out.text(reason);
                out.text(by);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Damaged> {
        let text = |input: &mut Reader<'_>| input.text().map(str::to_owned);
        Ok(match input.byte()? {
            0 => Self::Started,
            1 => Self::Succeeded {
                call: read_call(input)?,
                result: input.text()?.to_owned(),
                ran: Ran::read(input)?,
            },
            2 => {
                let call = read_call(input)?;
                let class =
                    ErrorClass::from_code(input.byte()?).ok_or_else(|| input.damaged("an error class"))?;
                Self::Failed {
                    call,
                    class,
                    message: input.text()?.to_owned(),
                    ran: Ran::read(input)?,
                }
            }
            3 => Self::TimerFired {
                call: read_call(input)?,
            },
            tag @ (4 | 20) => Self::CancelRequested {
                reason: text(input)?,
                by: if tag == 20 { text(input)? } else { String::new() },
            },
            5 => Self::RetryRequested {
                reason: String::new(),
                by: String::new(),
            },
            21 => Self::RetryRequested {
                reason: text(input)?,
                by: text(input)?,
            },
            tag @ (6 | 22) => Self::FactsWritten {
                by: if tag == 22 { text(input)? } else { String::new() },
                writes: text(input)?,
                refused: (0..input.size()?)
                    .map(|_| Ok((input.uint32()?, text(input)?)))
                    .collect::<Result<_, Damaged>>()?,
            },
            tag @ (7 | 23) => Self::Resumed {
                reason: text(input)?,
                by: if tag == 23 { text(input)? } else { String::new() },
            },
            8 => Self::Woken,
            50 => Self::Upgraded {
                from: read_digest(input)?,
                to: read_digest(input)?,
            },
            30 => Self::Swept {
                sweep: SweepId::from_bits(u128::from_be_bytes(input.array()?)),
            },
            24 => {
                let rank = input.uint32()?;
                let deadline = input.flag()?;
                let at = input.instant()?;
                let priority = Priority::from_rank(rank, deadline.then_some(at));
                Self::Prioritized {
                    priority: priority.ok_or_else(|| input.damaged("a priority"))?,
                    reason: text(input)?,
                    by: text(input)?,
                }
            }
            25 => Self::BreakpointsSet {
                rules: (0..input.size()?)
                    .map(|_| text(input))
                    .collect::<Result<_, _>>()?,
                by: text(input)?,
            },
            26 => Self::Restarted {
                writes: text(input)?,
                reason: text(input)?,
                by: text(input)?,
            },
            _ => return Err(input.damaged("a cause")),
        })
    }
}

fn read_digest(input: &mut Reader<'_>) -> Result<Digest, Damaged> {
    let mut bytes = [0; 32];
    for byte in &mut bytes {
        *byte = input.byte()?;
    }
    Ok(Digest::from_bytes(bytes))
}

impl Firing {
    fn write(&self, out: &mut Writer) {
        out.uint(self.rule.into());
        out.byte(self.section | if self.threw.is_some() { 0x80 } else { 0 });
        out.size(self.facts.len());
        for (fact, version) in &self.facts {
            out.uint(*fact);
            out.uint(*version);
        }
        if let Some(error) = &self.threw {
            out.text(error);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Damaged> {
        let rule = input.uint32()?;
        let section = input.byte()?;
        let facts = (0..input.size()?)
            .map(|_| Ok((input.uint()?, input.uint()?)))
            .collect::<Result<_, Damaged>>()?;
        let threw = if section & 0x80 == 0 {
            None
        } else {
            Some(input.text()?.to_owned())
        };
        Ok(Self {
            rule,
            section: section & 0x7f,
            facts,
            threw,
        })
    }
}

impl Recorded {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Call { function, input } => {
                out.byte(0);
                out.text(function);
                out.text(input);
            }
            Self::Timer { at } => {
                out.byte(1);
                out.instant(*at);
            }
            Self::Request { target, input } => {
                out.byte(2);
                out.text(target);
                out.text(input);
            }
            Self::CancelCalls { calls } => {
                out.byte(3);
                out.size(calls.len());
                calls.iter().for_each(|call| write_call(out, *call));
            }
            Self::Emit { event_type, data } => {
                out.byte(4);
                out.text(event_type);
                out.text(data);
            }
            Self::Complete { result } => {
                out.byte(5);
                out.text(result);
            }
            Self::Fail { message } => {
                out.byte(6);
                out.text(message);
            }
            Self::Progress { fraction, text } => {
                out.byte(7);
                out.raw(&fraction.to_le_bytes());
                out.text(text);
            }
            Self::Log { text } => {
                out.byte(8);
                out.text(text);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Damaged> {
        let text = |input: &mut Reader<'_>| input.text().map(str::to_owned);
        Ok(match input.byte()? {
            0 => Self::Call {
                function: text(input)?,
                input: text(input)?,
            },
            1 => Self::Timer { at: input.instant()? },
            2 => Self::Request {
                target: text(input)?,
                input: text(input)?,
            },
            3 => Self::CancelCalls {
                calls: (0..input.size()?)
                    .map(|_| read_call(input))
                    .collect::<Result<_, _>>()?,
            },
            4 => Self::Emit {
                event_type: text(input)?,
                data: text(input)?,
            },
            5 => Self::Complete { result: text(input)? },
            6 => Self::Fail {
                message: text(input)?,
            },
            7 => Self::Progress {
                fraction: f64::from_le_bytes(input.array()?),
                text: text(input)?,
            },
            8 => Self::Log { text: text(input)? },
            _ => return Err(input.damaged("an effect")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        let call = CallId { seq: 3, index: 1 };
        let ran = Ran {
            attempts: 2,
            started: Timestamp::from_millis(1_700_000_000_000),
            ended: Timestamp::from_millis(1_700_000_000_250),
            worker: "local".to_owned(),
        };
        Record {
            at: Timestamp::from_millis(1_700_000_001_000),
            causes: vec![
                Cause::Started,
                Cause::Succeeded {
                    call,
                    result: "{\"n\":1}".to_owned(),
                    ran: ran.clone(),
                },
                Cause::Failed {
                    call,
                    class: ErrorClass::Timeout,
                    message: "too long".to_owned(),
                    ran,
                },
                Cause::TimerFired { call },
                Cause::CancelRequested {
                    reason: "no longer needed".to_owned(),
                    by: String::new(),
                },
                Cause::RetryRequested {
                    reason: String::new(),
                    by: String::new(),
                },
            ],
            firings: vec![
                Firing {
                    rule: 4,
                    section: 0,
                    facts: vec![(1, 1), (300, 7)],
                    threw: None,
                },
                Firing {
                    rule: 5,
                    section: 2,
                    facts: vec![],
                    threw: Some("division by zero".to_owned()),
                },
            ],
            effects: vec![
                Recorded::Call {
                    function: "encode".to_owned(),
                    input: "{}".to_owned(),
                },
                Recorded::Timer {
                    at: Timestamp::from_millis(5),
                },
                Recorded::Request {
                    target: "a/b".to_owned(),
                    input: "[]".to_owned(),
                },
                Recorded::CancelCalls { calls: vec![call] },
                Recorded::Emit {
                    event_type: "x".to_owned(),
                    data: "1".to_owned(),
                },
                Recorded::Complete {
                    result: "null".to_owned(),
                },
                Recorded::Fail {
                    message: "why".to_owned(),
                },
                Recorded::Progress {
                    fraction: 0.25,
                    text: "a quarter".to_owned(),
                },
                Recorded::Log {
                    text: "line".to_owned(),
                },
            ],
            changes: vec![Change {
                fact: 300,
                fact_type: 2,
                kind: 1,
            }],
            note: Some(Note::Quarantined {
                reason: "cycle".to_owned(),
                messages: vec![vec![1, 2, 3]],
            }),
            delta: vec![9, 8, 7],
        }
    }

    fn bytes_of(hex: &str) -> Vec<u8> {
        let hex = hex.trim();
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits"))
            .collect()
    }

    #[test]
    fn the_records_of_earlier_releases_are_readable() {
        let first = bytes_of(include_str!("../tests/formats/record-1.hex"));
        assert_eq!(Record::decode(&first), Ok(sample()));
        let nobody = String::new;
        let second = Record {
            at: Timestamp::from_millis(1_700_000_001_000),
            causes: vec![
                Cause::FactsWritten {
                    writes: "[]".to_owned(),
                    refused: vec![(3, "why".to_owned())],
                    by: nobody(),
                },
                Cause::Resumed {
                    reason: "go".to_owned(),
                    by: nobody(),
                },
                Cause::Woken,
            ],
            note: Some(Note::Paused {
                reason: "wait".to_owned(),
                by: nobody(),
                messages: vec![vec![4]],
            }),
            delta: vec![9, 8, 7],
            ..Record::default()
        };
        let bytes = bytes_of(include_str!("../tests/formats/record-2.hex"));
        assert_eq!(Record::decode(&bytes), Ok(second));
    }

    #[test]
    fn what_later_formats_added_reads_back() {
        let mut record = sample();
        let text = || "text".to_owned();
        record.causes = vec![
            Cause::CancelRequested {
                reason: text(),
                by: text(),
            },
            Cause::RetryRequested {
                reason: text(),
                by: text(),
            },
            Cause::FactsWritten {
                writes: "[]".to_owned(),
                refused: vec![(3, "why".to_owned())],
                by: text(),
            },
            Cause::Resumed {
                reason: "go".to_owned(),
                by: text(),
            },
            Cause::Woken,
            Cause::Swept {
                sweep: SweepId::from_bits(9),
            },
            Cause::Prioritized {
                priority: Priority {
                    deadline: Some(Timestamp::from_millis(7)),
                    ..Priority::default()
                },
                reason: text(),
                by: text(),
            },
            Cause::BreakpointsSet {
                rules: vec![text()],
                by: text(),
            },
            Cause::Restarted {
                writes: text(),
                reason: text(),
                by: text(),
            },
        ];
        record.note = Some(Note::Paused {
            reason: "wait".to_owned(),
            by: text(),
            messages: vec![vec![4]],
        });
        assert_eq!(Record::decode(&record.encode()), Ok(record.clone()));
        record.note = Some(Note::Stopped {
            rule: text(),
            facts: vec![(7, 1)],
        });
        assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn a_record_reads_back() {
        let record = sample();
        assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn a_cut_or_later_record_is_an_error_and_no_panic() {
        let bytes = sample().encode();
        for length in 0..bytes.len() {
            assert!(Record::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
        let mut later = bytes;
        later[0] = FORMAT + 1;
        assert!(Record::decode(&later).is_err());
    }
}
