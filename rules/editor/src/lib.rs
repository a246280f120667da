//! What an author's editor asks about rules files: how they are laid out, and what stands where.
//!
//! [`format()`] lays out a file without changing what it says. [`serve`] is a language server: it answers an editor while
//! somebody types, whatever is wrong with the file.
//!
//! This crate knows neither the network nor processes nor the store. It reads the files of a bundle's folder and never
//! writes one: changes are answers, made by the editor or the command line.

mod answers;
mod complete;
mod document;
mod format;
mod index;
mod language;
mod outline;
mod rename;
mod server;
mod surroundings;

pub use format::{FormatError, WIDTH, format};
pub use server::{ServeError, serve};
