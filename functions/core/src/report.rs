//! The payload of a message to a run. Workers write one kind, the report; the other kinds are the runtime's own.

use celesta_types::wire::{Damaged, Reader, Writer};
use celesta_types::{CallId, ErrorClass, MessageId, Timestamp};

/// First bytes from here on belong to the runtime: starts, timers, cancels, retries, facts.
pub const HOST_TAG_FIRST: u8 = 64;

/// The first byte of a report written by this release.
const REPORT: u8 = 1;

const SUCCEEDED: u8 = 1;
const AVOIDED: u8 = 2;

/// How a call ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportOutcome<'a> {
    /// The function answered.
    Succeeded {
        /// The result, one JSON value.
        result: &'a [u8],
    },
    /// The last attempt failed and no other follows.
    Failed {
        /// Whose fault it is.
        class: ErrorClass,
        /// For people.
        message: &'a str,
        /// How many attempts were made.
        attempts: u32,
    },
}

/// The answer to one invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report<'a> {
    /// Which of the run's calls this answers.
    pub call: CallId,
    /// The attempt that ended it, from 1.
    pub attempt: u32,
    /// When that attempt began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Who ran it.
    pub worker: &'a str,
    /// Whether a recorded result was reused instead of running anything.
    pub avoided: bool,
    /// How it ended.
    pub outcome: ReportOutcome<'a>,
}

/// One message to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMessage<'a> {
    /// A call has ended.
    Report(Report<'a>),
    /// One of the runtime's own: its first byte, which is at least [`HOST_TAG_FIRST`], and the rest.
    Host(u8, &'a [u8]),
}

impl<'a> RunMessage<'a> {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Report(report) => report.encode(),
            Self::Host(tag, rest) => {
                let mut writer = Writer::with_capacity(rest.len() + 1);
                writer.byte(*tag);
                writer.raw(rest);
                writer.finish()
            }
        }
    }

    /// Reads the stored form of any release up to this one.
    ///
    /// # Errors
    /// When the bytes are cut, damaged, or of a later release.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Damaged> {
        match payload.split_first() {
            Some((&tag, rest)) if tag >= HOST_TAG_FIRST => Ok(Self::Host(tag, rest)),
            Some((&REPORT, _)) => Report::decode(payload).map(Self::Report),
            _ => Err(Damaged {
                at: 0,
                what: "a message to a run of version 1",
            }),
        }
    }
}

impl<'a> Report<'a> {
    /// The stored form, fit as the payload of a message to the run.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let body = match self.outcome {
            ReportOutcome::Succeeded { result } => result,
            ReportOutcome::Failed { message, .. } => message.as_bytes(),
        };
        let mut writer = Writer::with_capacity(body.len() + self.worker.len() + 48);
        writer.byte(REPORT);
        let succeeded = matches!(self.outcome, ReportOutcome::Succeeded { .. });
        writer.byte(if succeeded { SUCCEEDED } else { 0 } | if self.avoided { AVOIDED } else { 0 });
        writer.uint(self.call.seq);
        writer.uint(u64::from(self.call.index));
        writer.uint(u64::from(self.attempt));
        writer.instant(self.started);
        // Attempts are short beside the time since 1970; a clock that stepped back gives a negative difference.
        writer.int(self.ended.as_millis().wrapping_sub(self.started.as_millis()));
        writer.text(self.worker);
        if let ReportOutcome::Failed { class, attempts, .. } = self.outcome {
            writer.byte(class.code());
            writer.uint(u64::from(attempts));
        }
        writer.bytes(body);
        writer.finish()
    }

    fn decode(payload: &'a [u8]) -> Result<Self, Damaged> {
        let mut reader = Reader::new(payload);
        reader.byte()?;
        let flags = reader.byte()?;
        if flags & !(SUCCEEDED | AVOIDED) != 0 {
            return Err(Damaged {
                at: 1,
                what: "known flags of a report",
            });
        }
        let call = CallId {
            seq: reader.uint()?,
            index: reader.uint32()?,
        };
        let attempt = reader.uint32()?;
        let started = reader.instant()?;
        let ended = Timestamp::from_millis(started.as_millis().wrapping_add(reader.int()?));
        let worker = reader.text()?;
        let outcome = if flags & SUCCEEDED == 0 {
            let class =
                ErrorClass::from_code(reader.byte()?).ok_or_else(|| reader.damaged("an error class"))?;
            ReportOutcome::Failed {
                class,
                attempts: reader.uint32()?,
                message: reader.text()?,
            }
        } else {
            ReportOutcome::Succeeded {
                result: reader.bytes()?,
            }
        };
        Ok(Self {
            call,
            attempt,
            started,
            ended,
            worker,
            avoided: flags & AVOIDED != 0,
            outcome,
        })
    }
}

/// The id of the message that reports the invocation `invocation`: a repeated report is seen as one.
#[must_use]
pub const fn report_id(invocation: MessageId) -> MessageId {
    // Distinct invocations stay distinct; the constant keeps reports apart from invocations.
    MessageId::from_bits(invocation.bits() ^ 0x5851_f42d_4c95_7f2d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_report_reads_back(
            seq in 0_u64..1 << 44, index: u32, attempt: u32, started: i64, ended: i64, worker: String, avoided: bool,
            failed: Option<(u8, u32, String)>, result: Vec<u8>,
        ) {
            let outcome = match &failed {
                Some((code, attempts, message)) => ReportOutcome::Failed {
                    class: ErrorClass::from_code(code % 9).expect("nine classes"), message, attempts: *attempts,
                },
                None => ReportOutcome::Succeeded { result: &result },
            };
            let message = RunMessage::Report(Report {
                call: CallId { seq, index }, attempt, started: Timestamp::from_millis(started),
                ended: Timestamp::from_millis(ended), worker: &worker, avoided, outcome,
            });
            let bytes = message.encode();
            prop_assert_eq!(RunMessage::decode(&bytes), Ok(message));
            prop_assert!(RunMessage::decode(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn damaged_bytes_are_an_error_and_no_panic(bytes: Vec<u8>) {
            let _outcome = RunMessage::decode(&bytes);
        }
    }

    #[test]
    fn the_runtimes_own_messages_pass_through() {
        let message = RunMessage::Host(70, b"anything");
        assert_eq!(message.encode(), b"Fanything");
        assert_eq!(RunMessage::decode(b"Fanything"), Ok(message));
        assert!(RunMessage::decode(&[]).is_err());
        assert!(RunMessage::decode(&[2]).is_err());
    }

    #[test]
    fn the_first_released_report_still_reads() {
        let report = Report {
            call: CallId { seq: 3, index: 1 },
            attempt: 2,
            started: Timestamp::from_millis(10),
            ended: Timestamp::from_millis(14),
            worker: "w",
            avoided: false,
            outcome: ReportOutcome::Failed {
                class: ErrorClass::Timeout,
                message: "late",
                attempts: 2,
            },
        };
        let stored = b"\x01\x00\x03\x01\x02\x14\x08\x01w\x05\x02\x04late";
        assert_eq!(report.encode(), stored);
        assert_eq!(RunMessage::decode(stored), Ok(RunMessage::Report(report)));
    }
}
