//! Hearing what other nodes say, by LISTEN and NOTIFY.

use std::time::Duration;

use sqlx::postgres::PgListener;

use super::{Arg, Call, Postgres};
use crate::error::QueryError;

/// How long after a lost or refused connection the next is tried.
const PAUSE: Duration = Duration::from_millis(500);

/// What was heard on the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Somebody said this.
    Said(String),
    /// The connection was lost, or has just been made: something may have been missed.
    Gap,
}

/// Listens on one channel.
#[derive(Debug)]
pub struct Listener {
    database: Postgres,
    channel: &'static str,
    listening: Option<PgListener>,
}

impl Postgres {
    /// Listens on `channel`; connects when it is first asked.
    #[must_use]
    pub fn listener(&self, channel: &'static str) -> Listener {
        Listener {
            database: self.clone(),
            channel,
            listening: None,
        }
    }

    /// Says `text` on `channel` to all listeners. It is heard even if nothing was written; it is not durable.
    ///
    /// # Errors
    /// When the database cannot be reached, or knows no channels.
    pub async fn notify(&self, channel: &'static str, texts: &[String]) -> Result<(), QueryError> {
        let call = Call {
            name: "notify",
            // News may be lost with the server: nobody waits for the disk.
            sql: "SELECT pg_notify($1, said), set_config('synchronous_commit', 'off', true) FROM UNNEST($2::text[]) AS said",
            args: vec![
                Arg::Text(Some(channel.into())),
                Arg::Texts(texts.iter().map(|text| Some(text.as_str().into())).collect()),
            ],
        };
        self.ask(&call).await.map(drop)
    }
}

impl Listener {
    /// The next thing heard. Connects again by itself.
    ///
    /// # Cancel safety
    /// May be dropped and asked again at any time.
    pub async fn heard(&mut self) -> Heard {
        loop {
            if let Some(listening) = &mut self.listening {
                if let Ok(Some(said)) = listening.try_recv().await {
                    return Heard::Said(said.payload().to_owned());
                }
                self.listening = None;
                return Heard::Gap;
            }
            match self.connect().await {
                Ok(listening) => {
                    self.listening = Some(listening);
                    return Heard::Gap;
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot listen");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn connect(&self) -> Result<PgListener, sqlx::Error> {
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(1)
            .connect_with(self.database.shared.options.clone())
            .await?;
        let mut listening = PgListener::connect_with(&pool).await?;
        listening.eager_reconnect(false);
        listening.listen(self.channel).await?;
        Ok(listening)
    }
}
