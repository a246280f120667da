//! The payload of a message on a function's queue: one request to run the function.

use celesta_types::wire::{Damaged, Reader, Writer};
use celesta_types::{CallId, Digest, RunId, TraceId};

/// Bytes of JSON that travel inline, as input or as result. Anything larger is an artifact.
pub const INLINE_JSON_MAX: usize = 32 * 1024;

/// The first byte of every invocation written by this release.
const VERSION: u8 = 1;

const HAS_ARTIFACTS: u8 = 1;
const HAS_TIMEOUT: u8 = 2;
const HAS_TRACE: u8 = 4;
const FRESH: u8 = 8;
const KNOWN_FLAGS: u8 = HAS_ARTIFACTS | HAS_TIMEOUT | HAS_TRACE | FRESH;

/// One request to run a function. Borrows from the payload it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invocation<'a> {
    /// The run that asks and that is told the outcome.
    pub run: RunId,
    /// Which of the run's calls this is.
    pub call: CallId,
    /// The service the function belongs to.
    pub service: &'a str,
    /// The function's name.
    pub function: &'a str,
    /// The version of the service whose files are used.
    pub bundle: Digest,
    /// The input, one JSON value, never parsed on the way.
    pub input: &'a [u8],
    /// Whether the input holds artifact references. False saves the worker from looking.
    pub has_artifacts: bool,
    /// The time one attempt may take when the call says so; else the manifest decides.
    pub timeout_ms: Option<u64>,
    /// The trace the call belongs to.
    pub trace: Option<TraceId>,
    /// Whether it is run even when a result is recorded.
    pub fresh: bool,
}

impl<'a> Invocation<'a> {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer =
            Writer::with_capacity(self.input.len() + self.service.len() + self.function.len() + 96);
        writer.byte(VERSION);
        let flag = |yes, bit| if yes { bit } else { 0 };
        writer.byte(
            flag(self.has_artifacts, HAS_ARTIFACTS)
                | flag(self.timeout_ms.is_some(), HAS_TIMEOUT)
                | flag(self.trace.is_some(), HAS_TRACE)
                | flag(self.fresh, FRESH),
        );
        writer.raw(&self.run.to_bytes());
        writer.uint(self.call.seq);
        writer.uint(u64::from(self.call.index));
        writer.raw(self.bundle.as_bytes());
        writer.text(self.service);
        writer.text(self.function);
        if let Some(timeout) = self.timeout_ms {
            writer.uint(timeout);
        }
        if let Some(trace) = self.trace {
            writer.raw(&trace.to_bytes());
        }
        writer.bytes(self.input);
        writer.finish()
    }

    /// Reads the stored form of any release up to this one.
    ///
    /// # Errors
    /// When the bytes are cut, damaged, or of a later release.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Damaged> {
        let mut reader = Reader::new(payload);
        if reader.byte()? != VERSION {
            return Err(Damaged {
                at: 0,
                what: "an invocation of version 1",
            });
        }
        let flags = reader.byte()?;
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Damaged {
                at: 1,
                what: "known flags of an invocation",
            });
        }
        let run = RunId::from_bits(u128::from_be_bytes(reader.array()?));
        let call = CallId {
            seq: reader.uint()?,
            index: reader.uint32()?,
        };
        let bundle = Digest::from_bytes(reader.array()?);
        let service = reader.text()?;
        let function = reader.text()?;
        let timeout_ms = if flags & HAS_TIMEOUT == 0 {
            None
        } else {
            Some(reader.uint()?)
        };
        let trace = if flags & HAS_TRACE == 0 {
            None
        } else {
            Some(TraceId::from_bits(u128::from_be_bytes(reader.array()?)))
        };
        let input = reader.bytes()?;
        Ok(Self {
            run,
            call,
            service,
            function,
            bundle,
            input,
            has_artifacts: flags & HAS_ARTIFACTS != 0,
            timeout_ms,
            trace,
            fresh: flags & FRESH != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_invocation_reads_back(
            run: u128, seq in 0_u64..1 << 44, index: u32, input: Vec<u8>, has_artifacts: bool,
            timeout_ms: Option<u64>, trace: Option<u128>, bundle: [u8; 32], fresh: bool,
        ) {
            let invocation = Invocation {
                run: RunId::from_bits(run), call: CallId { seq, index }, service: "greeter", function: "greet",
                bundle: Digest::from_bytes(bundle), input: &input, has_artifacts, timeout_ms,
                trace: trace.map(TraceId::from_bits), fresh,
            };
            let bytes = invocation.encode();
            prop_assert_eq!(Invocation::decode(&bytes), Ok(invocation));
            prop_assert!(Invocation::decode(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn damaged_bytes_are_an_error_and_no_panic(bytes: Vec<u8>) {
            let _outcome = Invocation::decode(&bytes);
        }
    }

    #[test]
    fn the_first_released_form_still_reads() {
        let invocation = Invocation {
            run: RunId::from_bits(1),
            call: CallId { seq: 300, index: 2 },
            service: "s",
            function: "f",
            bundle: Digest::from_bytes([7; 32]),
            input: b"{}",
            has_artifacts: true,
            timeout_ms: Some(5),
            trace: None,
            fresh: false,
        };
        let mut stored = vec![1, 3];
        stored.extend([0; 15]);
        stored.extend([1, 0xac, 2, 2]);
        stored.extend([7; 32]);
        stored.extend(b"\x01s\x01f\x05\x02{}");
        assert_eq!(invocation.encode(), stored);
        assert_eq!(Invocation::decode(&stored), Ok(invocation));
    }
}
