//! What the runtime itself sends to a run through the exclusive queue, besides the workers' reports.

use celesta_functions::{HOST_TAG_FIRST, RunMessage};
use celesta_types::wire::{Damaged, Reader, Writer};
use celesta_types::{CallId, ErrorClass, SweepId};

use crate::sweep::Order;

/// A message of the runtime to a run. Carried as a tag and bytes in [`celesta_functions::RunMessage::Host`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostMessage {
    /// The run's first: its request stands in its row.
    Start,
    /// A timer's instant has come.
    Timer(CallId),
    /// Somebody calls the run off.
    Cancel { reason: String },
    /// Somebody wants another try.
    Retry,
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
    Facts { writes: String },
    /// Somebody stops the run for a while.
    Pause { reason: String },
    /// Somebody lets it go on.
    Resume { reason: String },
    /// A condition on the time changes at this instant.
    Wake,
    /// A sweep comes by.
    Swept { sweep: SweepId, order: Order },
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
            Self::Cancel { reason } => {
                out.text(reason);
                2
            }
            Self::Retry => 3,
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
            Self::Facts { writes } => {
                out.text(writes);
                6
            }
            Self::Pause { reason } => {
                out.text(reason);
                7
            }
            Self::Resume { reason } => {
                out.text(reason);
                8
            }
            Self::Wake => 9,
            Self::Swept { sweep, order } => {
                out.raw(&sweep.to_bytes());
                match order {
                    Order::Look => out.byte(0),
                }
                20
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
            },
            3 => Self::Retry,
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
            },
            7 => Self::Pause {
                reason: input.text()?.to_owned(),
            },
            8 => Self::Resume {
                reason: input.text()?.to_owned(),
            },
            9 => Self::Wake,
            20 => Self::Swept {
                sweep: SweepId::from_bits(u128::from_be_bytes(input.array()?)),
                order: match input.byte()? {
                    0 => Order::Look,
                    _ => return Err(input.damaged("an order of this release")),
                },
            },
            _ => return Err(input.damaged("a message of this release")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_reads_back() {
        let call = CallId { seq: 9, index: 2 };
        let text = || "text".to_owned();
        for message in [
            HostMessage::Start,
            HostMessage::Timer(call),
            HostMessage::Cancel { reason: text() },
            HostMessage::Retry,
            HostMessage::Refused {
                call,
                class: ErrorClass::Input,
                message: text(),
                target: text(),
            },
            HostMessage::Answered { call, result: text() },
            HostMessage::Facts { writes: text() },
            HostMessage::Pause { reason: text() },
            HostMessage::Resume { reason: text() },
            HostMessage::Wake,
            HostMessage::Swept {
                sweep: SweepId::from_bits(7),
                order: Order::Look,
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
}
