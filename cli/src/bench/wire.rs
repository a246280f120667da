//! HTTP/1.1 over one kept connection, as thin as it can be: the client shares two cores with the server it measures.
//!
//! It speaks only what the benches need: a request with a body, an answer with a `Content-Length`.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Answers of the benches are small; anything larger is an error.
const ANSWER_MAX: usize = 1024 * 1024;

/// A connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    host: String,
    out: Vec<u8>,
    answer: Vec<u8>,
}

/// An answer, borrowed from the connection until the next request.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Wire {
    /// Connects to `host`, an address and port.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(crate) async fn connect(host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            host: host.to_owned(),
            out: Vec::with_capacity(512),
            answer: Vec::with_capacity(4_096),
        })
    }

    /// Sends `body` as JSON to `path`; `headers` are whole lines.
    ///
    /// # Errors
    /// When the connection breaks or the answer is not understood.
    pub(crate) async fn post(&mut self, path: &str, headers: &str, body: &str) -> io::Result<Answer<'_>> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n",
            self.host,
            body.len()
        );
        self.exchange(&[head.as_bytes(), body.as_bytes()]).await
    }

    /// Reads `path`.
    ///
    /// # Errors
    /// As [`Wire::post`].
    pub(crate) async fn get(&mut self, path: &str) -> io::Result<Answer<'_>> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.exchange(&[head.as_bytes()]).await
    }

    async fn exchange(&mut self, parts: &[&[u8]]) -> io::Result<Answer<'_>> {
        self.out.clear();
        for part in parts {
            self.out.extend_from_slice(part);
        }
        self.stream.write_all(&self.out).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            if let Some(head) = Head::parse(&self.answer)? {
                let whole = head.length + head.body;
                while self.answer.len() < whole {
                    if self.stream.read_buf(&mut self.answer).await? == 0 {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                    }
                }
                return Ok(Answer {
                    status: head.status,
                    body: &self.answer[head.length..whole],
                });
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Bytes of the head itself.
    length: usize,
    /// Bytes of the body.
    body: usize,
}

impl Head {
    /// The head of an answer, once all of it is there.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return if bytes.len() > ANSWER_MAX {
                Err(wrong("the head of the answer does not end"))
            } else {
                Ok(None)
            };
        };
        let text =
            std::str::from_utf8(&bytes[..end]).map_err(|_| wrong("the head of the answer is no text"))?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let body = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map(|(_, value)| value.trim().parse::<usize>());
        let (Some(status), Some(Ok(body))) = (status, body) else {
            return Err(wrong("the answer has no status or no length"));
        };
        if body > ANSWER_MAX {
            return Err(wrong("the answer is too large"));
        }
        Ok(Some(Self {
            status,
            length: end + 4,
            body,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::Head;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let whole = b"HTTP/1.1 202 Accepted\r\nX: y\r\nContent-Length: 7\r\n\r\n";
        for cut in 0..whole.len() {
            assert!(Head::parse(&whole[..cut]).expect("no error yet").is_none());
        }
        assert_eq!(
            Head::parse(whole).expect("whole"),
            Some(Head {
                status: 202,
                length: whole.len(),
                body: 7
            })
        );
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }
}
