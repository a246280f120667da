//! What an author pushes: the files of a service, checked whole, packed, named by their content, and tested.
//!
//! A [`Bundle`] is the checked form of a folder with a `service.toml`, rules, functions and schemas. [`read_folder`] and
//! [`write_folder`] are its only contact with the file system; [`pack`] and [`unpack`] are how it travels; [`digest`]
//! is the name of a version. [`scenario`] runs a bundle's tests under virtual time.
//!
//! This crate knows neither network nor store nor processes: checking and testing a bundle needs nothing but the
//! bundle. The runtime keeps versions, the worker runs functions, the command line shows what is found here.

mod archive;
mod bundle;
mod concurrency;
mod diagnostic;
mod files;
mod operation;
mod retention;
pub mod scenario;
mod service;
mod subscription;
mod toml_text;
mod versions;
mod workflow;

pub use archive::{UnpackError, UnpackLimits, pack, unpack};
pub use bundle::Bundle;
pub use celesta_functions::{Schema, VIOLATIONS_MAX, Violation};
pub use concurrency::{Limit, ParseStrategyError, Pointer, Strategy};
pub use diagnostic::{BundleErrors, Diagnostic, Severity};
pub use files::{
    BYTES_MAX, FILES_MAX, FileEntry, Files, FolderError, PATH_BYTES_MAX, digest, is_left_out, read_folder,
    write_folder,
};
pub use operation::{Operation, RequestError};
pub use retention::Retention;
pub use service::SERVICE_FILE;
pub use subscription::{Correlation, Delivery, Mapping, Pattern, Subscription};
pub use versions::{VersionPolicy, Versions};
pub use workflow::Workflow;
