//! The bodies of fuzzing: what is done with a handful of bytes.

pub(crate) mod choices;
pub(crate) mod parse;
pub(crate) mod sections;
