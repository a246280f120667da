//! Where the broker is, and how to reach it, without ever showing its password.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use celesta_types::ErrorKind;
use lapin::uri::AMQPUri;

use crate::limits::{CONNECT_TIME, HEARTBEAT_S};

/// The address of a broker: `amqp://user:password@host:port/vhost`, or `amqps://` for TLS.
#[derive(Clone)]
pub struct BrokerUrl {
    pub(crate) uri: Arc<AMQPUri>,
}

/// A text that is not the address of a broker. It is not repeated: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the address of a broker ({reason}); expected amqp://user:password@host:port/vhost")]
pub struct UrlError {
    /// What is wrong with it.
    pub reason: String,
}

impl UrlError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl FromStr for BrokerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut uri: AMQPUri = text.parse().map_err(|reason: String| UrlError {
            reason: if reason.contains(text) {
                "it cannot be read".to_owned()
            } else {
                reason
            },
        })?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        uri.query
            .connection_timeout
            .get_or_insert_with(|| u64::try_from(CONNECT_TIME.as_millis()).unwrap_or(u64::MAX));
        if uri.vhost.is_empty() {
            // A trailing slash is what people write for the broker's default.
            "/".clone_into(&mut uri.vhost);
        }
        Ok(Self { uri: Arc::new(uri) })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = &self.uri.authority;
        let scheme = match self.uri.scheme {
            lapin::uri::AMQPScheme::AMQP => "amqp",
            lapin::uri::AMQPScheme::AMQPS => "amqps",
        };
        let vhost = self.uri.vhost.replace('/', "%2f");
        write!(
            f,
            "{scheme}://{}:***@{}:{}/{vhost}",
            authority.userinfo.username, authority.host, authority.port
        )
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let url: BrokerUrl = "amqp://guest:s3cret@10.0.0.7:5673/".parse().expect("an address");
        assert_eq!(url.to_string(), "amqp://guest:***@10.0.0.7:5673/%2f");
        assert_eq!(format!("{url:?}"), url.to_string());
        for wrong in ["http://u:s3cret@host", "amqp//u:s3cret@host", "s3cret"] {
            let error = BrokerUrl::from_str(wrong).expect_err("no address");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
