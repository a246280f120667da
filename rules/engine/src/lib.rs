//! The rule language and its engine: facts and events in, firings and effects out.
//!
//! A rules file is compiled once into a [`RuleSet`], which all runs share; each run has a [`WorkingMemory`]. A *turn* applies
//! events to it, fires rules until none is left and answers with the effects to carry out and the change of state to
//! keep. The engine is pure: it does no I/O, reads no clock, draws no random number and knows nothing of queues,
//! databases or HTTP; the same turns always have the same outcomes, byte for byte.
//!
//! The language is described in `docs/rules.md`. From the text to a firing: `syntax` cuts a file into declarations,
//! `compile` checks them and turns conditions into native tests, `memory::network` matches facts incrementally,
//! `memory::turn` is a turn and `memory::fire` a firing, `memory::section` is what sections may do, `memory::commit` takes it in.
//!
//! ```
//! use celesta_engine::{Environment, Event, Source, Turn, Value, WorkingMemory, compile};
//! use celesta_types::RunId;
//!
//! let source = Source {
//!     path: "rules/greet.rules".into(),
//!     text: r#"
//!         workflow greet;
//!         fact Guest { name: string, greeted: bool = false }
//!         rule "greet" {
//!             match  { guest: Guest where !guest.greeted; }
//!             action { guest.greeted = true; complete(#{ text: `Hello, ${guest.name}!` }); }
//!         }
//!     "#.into(),
//! };
//! let compiled = compile(&source, &Environment::default()).expect("the rules have no mistake");
//! let mut memory = WorkingMemory::new(&compiled.rules, RunId::from_bits(1));
//! let ada = Event::Insert { fact_type: "Guest".into(), value: Value::map([("name", Value::from("Ada"))]) };
//! let outcome = memory.turn(Turn { seq: 1, now_ms: 0, events: vec![ada] });
//! assert_eq!(outcome.firings.len(), 1);
//! ```

mod compile;
mod diagnostic;
mod diff;
mod expression;
mod facts;
mod graph;
mod limits;
mod meaning;
mod memory;
mod moves;
mod ruleset;
mod scripts;
mod shared;
mod steps;
mod syntax;
mod turn;
mod value;

pub use celesta_types::{CallId, ErrorClass, ErrorKind, RunId};
pub use compile::{Compiled, Environment, Source, compile, script_functions, section_functions};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use diff::{Activation, RulesDiff, diff};
pub use facts::{FactsError, read_facts, write_facts};
pub use graph::Graph;
pub use limits::Limits;
pub use meaning::{Meaning, meaning};
pub use memory::{
    ClauseReport, Explanation, FactView, Fired, NearMiss, RestoreError, UnknownRule, WorkingMemory,
};
pub use moves::{Break, FactMove, FactMoves, MoveMistake};
pub use ruleset::interest::Shape;
pub use ruleset::{FIELDS_MAX, FactType, Field, FieldKind, Rule, RuleSet};
pub use shared::{SharedFacts, SharedVersion};
pub use syntax::words::{Word, WordKind, words};
pub use turn::{
    CallError, CallOptions, Change, Effect, Event, FactChange, FactId, Fault, FiringRecord, OpenCall,
    Outcome, Section, Stopped, Stops, Turn,
};
pub use value::{Map, Text, VALUE_DEPTH_MAX, Value};
