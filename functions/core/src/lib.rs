//! celesta-functions
