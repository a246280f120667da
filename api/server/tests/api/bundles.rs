//! Bundles that are refused: nothing of them is stored.

use celesta_bundle::{FileEntry, Files, pack};
use reqwest::Method;

use crate::bed::{Answer, Bed, hello};

/// A plain tar with one empty entry, its path and type as an attacker would write them (POSIX ustar).
fn entry(path: &str, kind: u8) -> Vec<u8> {
    let mut header = vec![0_u8; 512];
    header[..path.len()].copy_from_slice(path.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(b"00000000000");
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].fill(b' ');
    header[156] = kind;
    header[257..263].copy_from_slice(b"ustar\0");
    header[263..265].copy_from_slice(b"00");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend_from_slice(&[0; 1024]);
    header
}

async fn nothing_is_stored(bed: &Bed) {
    let listed = bed.get("/v1/services").await;
    assert_eq!(
        listed.json["rows"].as_array().map(Vec::len),
        Some(0),
        "{listed:?}"
    );
}

#[tokio::test]
async fn paths_that_escape_and_links_are_refused() {
    let bed = Bed::new().await;
    for (path, kind) in [
        ("../x", b'0'),
        ("/etc/x", b'0'),
        ("a/../../x", b'0'),
        ("link", b'2'),
        ("hard", b'1'),
        ("device", b'3'),
    ] {
        bed.push("bad", entry(path, kind))
            .await
            .is_problem(400, "bundle-path-escapes");
    }
    nothing_is_stored(&bed).await;
    bed.stop().await;
}

#[tokio::test]
async fn bombs_and_oversized_archives_are_refused() {
    let bed = Bed::new().await;
    let zeros = FileEntry {
        content: vec![0; 40 << 20],
        executable: false,
    };
    bed.push("bad", pack(&Files::from([("zeros".to_owned(), zeros)])))
        .await
        .is_problem(413, "bundle-too-large");
    bed.push("bad", vec![0x5a; (64 << 20) + 1])
        .await
        .is_problem(413, "bundle-too-large");
    nothing_is_stored(&bed).await;
    bed.stop().await;
}

#[tokio::test]
async fn what_is_no_archive_is_refused() {
    let bed = Bed::new().await;
    bed.push("bad", b"this is no archive".to_vec())
        .await
        .is_problem(400, "bundle-unreadable");
    let request = bed
        .request(Method::PUT, "/v1/services/bad")
        .header("Content-Type", "text/html")
        .body("<p>");
    bed.send(request).await.is_problem(415, "wrong-content-type");
    nothing_is_stored(&bed).await;
    bed.stop().await;
}

#[tokio::test]
async fn a_bundle_with_mistakes_is_refused_with_all_of_them() {
    let bed = Bed::new().await;
    let mut files = hello();
    files.insert(
        "rules/greet.rules".to_owned(),
        FileEntry::text("workflow greet;\nrule \"r\" { match { a: Nowhere; } action { } }\n"),
    );
    let refused = bed.push("hello", pack(&files)).await;
    refused.is_problem(422, "bundle-invalid");
    let errors = refused.json["errors"].as_array().cloned().unwrap_or_default();
    assert!(
        errors
            .iter()
            .any(|error| error["path"] == "rules/greet.rules" && error["line"] == 2),
        "{errors:?}"
    );
    bed.push("other", pack(&hello()))
        .await
        .is_problem(422, "bundle-invalid");
    nothing_is_stored(&bed).await;
    bed.stop().await;
}

#[tokio::test]
async fn the_same_content_is_the_same_version() {
    let bed = Bed::new().await;
    let first: Answer = bed.push_hello().await;
    assert_eq!(first.status, 201);
    let second = bed.push_hello().await;
    assert_eq!(
        (second.status, &second.json["version"]),
        (200, &first.json["version"])
    );
    let shown = bed.get("/v1/services/hello").await;
    let operations = shown.json["operations"].as_array().cloned().unwrap_or_default();
    let greet = operations
        .iter()
        .find(|operation| operation["name"] == "greet")
        .expect("the operation is shown");
    assert_eq!(greet["input"]["required"][0], "name", "with its schema: {greet}");
    bed.stop().await;
}
