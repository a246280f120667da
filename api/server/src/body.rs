//! Bodies that are held in memory: bounded in bytes and in time.
//!
//! What is streamed instead (artifacts) is bounded where it is stored; here stands only the bound on its silence.

use std::io;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::StatusCode;
use celesta_runtime::Clock;
use futures_util::{Stream, StreamExt as _, stream};

use crate::problem::{Answer, Problem};

/// A small body comes within this time, or its sender is gone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// A stream that is silent for so long is dead; long enough for a stalled link to recover.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Bytes of a refused body that are still read: a sender that sees its connection reset may never see the answer.
const DRAIN_BYTES_MAX: usize = 8 << 20;

/// Reads the whole body, at most `max` bytes within `patience`; `too_large` says what is wrong with more.
pub(crate) async fn whole(
    clock: &Clock,
    body: Body,
    max: usize,
    patience: Duration,
    too_large: impl FnOnce() -> Problem,
) -> Answer<Vec<u8>> {
    let read = async {
        let mut chunks = body.into_data_stream();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| broken(&error))?;
            if bytes.len() + chunk.len() > max {
                drain(chunks).await;
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    tokio::select! {
        answer = read => answer,
        () = clock.sleep(patience) => Err(late()),
    }
}

/// The body piece by piece; an error when it is silent for too long.
pub(crate) fn pieces(clock: Clock, body: Body) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin {
    Box::pin(stream::unfold(Some((clock, body.into_data_stream())), next))
}

type Source = (Clock, BodyDataStream);

/// The next piece; after an error there is none.
async fn next(source: Option<Source>) -> Option<(io::Result<Bytes>, Option<Source>)> {
    let (clock, mut chunks) = source?;
    tokio::select! {
        chunk = chunks.next() => match chunk? {
            Ok(chunk) => Some((Ok(chunk), Some((clock, chunks)))),
            Err(error) => Some((Err(io::Error::other(error)), None)),
        },
        () = clock.sleep(SILENCE_MAX) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
    }
}

async fn drain(mut chunks: BodyDataStream) {
    let mut drained = 0;
    while drained < DRAIN_BYTES_MAX
        && let Some(Ok(chunk)) = chunks.next().await
    {
        drained += chunk.len();
    }
}

fn broken(error: &axum::Error) -> Problem {
    let detail = format!("the body broke off: {error}");
    Problem::new(
        StatusCode::BAD_REQUEST,
        "body-incomplete",
        "the body is incomplete",
        detail,
    )
}

/// The answer to a body that does not come.
pub(crate) fn late() -> Problem {
    let detail = "the body did not come in time";
    Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        "request-timeout",
        "the request took too long",
        detail,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse() -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "too large", "")
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        let clock = Clock::system();
        let fits = whole(&clock, Body::from("abc"), 3, PATIENCE, refuse).await;
        assert_eq!(fits.expect("it fits"), b"abc");
        assert!(
            whole(&clock, Body::from("abcd"), 3, PATIENCE, refuse)
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_silent_body_is_given_up() {
        let (clock, hand) = Clock::manual(celesta_types::Timestamp::from_millis(0));
        let silent = || Body::from_stream(stream::pending::<io::Result<Bytes>>());
        let mut reading = Box::pin(whole(&clock, silent(), 3, PATIENCE, refuse));
        assert!(futures_util::poll!(&mut reading).is_pending());
        hand.advance(PATIENCE);
        assert!(reading.await.is_err());
        let mut pieces = pieces(clock.clone(), silent());
        let mut piece = Box::pin(pieces.next());
        assert!(futures_util::poll!(&mut piece).is_pending());
        hand.advance(SILENCE_MAX);
        let error = piece.await.expect("an error").expect_err("silence");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
