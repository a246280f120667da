//! The stored form of a journal record.
//!
//! After the version byte: instant, causes, firings, effects, fact changes, note, delta. Format 2 has the causes and notes of
//! facts written from outside and of pauses, format 3 who asked for them, and the cause of sweeps; every format ever written
//! is in `tests/formats`. Nothing here is changed without a new number: what a release has written stays readable.

#[cfg(test)]
mod tests;

use celesta_types::wire::{Damaged, Reader, Writer};
use celesta_types::{CallId, Digest, ErrorClass, Priority, SweepId};

use super::{Cause, Change, Firing, Note, Ran, Record, Recorded};

/// The format written by this release; all earlier ones are readable.
const FORMAT: u8 = 3;

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

impl Note {
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
