//! celesta-server
