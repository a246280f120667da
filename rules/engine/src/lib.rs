//! celesta-engine
