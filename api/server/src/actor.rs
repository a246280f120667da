//! Who asks: the header `Celesta-Actor`, which the platform keeps in histories and does not check.

use axum::http::HeaderMap;
use celesta_runs::{ANONYMOUS, Wish};

use crate::problem::{Answer, Problem};
use crate::submit::text;

/// Bytes of a name.
const ACTOR_BYTES_MAX: usize = 256;

/// The name given, or that nobody said.
pub(crate) fn actor(headers: &HeaderMap) -> Answer<String> {
    let Some(actor) = text(headers, "celesta-actor")? else {
        return Ok(ANONYMOUS.to_owned());
    };
    if actor.is_empty() || actor.len() > ACTOR_BYTES_MAX {
        return Err(Problem::invalid_header(format!(
            "Celesta-Actor has 1 to {ACTOR_BYTES_MAX} characters, this one {}",
            actor.len()
        )));
    }
    Ok(actor.to_owned())
}

/// A wish of whoever asks.
pub(crate) fn wish(headers: &HeaderMap, reason: String) -> Answer<Wish> {
    Ok(Wish {
        reason,
        by: actor(headers)?,
    })
}
