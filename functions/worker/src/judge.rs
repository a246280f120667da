//! What the end of a process and the shape of its output mean.

use std::time::Duration;

use celesta_functions::protocol::Failure as Said;
use celesta_functions::{INLINE_JSON_MAX, Manifest, Schema};
use celesta_types::ErrorClass;
use serde::de::IgnoredAny;

use crate::capture::last_lines;
use crate::files;
use crate::guard::{Cause, Status};
use crate::outcome::Failure;

/// The signal of the file-size limit.
const SIGXFSZ: i32 = 25;
/// The signal nobody can refuse.
const SIGKILL: i32 = 9;

pub(crate) fn timed_out(timeout: Duration) -> Failure {
    Failure::new(
        ErrorClass::Timeout,
        format!("took longer than {} ms", timeout.as_millis()),
    )
}

/// What the end of an `exec` process means.
pub(crate) fn judge(
    status: &Status,
    stdout: &[u8],
    stderr: &[u8],
    stdout_total: u64,
    timeout: Duration,
    memory_bytes: u64,
) -> Result<Vec<u8>, Failure> {
    if let Some(failure) = judge_cause(status, timeout, memory_bytes) {
        return Err(failure);
    }
    if status.exit_code != Some(0) {
        return Err(judge_exit(status, stdout, stderr));
    }
    if stdout_total > u64::try_from(INLINE_JSON_MAX).unwrap_or(u64::MAX) {
        return Err(files::too_large(
            usize::try_from(stdout_total).unwrap_or(usize::MAX),
        ));
    }
    let result = stdout.trim_ascii();
    if result.is_empty() {
        return Err(Failure::user(
            "the function printed nothing; expected one JSON value on standard output",
        ));
    }
    match serde_json::from_slice::<IgnoredAny>(result) {
        Ok(_) => Ok(result.to_vec()),
        Err(error) => {
            let shown: String = String::from_utf8_lossy(result).chars().take(200).collect();
            Err(Failure::user(format!(
                "standard output is not one JSON value: {error}; it begins with: {shown}"
            )))
        }
    }
}

/// What a limit or a loss means, whatever the function said; `None` when it ended by itself.
pub(crate) fn judge_cause(status: &Status, timeout: Duration, memory_bytes: u64) -> Option<Failure> {
    match status.cause {
        Cause::Timeout => Some(timed_out(timeout)),
        Cause::Memory => Some(Failure::new(
            ErrorClass::Resource,
            format!(
                "used {} MiB of memory, more than {} MiB",
                status.peak_memory_bytes >> 20,
                memory_bytes >> 20
            ),
        )),
        Cause::Processor => Some(Failure::new(
            ErrorClass::Resource,
            format!("used {} s of processor time", status.cpu_ms / 1_000),
        )),
        Cause::Unstartable => Some(Failure::user(status.reason.clone().unwrap_or_default())),
        Cause::Stopped => Some(Failure::new(ErrorClass::Node, "the process was stopped")),
        Cause::Orphaned => Some(Failure::new(
            ErrorClass::Node,
            status.reason.clone().unwrap_or_default(),
        )),
        Cause::Exited => match status.signal {
            Some(SIGXFSZ) => Some(Failure::new(
                ErrorClass::Resource,
                "a file grew beyond the disk limit",
            )),
            // Nobody of this platform did: as a rule it was the kernel, for want of memory.
            Some(SIGKILL) => Some(Failure::new(
                ErrorClass::Resource,
                "the process was killed, as a rule for want of memory",
            )),
            _ => None,
        },
    }
}

/// What a function that failed by itself said of it.
fn judge_exit(status: &Status, stdout: &[u8], stderr: &[u8]) -> Failure {
    let last = stderr
        .trim_ascii_end()
        .rsplit(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    if let Some(said) = Said::parse_envelope(stdout).or_else(|| Said::parse_envelope(last)) {
        return Failure::new(said.class, said.message);
    }
    let how = match (status.exit_code, status.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    };
    let lines = last_lines(stderr);
    Failure::user(if lines.is_empty() {
        how
    } else {
        format!("{how}: {lines}")
    })
}

pub(crate) fn check_input(manifest: &Manifest, input: &[u8]) -> Result<(), Failure> {
    manifest.input.as_ref().map_or(Ok(()), |schema| {
        check(schema, input, ErrorClass::Input, "the input")
    })
}

pub(crate) fn check_output(manifest: &Manifest, output: &[u8]) -> Result<(), Failure> {
    manifest.output.as_ref().map_or(Ok(()), |schema| {
        check(schema, output, ErrorClass::User, "the result")
    })
}

fn check(schema: &Schema, json: &[u8], class: ErrorClass, what: &str) -> Result<(), Failure> {
    let value = serde_json::from_slice(json)
        .map_err(|error| Failure::new(class, format!("{what} is not JSON: {error}")))?;
    let violations = schema.violations(&value);
    if violations.is_empty() {
        return Ok(());
    }
    let listed: Vec<String> = violations.iter().take(5).map(ToString::to_string).collect();
    Err(Failure::new(
        class,
        format!("{what} does not fit its schema: {}", listed.join("; ")),
    ))
}
