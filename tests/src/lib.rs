//! celesta-tests
