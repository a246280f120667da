//! The listener: connections are bounded in number and in silence, so that neither a flood of them nor senders that
//! never finish a request cost the descriptors a node needs.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use celesta_runtime::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections open at once; the next ones wait in the system's queue. Each costs a descriptor and some kilobytes.
const CONNECTIONS_MAX: usize = 16_384;

/// Connections the system takes before they are accepted; what comes beyond it tries again after a second. The system
/// bounds it too.
const BACKLOG: u32 = 4_096;

/// A connection on which nothing moves in either direction for so long is dropped: longer than `Prefer: wait` allows, and
/// than event streams are silent.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Listens on the first of the addresses `place` means that is free.
///
/// # Errors
/// When it means none, or none of them can be had.
pub(crate) async fn listen(place: &str) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "it means no address");
    for address in tokio::net::lookup_host(place).await? {
        let listening = || {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        match listening() {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Accepts connections while there is room.
#[derive(Debug)]
pub(crate) struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
    clock: Clock,
}

/// A connection and its room.
pub(crate) struct Connection {
    stream: TcpStream,
    clock: Clock,
    /// When something last moved, on the monotonic clock.
    moved: Duration,
    silence: Pin<Box<dyn Future<Output = ()> + Send>>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Bounded {
    pub(crate) fn new(listener: TcpListener, clock: Clock) -> Self {
        Self {
            listener,
            room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            clock,
        }
    }
}

impl Connection {
    fn new(stream: TcpStream, clock: Clock, room: Option<OwnedSemaphorePermit>) -> Self {
        let (moved, silence) = (clock.monotonic(), sleep(clock.clone(), SILENCE_MAX));
        Self {
            stream,
            clock,
            moved,
            silence,
            _room: room,
        }
    }

    /// Something moved, or nothing has for too long.
    fn heard<T>(&mut self, outcome: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.moved = self.clock.monotonic();
            return outcome;
        }
        while self.silence.as_mut().poll(context).is_ready() {
            let silent = self.clock.monotonic().saturating_sub(self.moved);
            let Some(left) = SILENCE_MAX.checked_sub(silent).filter(|left| !left.is_zero()) else {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            };
            self.silence = sleep(self.clock.clone(), left);
        }
        Poll::Pending
    }
}

fn sleep(clock: Clock, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move { clock.sleep(duration).await })
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed.
        let room = Arc::clone(&self.room).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Answers are small and awaited: no delay for more to send.
        stream.set_nodelay(true).ok();
        (Connection::new(stream, self.clock.clone(), room), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.heard(outcome, context)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.heard(outcome, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.heard(outcome, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use celesta_types::Timestamp;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_connection_on_which_nothing_moves_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (clock, hand) = Clock::manual(Timestamp::from_millis(0));
        let mut bounded = Bounded::new(listener, clock);
        let mut client = TcpStream::connect(address).await.expect("it listens");
        let (mut connection, _) = bounded.accept().await;
        let mut byte = [0];
        assert!(futures_util::poll!(Box::pin(connection.read(&mut byte))).is_pending());
        hand.advance(SILENCE_MAX / 2);
        client.write_all(b"x").await.expect("it is open");
        assert_eq!(connection.read(&mut byte).await.expect("a byte"), 1);
        hand.advance(SILENCE_MAX / 2);
        assert!(
            futures_util::poll!(Box::pin(connection.read(&mut byte))).is_pending(),
            "something moved meanwhile"
        );
        hand.advance(SILENCE_MAX / 2);
        let error = connection.read(&mut byte).await.expect_err("silence");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
