//! What the runtime itself sends to a run through the exclusive queue, besides the workers' reports.

use celesta_bundle::Strategy;
use celesta_functions::{HOST_TAG_FIRST, RunMessage};
use celesta_types::wire::{Damaged, Reader, Writer};
use celesta_types::{CallId, ErrorClass, Priority, RunId, SweepId};

use crate::archive::Place;
use crate::gate::{Left, Passage, Stand};
use crate::shared::Copy;
use crate::sweep::Order;

/// The tag of [`HostMessage::Copy`].
const COPY: u8 = 26;
/// The tag of [`HostMessage::Compact`].
const COMPACT: u8 = 42;
/// The tag of [`HostMessage::Archive`].
const ARCHIVE: u8 = 40;
/// The tag of [`HostMessage::Swept`].
const SWEPT: u8 = 41;

/// A message of the runtime to a run. Carried as a tag and bytes in [`celesta_functions::RunMessage::Host`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostMessage {
    /// The run's first: its request stands in its row.
    Start,
    /// A timer's instant has come.
    Timer(CallId),
    /// Somebody calls the run off.
    Cancel { reason: String, by: String },
    /// Somebody wants another try.
    Retry { reason: String, by: String },
    /// A call that could not be sent: too large an input, an unknown service.
    Refused {
        call: CallId,
        class: ErrorClass,
        message: String,
        target: String,
    },
    /// A request to another service has ended well.
    Answered { call: CallId, result: String },
    /// Somebody writes facts; the JSON of [`crate::FactWrite`]s.
    Facts { writes: String, by: String },
    /// Somebody stops the run for a while.
    Pause { reason: String, by: String },
    /// Somebody lets it go on.
    Resume { reason: String, by: String, how: Onward },
    /// A condition on the time changes at this instant.
    Wake,
    /// A sweep comes by.
    Swept { sweep: SweepId, order: Order },
    /// The run stands in the archive as it was in that turn: it may go.
    Archive(Place),
    /// The turns before the last one are not to be kept any more, if it still rests.
    Compact,
    /// The run becomes more or less urgent; a lift only makes it more urgent.
    Prioritize {
        priority: Priority,
        lift: bool,
        reason: String,
        by: String,
    },
    /// The rules before which the run stops.
    Breakpoints { rules: Vec<String>, by: String },
    /// The run goes on with the facts of another one, changed by these writes.
    Restart {
        writes: String,
        reason: String,
        by: String,
    },
    /// A run comes to a gate. Goes to the gate.
    Enter(Passage),
    /// A run leaves a gate. Goes to the gate.
    Leave {
        run: RunId,
        strategy: Strategy,
        left: Left,
    },
    /// Shared facts of a service have changed in the partition that leads them. Goes to the service's own key.
    Copy(Copy),
    /// A run stands at this gate that came to it in another partition, where releases before had it. Goes to the gate.
    TakeOver { passage: Passage, stand: Stand },
}

/// How a run goes on that was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Onward {
    /// Until something else stops it.
    Freely,
    /// It fires once and stops again.
    Step,
    /// Only when its workflow or service was stopped, and not the run itself.
    Scope,
}

impl HostMessage {
    /// The payload of the message that carries this.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        let call_of = |out: &mut Writer, call: &CallId| {
            out.uint(call.seq);
            out.uint(call.index.into());
        };
        let tag = match self {
            Self::Start => 0,
            Self::Timer(call) => {
                call_of(&mut out, call);
                1
            }
            Self::Cancel { reason, by } => {
                out.text(reason);
                out.text(by);
                2
            }
            Self::Retry { reason, by } => {
                out.text(reason);
                out.text(by);
                3
            }
            Self::Refused {
                call,
                class,
                message,
                target,
            } => {
                call_of(&mut out, call);
                out.byte(class.code());
                out.text(message);
                out.text(target);
                4
            }
            Self::Answered { call, result } => {
                call_of(&mut out, call);
                out.text(result);
                5
            }
            Self::Facts { writes, by } => {
                out.text(writes);
                out.text(by);
                6
            }
            Self::Pause { reason, by } => {
                out.text(reason);
                out.text(by);
                7
            }
            Self::Resume { reason, by, how } => {
                out.text(reason);
                out.text(by);
                out.byte(match how {
                    Onward::Freely => 0,
                    Onward::Step => 1,
                    Onward::Scope => 2,
                });
                8
            }
            Self::Wake => 9,
            Self::Swept { sweep, order } => {
                out.raw(&sweep.to_bytes());
                match order {
                    Order::Look => out.byte(0),
                }
                SWEPT
            }
            Self::Compact => COMPACT,
            Self::Archive(place) => {
                place.write(&mut out);
                ARCHIVE
            }
            Self::Prioritize {
                priority,
                lift,
                reason,
                by,
            } => {
                out.uint(priority.rank().into());
                out.flag(priority.deadline.is_some());
                out.instant(priority.deadline.unwrap_or_default());
                out.flag(*lift);
                out.text(reason);
                out.text(by);
                20
            }
            Self::Breakpoints { rules, by } => {
                out.size(rules.len());
                rules.iter().for_each(|rule| out.text(rule));
                out.text(by);
                21
            }
            Self::Restart { writes, reason, by } => {
                out.text(writes);
                out.text(reason);
                out.text(by);
                22
            }
            Self::Enter(passage) => {
                passage.write(&mut out);
                23
            }
            Self::Leave { run, strategy, left } => {
                out.raw(&run.to_bytes());
                out.text(&strategy.to_string());
                out.byte(left.code());
                24
            }
            Self::TakeOver { passage, stand } => {
                passage.write(&mut out);
                out.byte(*stand as u8);
                25
            }
            Self::Copy(copy) => {
                copy.write(&mut out);
                COPY
            }
        };
        RunMessage::Host(HOST_TAG_FIRST + tag, &out.finish()).encode()
    }

    /// The runtime's own message in `payload`; `None` for a report or what no release writes.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        // Nearly all messages are reports, which are decoded once only, elsewhere.
        if *payload.first()? < HOST_TAG_FIRST {
            return None;
        }
        match RunMessage::decode(payload) {
            Ok(RunMessage::Host(tag, bytes)) => Self::decode(tag, bytes).ok(),
            _ => None,
        }
    }

    /// Whether the message is for a gate and not for a run.
    pub(crate) fn is_for_gate(payload: &[u8]) -> bool {
        payload
            .first()
            .and_then(|tag| tag.checked_sub(HOST_TAG_FIRST))
            .is_some_and(|tag| matches!(tag, 23..=25))
    }

    /// Whether the message is about shared facts and for no run.
    pub(crate) fn is_copy(payload: &[u8]) -> bool {
        payload.first() == Some(&(HOST_TAG_FIRST + COPY))
    }

    /// Reads what [`RunMessage::Host`] carries.
    pub(crate) fn decode(tag: u8, bytes: &[u8]) -> Result<Self, Damaged> {
        let mut input = Reader::new(bytes);
        let call_of = |input: &mut Reader<'_>| {
            Ok(CallId {
                seq: input.uint()?,
                index: input.uint32()?,
            })
        };
        Ok(match tag.wrapping_sub(HOST_TAG_FIRST) {
            0 => Self::Start,
            1 => Self::Timer(call_of(&mut input)?),
            2 => Self::Cancel {
                reason: input.text()?.to_owned(),
                by: later(&mut input)?,
            },
            3 => Self::Retry {
                reason: later(&mut input)?,
                by: later(&mut input)?,
            },
            4 => {
                let call = call_of(&mut input)?;
                let class =
                    ErrorClass::from_code(input.byte()?).ok_or_else(|| input.damaged("an error class"))?;
                Self::Refused {
                    call,
                    class,
                    message: input.text()?.to_owned(),
                    target: input.text()?.to_owned(),
                }
            }
            5 => Self::Answered {
                call: call_of(&mut input)?,
                result: input.text()?.to_owned(),
            },
            6 => Self::Facts {
                writes: input.text()?.to_owned(),
                by: later(&mut input)?,
            },
            7 => Self::Pause {
                reason: input.text()?.to_owned(),
                by: later(&mut input)?,
            },
            8 => Self::Resume {
                reason: input.text()?.to_owned(),
                by: later(&mut input)?,
                how: match if input.is_at_end() { 0 } else { input.byte()? } {
                    1 => Onward::Step,
                    2 => Onward::Scope,
                    _ => Onward::Freely,
                },
            },
            9 => Self::Wake,
            SWEPT => Self::Swept {
                sweep: SweepId::from_bits(u128::from_be_bytes(input.array()?)),
                order: match input.byte()? {
                    0 => Order::Look,
                    _ => return Err(input.damaged("an order of this release")),
                },
            },
            ARCHIVE => Self::Archive(Place::read(&mut input)?),
            COMPACT => Self::Compact,
            20 => {
                let rank = input.uint32()?;
                let deadline = input.flag()?;
                let at = input.instant()?;
                let priority = Priority::from_rank(rank, deadline.then_some(at));
                Self::Prioritize {
                    priority: priority.ok_or_else(|| input.damaged("a priority"))?,
                    lift: input.flag()?,
                    reason: input.text()?.to_owned(),
                    by: input.text()?.to_owned(),
                }
            }
            21 => Self::Breakpoints {
                rules: (0..input.size()?)
                    .map(|_| input.text().map(str::to_owned))
                    .collect::<Result<_, _>>()?,
                by: input.text()?.to_owned(),
            },
            22 => Self::Restart {
                writes: input.text()?.to_owned(),
                reason: input.text()?.to_owned(),
                by: input.text()?.to_owned(),
            },
            23 => Self::Enter(Passage::read(&mut input)?),
            24 => Self::Leave {
                run: RunId::from_bits(u128::from_be_bytes(input.array()?)),
                strategy: strategy(&mut input)?,
                left: Left::from_code(input.byte()?).ok_or_else(|| input.damaged("how a run left"))?,
            },
            25 => Self::TakeOver {
                passage: Passage::read(&mut input)?,
                stand: Stand::from_code(input.byte()?.into())
                    .ok_or_else(|| input.damaged("a place at a gate"))?,
            },
            COPY => Self::Copy(Copy::read(&mut input)?),
            _ => return Err(input.damaged("a message of this release")),
        })
    }
}

/// A text that messages of earlier releases end without.
fn later(input: &mut Reader<'_>) -> Result<String, Damaged> {
    if input.is_at_end() {
        return Ok(String::new());
    }
    input.text().map(str::to_owned)
}

/// A strategy by its name.
pub(crate) fn strategy(input: &mut Reader<'_>) -> Result<Strategy, Damaged> {
    let text = input.text()?;
    text.parse().map_err(|_| input.damaged("a strategy"))
}

#[cfg(test)]
mod tests {
    use celesta_types::Timestamp;

    use super::*;

    #[test]
    fn every_message_reads_back() {
        let call = CallId { seq: 9, index: 2 };
        let text = || "text".to_owned();
        for message in [
            HostMessage::Start,
            HostMessage::Timer(call),
            HostMessage::Cancel {
                reason: text(),
                by: text(),
            },
            HostMessage::Retry {
                reason: text(),
                by: text(),
            },
            HostMessage::Refused {
                call,
                class: ErrorClass::Input,
                message: text(),
                target: text(),
            },
            HostMessage::Answered { call, result: text() },
            HostMessage::Facts {
                writes: text(),
                by: text(),
            },
            HostMessage::Pause {
                reason: text(),
                by: text(),
            },
            HostMessage::Resume {
                reason: text(),
                by: text(),
                how: Onward::Step,
            },
            HostMessage::Wake,
            HostMessage::Swept {
                sweep: SweepId::from_bits(7),
                order: Order::Look,
            },
            HostMessage::Compact,
            HostMessage::Archive(Place {
                seq: 300,
                artifact: celesta_types::Digest::from_bytes([7; 32]),
                at: 8,
                bytes: 1 << 40,
            }),
            HostMessage::Prioritize {
                priority: Priority {
                    number: -3,
                    deadline: Some(Timestamp::from_millis(9)),
                    ..Priority::default()
                },
                lift: true,
                reason: text(),
                by: text(),
            },
            HostMessage::Breakpoints {
                rules: vec![text(), text()],
                by: text(),
            },
            HostMessage::Restart {
                writes: text(),
                reason: text(),
                by: text(),
            },
            HostMessage::Leave {
                run: RunId::from_bits(7),
                strategy: Strategy::Parallel(4),
                left: Left::Failed,
            },
        ] {
            let payload = message.encode();
            let Ok(RunMessage::Host(tag, bytes)) = RunMessage::decode(&payload) else {
                unreachable!("a host message")
            };
            assert_eq!(HostMessage::decode(tag, bytes), Ok(message));
        }
        assert!(HostMessage::decode(99, &[]).is_err());
    }

    #[test]
    fn the_messages_of_earlier_releases_are_read() {
        let mut reason = Writer::default();
        reason.text("why");
        let reason = reason.finish();
        let (why, nobody) = (|| "why".to_owned(), String::new);
        let cases = [
            (
                2,
                HostMessage::Cancel {
                    reason: why(),
                    by: nobody(),
                },
            ),
            (
                6,
                HostMessage::Facts {
                    writes: why(),
                    by: nobody(),
                },
            ),
            (
                7,
                HostMessage::Pause {
                    reason: why(),
                    by: nobody(),
                },
            ),
            (
                8,
                HostMessage::Resume {
                    reason: why(),
                    by: nobody(),
                    how: Onward::Freely,
                },
            ),
        ];
        for (tag, message) in cases {
            assert_eq!(HostMessage::decode(HOST_TAG_FIRST + tag, &reason), Ok(message));
        }
        let retry = HostMessage::Retry {
            reason: nobody(),
            by: nobody(),
        };
        assert_eq!(HostMessage::decode(HOST_TAG_FIRST + 3, &[]), Ok(retry));
    }
}
