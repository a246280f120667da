//! `/v1/artifacts`: blobs in and out, streamed in constant memory.

use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use celesta_artifacts::{Error, Meta};
use celesta_types::Digest;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::body::{late, pieces};
use crate::problem::{Answer, Problem};
use crate::server::State;
use crate::submit::text;

/// Bytes read from disk and sent at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Store a blob under the digest it turns out to have.
#[utoipa::path(post, path = "/v1/artifacts", operation_id = "create_artifact", tag = "artifacts",
    request_body(content_type = "application/octet-stream", description = "The content; its `Content-Type` is kept."),
    responses((status = 201, description = "The reference of the artifact.", body = crate::openapi::Artifact)))]
pub(crate) async fn create(shared: State, headers: HeaderMap, body: Body) -> Answer {
    let kept = shared
        .api
        .artifacts
        .put(reader(&shared, body), media_type(&headers)?)
        .await
        .map_err(|error| refused(&error))?;
    let location = format!("/v1/artifacts/{}", kept.digest);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(kept)).into_response())
}

/// Store a blob whose digest is known.
#[utoipa::path(put, path = "/v1/artifacts/{digest}", operation_id = "put_artifact", tag = "artifacts",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits.")),
    request_body(content_type = "application/octet-stream", description = "The content; its `Content-Type` is kept."),
    responses(
        (status = 200, description = "It was there already.", body = crate::openapi::Artifact),
        (status = 201, description = "It is kept.", body = crate::openapi::Artifact),
        (status = 422, description = "The content has another digest; nothing is kept.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn write(
    shared: State,
    Path(digest): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let digest = parse(&digest)?;
    let known = shared
        .api
        .artifacts
        .stat(&digest)
        .await
        .map_err(|error| refused(&error))?;
    // Who asks before sending need not send; who sends anyway is read, and the digest is checked all the same.
    if let Some(Meta { size, media_type }) = &known
        && headers.contains_key(header::EXPECT)
    {
        let (size, media_type) = (*size, media_type.clone());
        return Ok((
            StatusCode::OK,
            Json(celesta_types::ArtifactRef {
                digest,
                size,
                media_type,
            }),
        )
            .into_response());
    }
    let kept = shared
        .api
        .artifacts
        .put_expecting(digest, reader(&shared, body), media_type(&headers)?)
        .await;
    let kept = kept.map_err(|error| refused(&error))?;
    let status = if known.is_some() {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok((status, Json(kept)).into_response())
}

/// Read a blob, or a range of it.
#[utoipa::path(get, path = "/v1/artifacts/{digest}", operation_id = "read_artifact", tag = "artifacts",
    params(
        ("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits."),
        ("Range" = Option<String>, Header, description = "One range of bytes.")),
    responses(
        (status = 200, description = "The content.", content_type = "application/octet-stream"),
        (status = 206, description = "The range.", content_type = "application/octet-stream"),
        (status = 304, description = "The client has it: content never changes."),
        (status = 404, description = "There is no such artifact.", body = crate::openapi::ProblemBody),
        (status = 416, description = "The range lies outside of the content.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn read(shared: State, Path(digest): Path<String>, headers: HeaderMap) -> Answer {
    let digest = parse(&digest)?;
    let meta = meta(&shared, &digest).await?;
    let tag = format!("\"{digest}\"");
    if text(&headers, "if-none-match")?.is_some_and(|known| known.contains(&tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let range = text(&headers, "range")?.and_then(|range| byte_range(range, meta.size));
    let range = range.transpose().map_err(|()| out_of_range(meta.size))?;
    let content = shared
        .api
        .artifacts
        .open_reader(&digest, range)
        .await
        .map_err(|error| refused(&error))?;
    let content = content.ok_or_else(|| missing(&digest))?;
    let (status, length) = match range {
        Some((from, to)) => (StatusCode::PARTIAL_CONTENT, to.min(meta.size - 1) - from + 1),
        None => (StatusCode::OK, meta.size),
    };
    let body = Body::from_stream(ReaderStream::with_capacity(content, CHUNK_BYTES));
    let mut response = (status, body).into_response();
    describe(&mut response, &meta, &tag, length);
    if let Some((from, to)) = range {
        set(
            &mut response,
            header::CONTENT_RANGE,
            &format!("bytes {from}-{}/{}", to.min(meta.size - 1), meta.size),
        );
    }
    Ok(response)
}

/// Size and media type of a blob.
#[utoipa::path(head, path = "/v1/artifacts/{digest}", operation_id = "head_artifact", tag = "artifacts",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits.")),
    responses((status = 200, description = "It is there."), (status = 404, description = "There is no such artifact.")))]
pub(crate) async fn head(shared: State, Path(digest): Path<String>) -> Answer {
    let digest = parse(&digest)?;
    let meta = meta(&shared, &digest).await?;
    let mut response = StatusCode::OK.into_response();
    describe(&mut response, &meta, &format!("\"{digest}\""), meta.size);
    Ok(response)
}

/// The whole content as a body.
pub(crate) async fn stream(shared: &State, digest: &Digest) -> Answer<Body> {
    let content = shared
        .api
        .artifacts
        .open_reader(digest, None)
        .await
        .map_err(|error| refused(&error))?;
    let content = content.ok_or_else(|| missing(digest))?;
    Ok(Body::from_stream(ReaderStream::with_capacity(
        content,
        CHUNK_BYTES,
    )))
}

fn parse(text: &str) -> Answer<Digest> {
    text.parse().map_err(Problem::invalid_parameter)
}

async fn meta(shared: &State, digest: &Digest) -> Answer<Meta> {
    let meta = shared
        .api
        .artifacts
        .stat(digest)
        .await
        .map_err(|error| refused(&error))?;
    meta.ok_or_else(|| missing(digest))
}

fn reader(shared: &State, body: Body) -> impl tokio::io::AsyncRead + Send + Unpin + use<> {
    StreamReader::new(pieces(shared.api.clock.clone(), body))
}

fn media_type(headers: &HeaderMap) -> Answer<Option<String>> {
    Ok(text(headers, "content-type")?.map(str::to_owned))
}

fn describe(response: &mut Response, meta: &Meta, tag: &str, length: u64) {
    let media_type = meta.media_type.as_deref().unwrap_or("application/octet-stream");
    set(response, header::CONTENT_TYPE, media_type);
    set(response, header::CONTENT_LENGTH, &length.to_string());
    set(response, header::ETAG, tag);
    set(response, header::ACCEPT_RANGES, "bytes");
    set(
        response,
        header::CACHE_CONTROL,
        "public, max-age=31536000, immutable",
    );
    // A stored page must not run as one of ours.
    set(response, header::CONTENT_SECURITY_POLICY, "sandbox");
    set(response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// The one range a client asks for, last byte included; none when it asks for several or in another unit, which a
/// server may ignore; an error when it lies outside.
fn byte_range(text: &str, size: u64) -> Option<Result<(u64, u64), ()>> {
    let spec = text.strip_prefix("bytes=")?;
    if spec.contains(',') {
        return None;
    }
    let (from, to) = spec.split_once('-')?;
    let range = match (from.trim(), to.trim()) {
        ("", last) => {
            let last: u64 = last.parse().ok()?;
            if last == 0 {
                (size, size)
            } else {
                (size.saturating_sub(last), size.saturating_sub(1))
            }
        }
        (from, "") => (from.parse().ok()?, size.saturating_sub(1)),
        (from, to) => (from.parse().ok()?, to.parse().ok()?),
    };
    Some(if range.0 >= size || range.1 < range.0 {
        Err(())
    } else {
        Ok(range)
    })
}

fn out_of_range(size: u64) -> Problem {
    let detail = format!("the artifact has {size} bytes");
    Problem::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "range-not-satisfiable",
        "the range lies outside of the content",
        detail,
    )
    .with("size", size.into())
    .with_content_range(size)
}

fn missing(digest: &Digest) -> Problem {
    let detail = format!("there is no artifact {digest}");
    Problem::new(
        StatusCode::NOT_FOUND,
        "no-such-artifact",
        "there is no such artifact",
        detail,
    )
}

fn refused(error: &Error) -> Problem {
    match error {
        Error::DigestMismatch { found, .. } => {
            let title = "the content has another digest";
            Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "digest-mismatch",
                title,
                error.to_string(),
            )
            .with("found", found.to_string().into())
        }
        Error::TooLarge { .. } => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "the content is too large",
            error.to_string(),
        ),
        Error::NotFound { digest } => missing(digest),
        Error::Range { size, .. } => out_of_range(*size),
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut => late(),
        Error::Io { .. } => Problem::failure(error.kind(), error),
    }
}

#[cfg(test)]
mod tests {
    use super::byte_range;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        assert_eq!(byte_range("bytes=0-9", 100), Some(Ok((0, 9))));
        assert_eq!(byte_range("bytes=90-", 100), Some(Ok((90, 99))));
        assert_eq!(byte_range("bytes=-10", 100), Some(Ok((90, 99))));
        assert_eq!(byte_range("bytes=-1000", 100), Some(Ok((0, 99))));
        assert_eq!(byte_range("bytes=100-", 100), Some(Err(())));
        assert_eq!(byte_range("bytes=5-4", 100), Some(Err(())));
        for ignored in ["bytes=0-1,5-6", "lines=1-2", "bytes=x-y", "bytes"] {
            assert_eq!(byte_range(ignored, 100), None, "{ignored}");
        }
    }
}
