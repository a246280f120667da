//! Workers with real processes: both protocols, their limits, and what is left behind.

mod bed;
mod durable;
mod elsewhere;
mod exec;
mod files;
mod limits;
mod orphans;
mod serve;
mod stage;
