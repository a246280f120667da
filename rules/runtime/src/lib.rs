//! celesta-runs
