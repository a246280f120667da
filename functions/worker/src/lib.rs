//! celesta-worker
