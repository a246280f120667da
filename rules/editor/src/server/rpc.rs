//! Messages on a stream: a header with the length, an empty line, JSON. And files as the protocol names them.

use std::fmt::Write as _;
use std::io::{BufRead, Read as _, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ServeError;

/// Bytes of a message: a file of the largest size, with every character escaped, and room to spare.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a header line.
const HEADER_BYTES_MAX: u64 = 4 << 10;

/// The next message; none when the stream has ended between two.
pub(crate) fn read(input: &mut impl BufRead) -> Result<Option<Value>, ServeError> {
    let mut length = None;
    let mut first = true;
    loop {
        let mut line = String::new();
        let read = input.by_ref().take(HEADER_BYTES_MAX).read_line(&mut line)?;
        if read == 0 && first {
            return Ok(None);
        }
        if !line.ends_with('\n') {
            return Err(ServeError::Protocol("a header that does not end".to_owned()));
        }
        first = false;
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<u64>().ok();
        }
    }
    let length = length
        .filter(|length| *length <= MESSAGE_BYTES_MAX)
        .ok_or_else(|| {
            ServeError::Protocol(format!("a message without a length up to {MESSAGE_BYTES_MAX}"))
        })?;
    let mut body = Vec::new();
    input.by_ref().take(length).read_to_end(&mut body)?;
    serde_json::from_slice(&body)
        .map(Some)
        .map_err(|error| ServeError::Protocol(error.to_string()))
}

/// Writes a message.
pub(crate) fn write(output: &mut impl Write, message: &Value) -> std::io::Result<()> {
    let body = message.to_string();
    write!(output, "Content-Length: {}\r\n\r\n{body}", body.len())?;
    output.flush()
}

/// The file that a URI names, when it is one.
pub(crate) fn path_of(uri: &str) -> Option<PathBuf> {
    let rest = uri.strip_prefix("file://")?;
    let path = &rest[rest.find('/')?..];
    let mut bytes = Vec::with_capacity(path.len());
    let mut letters = path.bytes();
    while let Some(byte) = letters.next() {
        if byte == b'%' {
            let digits = [letters.next()?, letters.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

/// The URI of a file.
pub(crate) fn uri_of(path: &Path) -> String {
    let mut uri = "file://".to_owned();
    for byte in path.to_string_lossy().bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            write!(uri, "%{byte:02X}").expect("a string takes everything");
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let message = serde_json::json!({ "method": "a \u{1f600} b" });
        let mut bytes = Vec::new();
        write(&mut bytes, &message).expect("memory takes everything");
        write(&mut bytes, &message).expect("memory takes everything");
        let mut input = bytes.as_slice();
        for _ in 0..2 {
            assert_eq!(read(&mut input).expect("a message"), Some(message.clone()));
        }
        assert_eq!(read(&mut input).expect("the end"), None);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in [
            "hello\r\n\r\n{}",
            "Content-Length: 99999999999\r\n\r\n{}",
            "Content-Length: 2\r\n\r\n{",
        ] {
            assert!(read(&mut text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_with_spaces_survives_as_a_uri() {
        let path = Path::new("/a b/\u{e4}.rules");
        assert_eq!(uri_of(path), "file:///a%20b/%C3%A4.rules");
        assert_eq!(path_of(&uri_of(path)).as_deref(), Some(path));
    }
}
