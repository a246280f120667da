//! How one attempt ended, before it is decided what follows.

use celesta_types::ErrorClass;

use crate::attempts::Output;

/// Bytes of an error message: it travels to the run and is shown to people.
const MESSAGE_MAX: usize = 4_000;

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) class: ErrorClass,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_MAX {
            let cut = message
                .char_indices()
                .map(|(at, _)| at)
                .take_while(|&at| at <= MESSAGE_MAX)
                .last()
                .unwrap_or(0);
            message.truncate(cut);
            message.push_str(" …");
        }
        Self { class, message }
    }

    pub(crate) fn user(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::User, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Internal, message)
    }
}

/// How one attempt ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) result: Result<Vec<u8>, Failure>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}
