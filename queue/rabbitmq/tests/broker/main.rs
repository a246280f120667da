//! The road on a real broker: both ends, what they promise, and what the broker can do to them.
//!
//! The broker is at 127.0.0.1:5672, or where `CELESTA_TEST_RABBITMQ` says. Each test has names of its own in it. Tests
//! that restart or choke the broker run while no other does; they need `rabbitmqctl` on this machine.

mod flow;
mod recovery;
mod support;
