//! What every long-lived part of a process needs: time, randomness, spawned work with a name and a fate, shutdown,
//! logs and metrics.
//!
//! It knows nothing of runs, queues or functions. Time and randomness are values handed in from here, so that a whole
//! platform can run in one process under a simulated clock.

mod clock;
pub mod metrics;
mod random;
mod shutdown;
mod telemetry;

pub use clock::{Clock, ManualClock};
pub use random::Random;
pub use shutdown::{Fate, Shutdown, TaskSet};
pub use telemetry::{LogFormat, start_logging};
