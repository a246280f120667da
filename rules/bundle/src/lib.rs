//! celesta-bundle
