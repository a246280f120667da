//! Logs: one subscriber for the process, on standard error, as text for people or as JSON for machines.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Libraries that would print the payloads they carry; what the filter itself says about them counts more.
const DISCREET: &str = "lapin=error";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error; `filter` is a `tracing` directive such as `info,celesta_queue=debug`. Only the
/// first call of a process has an effect.
pub fn start_logging(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(format!("{DISCREET},{filter}"))
        .unwrap_or_else(|_| EnvFilter::new(format!("{DISCREET},info")));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second start finds the first one in place: that is what the documentation promises.
    match format {
        LogFormat::Text => lines.finish().try_init().ok(),
        LogFormat::Json => lines.json().finish().try_init().ok(),
    };
}
