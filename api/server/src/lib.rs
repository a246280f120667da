//! The HTTP API: services, runs, queues, artifacts, health; problems per RFC 9457; `OpenAPI` 3.1.
//!
//! `Config` → [`Server::bind`] → [`Server::spawn`]. One file per resource. This crate validates what is HTTP's (paths,
//! headers, sizes, content types) and leaves meaning to the runtime; it stores nothing itself.

mod actor;
mod artifacts;
mod body;
mod guard;
mod health;
mod listen;
mod openapi;
mod operations;
mod orders;
mod problem;
mod publish;
mod queues;
mod run_events;
mod runs;
mod server;
mod services;
mod shared_facts;
mod steer;
mod submit;
mod sweeps;

pub use openapi::document;
pub use problem::CODES;
pub use queues::content;
pub use server::{Api, BindError, Server, ServerConfig};
