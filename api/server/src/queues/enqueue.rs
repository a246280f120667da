//! `POST /v1/queues/{queue}/messages`.

use axum::body::Body;
use axum::extract::Path;
use axum::http::HeaderMap;
use celesta_queue::limits::{ATTEMPTS_MAX, DELAY_MS_MAX};
use celesta_queue::{Enqueued, NewMessage, QueueName};
use celesta_types::{MessageId, Timestamp};

use super::envelope::{self, CONTENT_BYTES_MAX, Content, TEXT_BYTES_MAX};
use super::outcomes::Outcomes;
use super::shapes::{self, Enqueue, Instant, Message};
use super::{open_to_all, refuse};
use crate::problem::{Answer, Problem};
use crate::server::State;

/// Enqueue messages. They are durable when the answer comes.
#[utoipa::path(post, path = "/v1/queues/{queue}/messages", operation_id = "enqueue_messages", tag = "queues",
    params(("queue" = String, Path, description = "The queue, made on first use; a `/` in its name is written `%2F`.")),
    request_body = Enqueue,
    responses(
        (status = 200, description = "An outcome for each message: `enqueued`, `existing` or `refused` with its `problem`.", body = serde_json::Value),
        (status = "4XX", description = "Every message was refused, the first one for this reason.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn enqueue(
    shared: State,
    Path(queue): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let queue = open_to_all(&queue)?;
    let Enqueue { messages } = shapes::read(&shared, &headers, body).await?;
    shapes::batch("messages", messages.len())?;
    let now = shared.api.clock.now();
    let mut sent = Vec::with_capacity(messages.len());
    let mut read = Vec::with_capacity(messages.len());
    for message in messages {
        let made = MessageId::new(now, shared.random.next_u128());
        let id = message.id.clone().unwrap_or_else(|| made.to_string());
        read.push(match new_message(&queue, &message, &id, now) {
            Ok(message) => {
                sent.push(message);
                (id, None)
            }
            Err(problem) => (id, Some(problem)),
        });
    }
    // A batch of nothing but refusals reaches no queue, so it makes none.
    let taken = if sent.is_empty() {
        Vec::new()
    } else {
        let taken = shared.api.queues.enqueue(sent).await;
        taken.map_err(|error| refuse::whole(&error))?
    };
    let mut taken = taken.into_iter();
    let mut outcomes = Outcomes::default();
    for (id, refused) in read {
        if let Some(problem) = refused {
            outcomes.refuse(&id, problem);
            continue;
        }
        match taken.next() {
            Some(Ok(Enqueued::New)) => outcomes.done(&id, "enqueued", None),
            Some(Ok(Enqueued::Existing)) => outcomes.done(&id, "existing", None),
            Some(Err(error)) => outcomes.refuse(&id, refuse::enqueue(&error)),
            None => {}
        }
    }
    outcomes.answer()
}

/// The message as the queue takes it.
fn new_message(queue: &QueueName, message: &Message, id: &str, now: Timestamp) -> Answer<NewMessage> {
    let short = |what, text: &str| {
        if (1..=TEXT_BYTES_MAX).contains(&text.len()) {
            Ok(())
        } else {
            let bytes = text.len();
            Err(refuse::invalid_message(format!(
                "{what} has {bytes} bytes; expected 1 to {TEXT_BYTES_MAX}"
            )))
        }
    };
    short("the id", id)?;
    message
        .key
        .as_deref()
        .map_or(Ok(()), |key| short("the key", key))?;
    let decoded;
    let content = match (&message.payload, &message.payload_base64) {
        (Some(json), None) => Content::Json(json),
        (None, Some(text)) => {
            decoded = envelope::bytes_of(text)
                .map_err(|error| refuse::invalid_message(format!("payload_base64: {error}")))?;
            Content::Bytes(&decoded)
        }
        _ => {
            return Err(refuse::invalid_message(
                "a message has either `payload` or `payload_base64`",
            ));
        }
    };
    if content.len() > CONTENT_BYTES_MAX {
        return Err(refuse::payload_too_large(content.len(), CONTENT_BYTES_MAX));
    }
    // An id in our own form is the id, and need not travel twice.
    let own: Option<MessageId> = id.parse().ok();
    let payload = envelope::seal(own.is_none().then_some(id), message.key.as_deref(), content);
    let mut new = NewMessage::new(envelope::id_of(id), queue.clone(), payload);
    new.key = message.key.as_deref().map(envelope::key_of);
    if let Some(priority) = &message.priority {
        new.priority = priority.priority().map_err(refuse::invalid_message)?;
    }
    new.visible_at = visible_at(message, now)?;
    new.ttl_ms = message.ttl_ms;
    if let Some(attempts) = message.attempts_max {
        let attempts = u32::try_from(attempts).ok().filter(|attempts| *attempts > 0);
        new.attempts_max =
            Some(attempts.ok_or_else(|| {
                refuse::invalid_message(format!("attempts_max: expected 1 to {ATTEMPTS_MAX}"))
            })?);
    }
    new.fairness = message.fairness.as_deref().map(Into::into);
    new.metadata = message.metadata.clone().into_iter().collect();
    Ok(new)
}

fn visible_at(message: &Message, now: Timestamp) -> Result<Option<Timestamp>, Problem> {
    let reach = |at: Timestamp| {
        if at.as_millis() <= now.as_millis().saturating_add(DELAY_MS_MAX) {
            Ok(Some(at))
        } else {
            Err(refuse::invalid_message(format!(
                "the message would be delivered later than {DELAY_MS_MAX} ms from now"
            )))
        }
    };
    match (&message.visible_at, message.delay_ms) {
        (None, None) => Ok(None),
        (None, Some(delay)) if delay < 0 => Err(refuse::invalid_message(format!(
            "delay_ms is {delay}; expected 0 to {DELAY_MS_MAX}"
        ))),
        (None, Some(delay)) => reach(Timestamp::from_millis(now.as_millis().saturating_add(delay))),
        (Some(at), None) => reach(Instant::timestamp(at).map_err(refuse::invalid_message)?),
        (Some(_), Some(_)) => Err(refuse::invalid_message(
            "a message has `visible_at` or `delay_ms`, not both",
        )),
    }
}
