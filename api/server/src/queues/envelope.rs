//! How the world's texts and values become the queue's: ids and keys of 128 bits, payloads of bytes, and back.
//!
//! Producers name messages and keys with texts of their own. The queue knows 128 bits: an id in our own form
//! (`msg_…`) stands for itself, any other text for its digest. So that consumers get back what producers wrote, the
//! text travels with the payload, in an envelope of at most half a kilobyte in front of it. A payload without an
//! envelope, put into the queue by another part of the platform, is shown as it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use celesta_queue::{Key, Payload};
use celesta_types::MessageId;
use serde::Serialize;
use serde_json::value::RawValue;

/// What an envelope begins with: no JSON and no UTF-8 text begins with these bytes. The last one is its version.
const MARK: [u8; 3] = [0xce, 0x1e, 1];
/// The payload is bytes, not JSON.
const BYTES: u8 = 1;
/// Bytes of a producer's id or key: two of them and the rest of the envelope stay below the half kilobyte that the
/// queue allows beside the content.
pub(crate) const TEXT_BYTES_MAX: usize = 250;
/// Bytes of a payload's content.
pub(crate) const CONTENT_BYTES_MAX: usize = 32 * 1024;

/// The id a producer's text stands for.
pub(crate) fn id_of(text: &str) -> MessageId {
    text.parse().unwrap_or_else(|_| MessageId::from_producer(text))
}

/// The key a producer's text stands for.
pub(crate) fn key_of(text: &str) -> Key {
    Key::from_text(text)
}

/// What a message says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content<'a> {
    /// JSON as it was written.
    Json(&'a RawValue),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl Content<'_> {
    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Json(json) => json.get().len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// Puts content, id and key into one payload. The texts have at most [`TEXT_BYTES_MAX`] bytes.
pub(crate) fn seal(id: Option<&str>, key: Option<&str>, content: Content<'_>) -> Payload {
    let (kind, content) = match content {
        Content::Json(json) => (0, json.get().as_bytes()),
        Content::Bytes(bytes) => (BYTES, bytes),
    };
    let mut sealed = Vec::with_capacity(content.len() + 2 * TEXT_BYTES_MAX);
    sealed.extend_from_slice(&MARK);
    sealed.push(kind);
    for text in [id, key] {
        let text = text.unwrap_or_default().as_bytes();
        sealed.push(u8::try_from(text.len()).unwrap_or(0));
        sealed.extend_from_slice(text);
    }
    sealed.extend_from_slice(content);
    sealed.into()
}

/// An opened payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened<'a> {
    /// The producer's id, unless it was in our own form.
    pub(crate) id: Option<&'a str>,
    /// The producer's key.
    pub(crate) key: Option<&'a str>,
    is_bytes: bool,
    content: &'a [u8],
}

/// The content as it stands in an answer: `payload` when it is JSON, else `payload_base64`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

/// Takes a payload apart.
pub(crate) fn open(payload: &[u8]) -> Opened<'_> {
    enveloped(payload).unwrap_or(Opened {
        id: None,
        key: None,
        is_bytes: false,
        content: payload,
    })
}

/// What a message's producer has sent, without the envelope: JSON, or bytes.
#[must_use]
pub fn content(payload: &[u8]) -> &[u8] {
    open(payload).content
}

fn enveloped(payload: &[u8]) -> Option<Opened<'_>> {
    let (kind, rest) = payload.strip_prefix(&MARK)?.split_first()?;
    let (id, rest) = text(rest)?;
    let (key, content) = text(rest)?;
    Some(Opened {
        id,
        key,
        is_bytes: *kind == BYTES,
        content,
    })
}

/// A text after its length; none when it is empty.
fn text(bytes: &[u8]) -> Option<(Option<&str>, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    let text = std::str::from_utf8(text).ok()?;
    Some(((!text.is_empty()).then_some(text), rest))
}

impl Opened<'_> {
    /// The id as its producer wrote it.
    pub(crate) fn id_text(&self, id: MessageId) -> String {
        self.id.map_or_else(|| id.to_string(), str::to_owned)
    }

    /// The key as its producer wrote it; its bits when another part of the platform has set it.
    pub(crate) fn key_text(&self, key: Key) -> String {
        self.key
            .map_or_else(|| format!("{:032x}", key.bits()), str::to_owned)
    }

    /// The content as it stands in an answer.
    pub(crate) fn shown(&self) -> Shown {
        let json = (!self.is_bytes)
            .then(|| serde_json::from_slice::<Box<RawValue>>(self.content).ok())
            .flatten();
        match json {
            Some(json) => Shown {
                payload: Some(json),
                payload_base64: None,
            },
            None => Shown {
                payload: None,
                payload_base64: Some(BASE64.encode(self.content)),
            },
        }
    }
}

/// Reads base 64, with padding.
pub(crate) fn bytes_of(text: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(payload: &[u8]) -> String {
        serde_json::to_string(&open(payload).shown()).expect("it serializes")
    }

    #[test]
    fn what_was_sealed_is_found_again() {
        let json = RawValue::from_string("{\"n\": 1}".to_owned()).expect("JSON");
        let sealed = seal(Some("order-1"), None, Content::Json(&json));
        let opened = open(&sealed);
        assert_eq!((opened.id, opened.key), (Some("order-1"), None));
        assert_eq!(shown(&sealed), "{\"payload\":{\"n\": 1}}");
        let sealed = seal(None, Some("kunde-ö"), Content::Bytes(b"\x00\xff"));
        assert_eq!(open(&sealed).key, Some("kunde-ö"));
        assert_eq!(shown(&sealed), "{\"payload_base64\":\"AP8=\"}");
    }

    #[test]
    fn payloads_of_others_are_shown_as_they_are() {
        assert_eq!(shown(b"[1,2]"), "{\"payload\":[1,2]}");
        assert_eq!(shown(b"plain"), "{\"payload_base64\":\"cGxhaW4=\"}");
        assert_eq!(shown(b""), "{\"payload_base64\":\"\"}");
        // Cut off in the middle of a length or a text: no envelope.
        for broken in [&MARK[..], &[0xce, 0x1e, 1, 0], &[0xce, 0x1e, 1, 0, 9, b'a']] {
            assert_eq!(open(broken).content, broken);
        }
    }

    #[test]
    fn the_largest_envelope_fits_beside_the_largest_content() {
        let text = "x".repeat(TEXT_BYTES_MAX);
        let content = vec![0; CONTENT_BYTES_MAX];
        let sealed = seal(Some(&text), Some(&text), Content::Bytes(&content));
        assert!(sealed.len() <= celesta_queue::limits::PAYLOAD_BYTES_MAX);
    }

    #[test]
    fn ids_of_our_own_form_stand_for_themselves() {
        let own = MessageId::from_bits(77);
        assert_eq!(id_of(&own.to_string()), own);
        assert_eq!(id_of("order-1"), id_of("order-1"));
        assert_ne!(id_of("order-1"), id_of("order-2"));
    }
}
