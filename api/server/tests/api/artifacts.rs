//! Blobs in and out.

use futures_util::stream;
use reqwest::{Body, Method};

use crate::bed::Bed;

/// SHA-256 of `abc`, as in FIPS 180.
const ABC: &str = "/v1/artifacts/sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[tokio::test]
async fn a_blob_is_stored_once_and_read_whole_or_in_part() {
    let bed = Bed::new().await;
    bed.get(ABC).await.is_problem(404, "no-such-artifact");
    let put = |body: &'static str| {
        bed.request(Method::PUT, ABC)
            .header("Content-Type", "text/plain")
            .body(body)
    };
    let stored = bed.send(put("abc")).await;
    assert_eq!(
        (stored.status, stored.json["size"].as_u64()),
        (201, Some(3)),
        "{stored:?}"
    );
    assert_eq!(bed.send(put("abc")).await.status, 200, "it was there");
    bed.send(put("abd")).await.is_problem(422, "digest-mismatch");
    let posted = bed
        .send(bed.request(Method::POST, "/v1/artifacts").body("abc"))
        .await;
    assert_eq!((posted.status, posted.header("location")), (201, ABC));

    let whole = bed.get(ABC).await;
    assert_eq!(
        (whole.status, whole.body.as_slice(), whole.header("content-type")),
        (200, b"abc".as_slice(), "text/plain")
    );
    assert!(whole.header("cache-control").contains("immutable"));
    let known = bed
        .send(
            bed.request(Method::GET, ABC)
                .header("If-None-Match", whole.header("etag")),
        )
        .await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let head = bed.send(bed.request(Method::HEAD, ABC)).await;
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, "3", 0)
    );

    for (range, content, content_range) in [
        ("bytes=1-1", "b", "bytes 1-1/3"),
        ("bytes=1-", "bc", "bytes 1-2/3"),
        ("bytes=-1", "c", "bytes 2-2/3"),
        ("bytes=0-99", "abc", "bytes 0-2/3"),
    ] {
        let part = bed
            .send(bed.request(Method::GET, ABC).header("Range", range))
            .await;
        assert_eq!(
            (part.status, part.body.as_slice()),
            (206, content.as_bytes()),
            "{range}"
        );
        assert_eq!(part.header("content-range"), content_range);
    }
    let outside = bed
        .send(bed.request(Method::GET, ABC).header("Range", "bytes=3-"))
        .await;
    outside.is_problem(416, "range-not-satisfiable");
    assert_eq!(outside.header("content-range"), "bytes */3");
    bed.stop().await;
}

#[tokio::test]
async fn a_wrong_digest_or_a_broken_upload_keeps_nothing() {
    let bed = Bed::new().await;
    let wrong = bed.send(bed.request(Method::PUT, ABC).body("not abc")).await;
    wrong.is_problem(422, "digest-mismatch");
    bed.get(ABC).await.is_problem(404, "no-such-artifact");
    bed.get("/v1/artifacts/sha256:00")
        .await
        .is_problem(400, "invalid-parameter");
    let pieces = [Ok("ab"), Err(std::io::Error::other("gone"))];
    let broken = bed
        .request(Method::POST, "/v1/artifacts")
        .body(Body::wrap_stream(stream::iter(pieces)));
    assert!(broken.send().await.is_err());
    assert_eq!(bed.send(bed.request(Method::HEAD, ABC)).await.status, 404);
    bed.stop().await;
}

#[tokio::test]
async fn a_large_blob_passes_through_in_pieces() {
    const PIECES: usize = 16;
    let bed = Bed::new().await;
    let pieces =
        (0..PIECES).map(|number| Ok::<_, std::io::Error>(vec![u8::try_from(number).unwrap_or(0); 1 << 20]));
    let upload = bed
        .request(Method::POST, "/v1/artifacts")
        .body(Body::wrap_stream(stream::iter(pieces)));
    let stored = bed.send(upload).await;
    assert_eq!(
        (stored.status, stored.json["size"].as_u64()),
        (201, Some(16 << 20)),
        "{:?}",
        stored.json
    );
    let back = bed
        .get(&format!(
            "/v1/artifacts/{}",
            stored.json["$artifact"].as_str().unwrap_or_default()
        ))
        .await;
    assert_eq!(back.body.len(), PIECES << 20);
    assert!(
        back.body
            .chunks(1 << 20)
            .zip(0_u8..)
            .all(|(piece, number)| piece.iter().all(|byte| *byte == number))
    );
    bed.stop().await;
}
