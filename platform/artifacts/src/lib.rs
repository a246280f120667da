//! celesta-artifacts
