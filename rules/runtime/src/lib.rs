//! The durable runtime: requests become runs, runs take turns, turns become durable in one commit each.
//!
//! A [`Runtime`] accepts requests ([`Runtime::submit`]), evaluates turns on threads of its own, keeps services and
//! their versions ([`Runtime::push`]), and answers what stands in the journal. It leases from the exclusive queue and
//! sends to the functions' queues; it runs no function and knows no HTTP.
//!
//! Start reading at `turn.rs` (one turn), then `evaluate.rs` (where turns come from) and `record.rs` (what is kept).
//! What holds of a store at every instant is in `invariants.rs`.

mod archive;
mod cache;
mod cluster;
mod evaluate;
mod events;
mod everywhere;
mod facts;
mod gate;
mod gates;
mod head;
mod history;
pub mod invariants;
mod lifecycle;
mod live;
mod load;
mod message;
mod operations;
mod orders;
mod query;
pub mod record;
mod registry;
mod release;
mod restart;
mod runtime;
mod schema;
mod send;
mod shared;
mod state;
mod steering;
mod step;
mod submit;
mod sweep;
mod trace;
mod turn;
mod under_way;
mod view;
mod watch;

pub use cluster::{
    CLUSTER_MIGRATIONS, ClusterConfig, ClusterParts, DATABASE_NAME_MAX, DATABASES_MAX, Databases,
    DatabasesError, Drain, MAIN_DATABASE, MAIN_SCHEMA, Member, MoveError, NodeSeen, OpenError,
    PARTITION_MIGRATIONS, PARTITIONS, PartitionSeen, Partitions,
};
pub use events::{CloudEvent, DeliveryView, EVENTS_MAX, PublishError, Published};
pub use facts::{FactWrite, WRITES_MAX, WriteError, WriteFacts, Written};
pub use gate::WAITING_MAX;
pub use lifecycle::{ANONYMOUS, Action, CLONED_FROM, LifecycleError, REASON_BYTES_MAX, Wish};
pub use load::LoadError;
pub use operations::{
    Bulk, IllegalOperationStep, OPERATION_RATE, OPERATION_RATE_MAX, OperationError, OperationState,
    OperationStep, OperationView,
};
pub use orders::{OrderError, OrderView};
pub use query::{ExplainError, PAGE_ROWS_MAX};
pub use registry::{PushError, Pushed, Version, Versions};
pub use release::{
    Broken, Canary, Release, ReleaseError, ReleaseKind, RulePreview, Share, TakenBack, WorkflowPreview,
};
pub use restart::{RESTARTED_FROM, Restart, RestartError};
pub use runtime::{EventStream, Parts, Runtime, RuntimeConfig, RuntimeError};
pub use schema::MIGRATIONS;
pub use send::REUSE;
pub use shared::{
    SHARED_BYTES_MAX, SHARED_FACT_BYTES_MAX, SHARED_FACTS_MAX, SHARED_RETRACTED_KEPT, SHARED_VERSIONS_KEPT,
    SHARED_WRITES_MAX, SharedOutcome, SharedWrite, SharedWritten, WriteShared, WriteSharedError, lead,
};
pub use state::{IllegalStep, RunState, RunStep};
pub use steering::BREAKPOINTS_MAX;
pub use step::Turns;
pub use submit::{Submit, SubmitError, Submitted};
pub use sweep::{
    IllegalSweepStep, NewSweep, Order, SWEEP_KEYS_MAX, SWEEP_RATE, SWEEP_RATES, SWEEPS_KEPT, SWEEPS_OPEN_MAX,
    Selection, SweepError, SweepFilter, SweepState, SweepStep, SweepView, SweepsFilter, Swept,
};
pub use view::{
    CallErrorView, CallState, CallView, CauseView, EffectView, FactView, FiringView, GateView, Page,
    ProgressView, RunEvent, RunFilter, RunView, SharedFactView, StoppedBy, StoppedView, TurnView,
};
