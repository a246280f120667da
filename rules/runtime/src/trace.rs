//! Trace links: a run is a span, and the runs it asks for are spans below it.
//!
//! Nothing is stored for it: the span of a run is the lower half of its id, and a run that came without a trace is the root
//! of one that has the run's id.

use std::sync::Arc;

use celesta_types::TraceId;

use crate::head::RunHead;

/// The `traceparent` of a run that `parent` asks for: the same trace, below the parent's span.
pub(crate) fn child(parent: &RunHead) -> Arc<str> {
    let given = parent.trace.as_deref().and_then(read);
    let (trace, flags) = given.unwrap_or_else(|| (parent.run.bits(), 1));
    let span = parent.run.bits() & u128::from(u64::MAX);
    format!("00-{trace:032x}-{span:016x}-{flags:02x}").into()
}

/// The trace of a run's calls, when it has one.
pub(crate) fn id(head: &RunHead) -> Option<TraceId> {
    let (trace, _) = head.trace.as_deref().and_then(read)?;
    Some(TraceId::from_bits(trace))
}

/// Trace and flags of a W3C `traceparent`: `00-<32 hexadecimal digits>-<16>-<2>`.
fn read(traceparent: &str) -> Option<(u128, u8)> {
    let mut parts = traceparent.split('-').skip(1);
    let trace = parts.next().filter(|digits| digits.len() == 32)?;
    let trace = u128::from_str_radix(trace, 16).ok()?;
    let flags = parts.nth(1).and_then(|flags| u8::from_str_radix(flags, 16).ok());
    Some((trace, flags.unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_and_flags_are_read_and_nonsense_is_not() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        assert_eq!(read(text), Some((0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0)));
        for wrong in [
            "",
            "00",
            "00-0af7-b7-01",
            "00-zzf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
