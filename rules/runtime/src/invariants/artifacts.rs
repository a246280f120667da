//! The artifacts that anything names: they exist, and they are what their digests say.

use std::collections::BTreeMap;

use celesta_types::Digest;

use super::{Blobs, Findings, Invariant};

/// The member of a JSON object that makes it a reference to an artifact.
const MEMBER: &[u8] = b"\"$artifact\"";
/// Before the hexadecimal digits of a digest.
const ALGORITHM: &[u8] = b"sha256:";
const DIGITS: usize = 64;

/// Digests that are named, and where first.
#[derive(Debug, Default)]
pub(super) struct Named(BTreeMap<[u8; 32], String>);

impl Named {
    pub(super) fn add(&mut self, digest: Digest, place: impl FnOnce() -> String) {
        self.0.entry(*digest.as_bytes()).or_insert_with(place);
    }

    /// Takes over every reference that stands in `bytes`, which hold JSON texts among other things.
    pub(super) fn add_all(&mut self, bytes: &[u8], place: impl Fn() -> String) {
        for digest in references(bytes) {
            self.add(digest, &place);
        }
    }
}

fn references(bytes: &[u8]) -> Vec<Digest> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(at) = find(rest, MEMBER) {
        rest = &rest[at + MEMBER.len()..];
        let value = rest
            .iter()
            .position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b':' | b'"'));
        let Some(value) = value.map(|at| &rest[at..]) else {
            break;
        };
        let digits = value
            .strip_prefix(ALGORITHM)
            .and_then(|digits| digits.get(..DIGITS));
        found.extend(digits.and_then(of_hex).map(Digest::from_bytes));
    }
    found
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == wanted[0]) {
        if bytes[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn of_hex(digits: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let high = char::from(*pair.first()?).to_digit(16)?;
        let low = char::from(*pair.get(1)?).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}

/// Looks at every artifact that is named.
pub(super) async fn check(named: Named, blobs: Blobs<'_>, findings: &mut Findings) {
    for (bytes, place) in named.0 {
        findings.artifacts += 1;
        let digest = Digest::from_bytes(bytes);
        match blobs.artifacts.path(&digest).await {
            Ok(Some(path)) if blobs.hash => match celesta_artifacts::digest_file(&path).await {
                Ok((found, _)) if found == digest => {}
                Ok((found, _)) => findings.report(
                    Invariant::ArtifactDigest,
                    digest,
                    format!("its content has the digest {found}; it is named by {place}"),
                ),
                Err(error) => findings.report(
                    Invariant::ArtifactDigest,
                    digest,
                    format!("{error}; it is named by {place}"),
                ),
            },
            Ok(Some(_)) => {}
            Ok(None) => findings.report(
                Invariant::ArtifactMissing,
                digest,
                format!("it is named by {place}"),
            ),
            Err(error) => findings.report(
                Invariant::ArtifactMissing,
                digest,
                format!("{error}; it is named by {place}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_among_other_bytes() {
        let digest = Digest::from_bytes([0xab; 32]);
        let text = format!(
            "\u{1}{{\"a\":{{\"$artifact\":\"{digest}\",\"size\":1}}}}\u{0}{{\"$artifact\" : \"{digest}\"}} \"$artifact\":\"sha256:short\" \"$artifact\""
        );
        assert_eq!(references(text.as_bytes()), [digest, digest]);
        assert!(references(format!("{{\"other\":\"{digest}\"}}").as_bytes()).is_empty());
    }
}
