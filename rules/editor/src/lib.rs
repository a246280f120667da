//! What an author's editor asks about rules files: how they are laid out, and what stands where.
//!
//! [`format`] lays out a file without changing what it says.
//!
//! This crate knows neither the network nor processes nor the store. It reads the files of a bundle's folder and never
//! writes one: changes are answers, made by the editor or the command line.

mod format;

pub use format::{FormatError, WIDTH, format};
