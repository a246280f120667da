//! What the fuzz targets in `fuzz/` do with a handful of bytes; ordinary tests run the same bodies with fixed bytes.

pub(crate) mod choices;
pub(crate) mod parse;
pub(crate) mod sections;
